"""What hostile clients cost the others."""
