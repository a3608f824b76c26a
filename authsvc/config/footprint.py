"""Owns what the settings let a replica take at most: its memory, by what takes it."""

from collections.abc import Mapping

from authsvc.config.settings import Settings

_KIB, _MIB = 1 << 10, 1 << 20
# Measured, but that an API key is taken to be as large as a session.
_AT_REST = 120 * _MIB
SESSION = 2 * _KIB
_API_KEY = 2 * _KIB
_REJECTED_KEY = 500
_BLOCK = 40
_RANGE = 35 * _KIB


def memory(settings: Settings) -> Mapping[str, int]:
    """Return the bytes that a replica takes when all its caches are full, by their settings.

    "" stands for the process at rest.
    """
    breached = settings.passwords.breached
    return {
        "": _AT_REST,
        "passwords.hash_memory_mib": settings.passwords.hash_memory_mib * _MIB,
        "sessions.cache_size": settings.sessions.cache_size * SESSION,
        "api_keys.cache_size": settings.api_keys.cache_size * _API_KEY,
        "rate_limits.rejected_cache_size": settings.rate_limits.rejected_cache_size * _REJECTED_KEY,
        "blocks.max_blocks": settings.blocks.max_blocks * _BLOCK,
        "passwords.breached.cache_size": breached.cache_size * _RANGE if breached.address else 0,
    }
