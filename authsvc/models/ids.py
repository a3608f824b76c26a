"""Owns the ids of what is stored, each a type of its own."""

from typing import NewType
from uuid import UUID

UserId = NewType("UserId", UUID)


SessionId = NewType("SessionId", UUID)


FactorId = NewType("FactorId", UUID)


ApiKeyId = NewType("ApiKeyId", UUID)
