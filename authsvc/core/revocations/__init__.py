"""Owns how a process is told that there is something to read, and the caches that revocations clear.

Entry classes: `Doorbell` and `RevocableCache`. The revocation log is read by the follower of
`core/lib/log_follower.py`.
"""
