"""Owns login attempts: charged before they are evaluated, refunded on success.

Entry classes: `Attempts`, `BruteForce` and `RecentLogin`.
"""
