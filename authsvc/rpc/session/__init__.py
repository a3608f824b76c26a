"""The handlers of SessionService."""
