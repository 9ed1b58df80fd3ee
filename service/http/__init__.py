"""The HTTP edge: exchange, callers, admission, the table of routes and the routes themselves. Knows the web framework."""
