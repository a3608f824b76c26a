"""Owns what the service calls: mail servers, web hooks, providers of identities."""
