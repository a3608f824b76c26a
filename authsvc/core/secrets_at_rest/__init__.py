"""Owns the change of keys: moving sealed values to the newest, and what each key still protects.

Entry classes: `Resealing`, `KeyUsage` and `KeyAges`.
"""
