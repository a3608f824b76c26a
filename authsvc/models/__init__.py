"""Owns the domain values, one module per topic: frozen, typed, and shared by all layers."""
