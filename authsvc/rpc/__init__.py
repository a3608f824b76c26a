"""The gRPC side: each handler converts, calls one use case, converts back."""

from typing import Any, TypeAlias

import grpc

# A handler never touches its context: what it needs of the transport comes from the interceptor.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
