"""Owns audit events: their types, and how they are stored and logged.

Entry points: `AuditEvent`, `record_event` and `AuditListing`.
"""
