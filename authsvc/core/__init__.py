"""The use cases, by topic: policy and transactions; knows no gRPC and no SQL text."""
