"""The guards of a service: for gRPC with asyncio and threads, ASGI and WSGI.

`aio.AioGuard`, `grpc_sync.SyncGuard`, `asgi.AsgiGuard` and `wsgi.WsgiGuard` check the token of each
request by the rules of `routes.Routes`, and tell the handler who called: `current_identity()`.
"""
