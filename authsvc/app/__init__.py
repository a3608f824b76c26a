"""The running service: its composition, its ports and its background jobs."""
