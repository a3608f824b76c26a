"""Owns signing keys and the access tokens that they sign: format and claims.

Entry classes: `SigningKeys` and `AccessTokens`.
"""
