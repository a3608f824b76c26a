"""Owns the validation of access tokens, tokens for services, and token exchange.

Entry classes: `TokenValidation` and `ServiceTokens`.
"""
