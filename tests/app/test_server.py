"""The gRPC server's options."""

from authsvc.app.server import _options
from authsvc.config import GrpcSettings


def test_strangers_cannot_take_all_places_of_calls_that_wait() -> None:
    settings = GrpcSettings(max_connections_of_strangers=50, max_concurrent_streams=200)
    options = dict(_options(settings))
    # Beyond it, gRPC cancels calls of anybody.
    pending = options["grpc.server.max_pending_requests"]
    assert pending - 50 * 200 >= settings.max_concurrent_rpcs
    assert options["grpc.server.max_pending_requests_hard_limit"] > pending
