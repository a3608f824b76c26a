"""Owns the import and export of users.

Entry classes: `UserImport` and `UserExport`.
"""
