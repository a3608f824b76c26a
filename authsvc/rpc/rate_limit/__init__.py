"""The handlers of RateLimitService."""
