"""Owns identities at external providers: starting logins there, and linking them to accounts.

Entry classes: `OAuthStart`, `OAuthStates` and `Identities`.
"""
