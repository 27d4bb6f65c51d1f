"""Redis: its wire, its container, its files."""
