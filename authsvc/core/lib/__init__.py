"""Owns the tools that every topic uses and that know none of them.

Among them `Batcher`, `SingleFlight`, `Keyring`, `Email`, `LastUse` and `SystemClock`.
"""
