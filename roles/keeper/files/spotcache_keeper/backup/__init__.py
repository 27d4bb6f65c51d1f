"""A copy is created, and restored."""
