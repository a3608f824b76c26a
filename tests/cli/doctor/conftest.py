"""Settings of a deployment in production."""

from datetime import timedelta
from typing import Any

import pytest

from authsvc.config import Settings
from tests.support.probe import with_changes


@pytest.fixture
def production(settings: Settings) -> Settings:
    """Settings without any weakness."""
    found = with_changes(settings, "tokens", issuer="https://auth.example.com")
    found = with_changes(found, "grpc", call_timeout=timedelta(seconds=10))
    smtp: Any = {"channel": "smtp"}
    return with_changes(found, "delivery", **smtp)
