"""Development only: an embedded PostgreSQL, a CA, an identity provider, an authenticator."""
