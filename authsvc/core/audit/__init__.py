"""Owns the record of what was done: audit events, and receipts of requests that create something.

Entry points: `AuditEvent`, `record_event`, `AuditListing` and `RequestReceipts`.
"""
