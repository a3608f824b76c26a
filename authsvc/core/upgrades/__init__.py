"""Owns the plan of an upgrade: what it would do to the database, for how long, and the obstacles.

Entry class: `UpgradePlan`.
"""
