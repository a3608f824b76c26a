"""Owns messages to users, from the outbox to delivery.

Entry classes: `Outbox`, `Deliverer` and `StoredMessages`.
"""
