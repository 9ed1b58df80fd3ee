"""Documents fetched from URLs: places and bytes for requests, one exchange with a server, redirects with a check of each."""
