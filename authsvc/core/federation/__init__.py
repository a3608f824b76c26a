"""Owns identities at other providers: logins that begin there, and links to accounts.

Entry classes: `OAuthStart`, `OAuthStates` and `Identities`.
"""
