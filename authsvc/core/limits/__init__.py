"""Owns rate limits: policies, decisions, and the memory of recent rejections.

Entry class: `RateLimiter`.
"""
