"""Untrusted bytes to pixels, in worker processes that may be killed."""
