"""The running service: its parts put together, its ports, and its background work."""
