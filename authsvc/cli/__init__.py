"""The `authsvc` command: one module for each group of commands."""

import os

# Said before gRPC is imported: each failed handshake, which anybody can cause, would be a line on
# standard error that is no JSON.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
