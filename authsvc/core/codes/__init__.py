"""Owns one-time codes: how they are requested, and what redeeming one proves.

Entry classes: `CodeRequests`, `CodeProofs` and `EmailChange`.
"""
