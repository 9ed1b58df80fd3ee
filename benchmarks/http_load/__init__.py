"""Load through the real service: what it can take, and what its answers cost in time on the way there."""
