"""Documents of a query to pages that the model takes: gathered, looked up in the page cache, rendered."""
