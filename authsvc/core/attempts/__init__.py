"""Owns attempts to prove who one is: charged before they are evaluated, refunded on success.

Entry classes: `Attempts`, `BruteForce` and `RecentLogin`.
"""
