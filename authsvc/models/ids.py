"""Owns the ids of stored objects, each with its own type."""

from typing import NewType
from uuid import UUID

UserId = NewType("UserId", UUID)


SessionId = NewType("SessionId", UUID)


FactorId = NewType("FactorId", UUID)


ApiKeyId = NewType("ApiKeyId", UUID)


SessionKeyId = NewType("SessionKeyId", UUID)
