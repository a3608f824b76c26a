"""Owns rate limits and blocked addresses: policies, decisions, violations, and screening.

Entry classes: `RateLimiter`, `Screening` and `IpBlocking`.
"""
