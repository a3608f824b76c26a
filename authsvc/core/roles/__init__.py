"""Owns roles: which a new user has, and what users with some roles may do.

Entry class: `Permissions`.
"""
