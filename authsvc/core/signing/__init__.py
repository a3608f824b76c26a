"""Owns signing keys and what they sign: access tokens, their form and their claims.

Entry classes: `SigningKeys` and `AccessTokens`.
"""
