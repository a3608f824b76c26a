"""Owns messages to users, from the outbox to their delivery.

Entry classes: `Outbox`, `Deliverer` and `StoredMessages`.
"""
