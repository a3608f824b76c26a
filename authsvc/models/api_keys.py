"""Owns what an API key is."""

from dataclasses import dataclass
from datetime import datetime

from authsvc.models.ids import ApiKeyId, UserId


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A user's API key without its secret; `prefix` is its beginning, `policy` "" is no limit."""

    key_id: ApiKeyId
    user_id: UserId
    name: str
    prefix: str
    scopes: tuple[str, ...]
    policy: str
    create_time: datetime
    expire_time: datetime
    last_use_time: datetime | None = None
    revoke_time: datetime | None = None
