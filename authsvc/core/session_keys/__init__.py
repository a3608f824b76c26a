"""Owns what a session's user needs for end-to-end encryption: attested public keys, and TURN.

Entry classes: `SessionKeys` and `TurnCredentials`.
"""
