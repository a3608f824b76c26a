"""Owns sessions: opened, validated, refreshed, listed and ended.

Entry class: `Sessions`.
"""
