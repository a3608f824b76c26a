"""Owns the roles of users: what each grants and demands, and how they are defined at run time.

Entry classes: `Permissions`, `RoleDefinitions`.
"""
