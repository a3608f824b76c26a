"""Owns access to PostgreSQL: connections, the pool, transactions and the migrator."""
