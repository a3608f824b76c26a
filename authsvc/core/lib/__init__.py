"""Owns the tools that all topics share and that depend on none of them.

Among them `Batcher`, `SingleFlight`, `Keyring`, `Email`, `LastUse`, `DatabaseClock` and
`LogFollower`.
"""
