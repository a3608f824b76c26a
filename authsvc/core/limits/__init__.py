"""Owns rate limits and blocked addresses: policies, decisions, violations, and screening.

Entry classes: `RateLimiter`, `Policies`, `Screening` and `IpBlocking`.
"""
