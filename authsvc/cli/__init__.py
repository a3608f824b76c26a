"""The `authsvc` command: one module for each group of commands."""

import os

# Set before gRPC is imported: otherwise each failed handshake, which anybody can cause, would write
# a line to standard error that is not JSON.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
