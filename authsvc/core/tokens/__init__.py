"""Owns the use of tokens: validation, tokens for services, and token exchange.

Entry classes: `TokenValidation` and `ServiceTokens`.
"""
