"""The `authsvc` command: one module for each group of commands."""
