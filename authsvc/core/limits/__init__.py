"""Owns rate limits: policies, decisions, and the cache of recent rejections.

Entry classes: `RateLimiter`, `Policies`.
"""
