"""Owns the removal and truncation of data whose retention period is over.

Entry classes: `Retention`, `UnverifiedAccounts` and `AddressTruncation`.
"""
