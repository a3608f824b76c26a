"""Owns audit events: their types, and how one is stored and logged.

Entry points: `AuditEvent` and `record_event`.
"""
