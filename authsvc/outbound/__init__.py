"""Owns the calls to other servers: mail servers, webhooks, identity providers."""
