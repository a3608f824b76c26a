"""Owns the writes that stand in for those of an account or a code that does not exist.

A write and its commit take time. So a statement that finds nothing to write to writes to one of 256
rows instead, chosen by the address (ASVS 6.3.8). The fragment reads the address as $1, and nothing
if `claimed` has a row.
"""

WRITE_DECOY = """
    UPDATE decoys SET attempts = attempts + 1
    WHERE slot = get_byte(sha256(convert_to($1, 'UTF8')), 0) AND NOT EXISTS (SELECT FROM claimed)
    RETURNING set_config('synchronous_commit', 'off', true)
"""
