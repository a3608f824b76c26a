"""PostgreSQL itself: connections, the pool, transactions, and the migrator."""
