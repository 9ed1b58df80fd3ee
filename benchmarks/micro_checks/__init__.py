"""Short measurements of what the design takes for granted about a card."""
