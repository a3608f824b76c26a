"""Owns how a process is told of what there is to read, and the caches that revocations clear.

Entry classes: `Doorbell` and `RevocableCache`. The revocation log is read by the follower of
`core/lib/log_follower.py`.
"""
