"""A service under steady load for a long time, a tenth of it hostile; see `__main__`."""
