"""The gRPC side: each handler converts, calls one use case, converts back."""
