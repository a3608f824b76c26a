"""Owns the SQL: statements as constants, and the functions that run them."""
