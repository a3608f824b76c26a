"""Owns the settings of passwords: the policy, and the cost of hashing."""

from typing import Literal

from pydantic import Field

from authsvc.config.types import Section


class PasswordSettings(Section):
    """Passwords: the policy, and the cost of hashing."""

    preset: Literal["standard", "nist"] = "standard"
    argon2_memory_kib: int = Field(19_456, ge=19_456, le=4_194_304)
    argon2_time_cost: int = Field(2, ge=2, le=64)
    argon2_parallelism: int = Field(1, ge=1, le=64)
    hash_workers: int = Field(0, ge=0, le=256, description="0 means one per processor.")
    hash_queue: int = Field(64, ge=1, le=100_000)
