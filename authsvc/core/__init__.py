"""Owns the use cases, by topic: policy and transactions. It knows neither gRPC nor SQL."""
