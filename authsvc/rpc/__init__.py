"""The gRPC side: each handler converts, calls one use case, converts back."""

from typing import Any, TypeAlias

import grpc

# Handlers never use their context: what they need to know of a call comes from the interceptor.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
