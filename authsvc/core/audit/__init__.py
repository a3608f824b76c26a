"""Owns audit events: their types, and how they are stored and logged.

Entry points: `AuditEvent` and `record_event`.
"""
