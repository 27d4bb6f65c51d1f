"""The host's life: it boots, is watched, and is drained."""
