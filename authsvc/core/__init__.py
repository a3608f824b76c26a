"""The use cases: policy and transactions; knows no gRPC and no SQL text."""
