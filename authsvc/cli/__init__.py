"""The `authsvc` command: one module for each group of commands."""

import os

# gRPC's core would write lines of its own for what anybody can send: failed handshakes, refused
# headers. It reads this when it is imported. Set the variable to INFO or DEBUG to see them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
