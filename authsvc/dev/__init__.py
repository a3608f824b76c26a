"""What a developer's machine needs and production does not: PostgreSQL and certificates."""
