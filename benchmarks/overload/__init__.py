"""What the service does under more than it can take: what one caller's flood costs another, and what is left of its rate."""
