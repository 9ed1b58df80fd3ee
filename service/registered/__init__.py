"""Registered documents: their store, and the background work that renders and encodes them ahead of requests."""
