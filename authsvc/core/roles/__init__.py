"""Owns roles: those of a new user, and the permissions they grant.

Entry class: `Permissions`.
"""
