"""Providers: how their answers are parsed, their timeout, and which of them are known."""

import asyncio
import json
from datetime import timedelta
from typing import Any, cast

import pytest

from authsvc.core.federation.providers import ExternalIdentity, Provider, Providers
from authsvc.errors import ProviderUnavailable
from tests.support.logs import caught


def _parse(subject: object = "ada", **values: Any) -> ExternalIdentity | None:
    claims = {"email": "ada@example.test", "email_verified": True, "display_name": "Ada"} | values
    return ExternalIdentity.parse(subject, **claims)


def test_well_formed_identity_is_parsed_unchanged() -> None:
    assert _parse() == ExternalIdentity("ada", "ada@example.test", True, "Ada")


@pytest.mark.parametrize("subject", ["", None, 17, "a\n", "a\0", "\ud800", "ä" * 129])
def test_unusable_subject_yields_no_identity(subject: object) -> None:
    assert _parse(subject) is None


def test_subject_of_maximum_length_is_kept() -> None:
    found = _parse("ä" * 128)
    assert found is not None
    assert found.subject == "ä" * 128


@pytest.mark.parametrize("email", [None, 17, "a\n@example.test", f"{'a' * 243}@example.test"])
def test_unusable_address_is_dropped_and_not_verified(email: object) -> None:
    assert _parse(email=email) == ExternalIdentity("ada", "", False, "Ada")


@pytest.mark.parametrize("verified", [True, "true"])
def test_address_is_verified_by_true_as_boolean_or_text(verified: object) -> None:
    found = _parse(email_verified=verified)
    assert found is not None
    assert (found.email_verified, found.missing) == (True, "")


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"email_verified": 1}, "email_verified is neither"),
        ({"email_verified": "True"}, "email_verified is neither"),
        ({"email_verified": [True]}, "email_verified is neither"),
        ({"email_verified": ""}, "email_verified is neither"),
        ({"email_verified": False}, "email_verified is false"),
        ({"email_verified": "false"}, "email_verified is false"),
        ({"email_verified": None}, "email_verified is absent"),
        ({"email": None}, "email is absent"),
        ({"email": ""}, "email is absent"),
        ({"email": 7}, "email is not an address"),
    ],
    ids=str,
)
def test_what_keeps_address_from_being_verified_is_named(
    values: dict[str, object], missing: str
) -> None:
    found = _parse(**values)
    assert found is not None
    assert (found.email_verified, found.missing) == (False, missing)


def test_display_name_is_cleaned_and_truncated() -> None:
    found = _parse(display_name="A\n\0da" + "ä" * 200)
    assert found is not None
    assert found.display_name == "Ada" + "ä" * 126
    assert _parse(display_name=None) == ExternalIdentity("ada", "ada@example.test", True, "")


async def test_slow_provider_is_unavailable() -> None:
    providers = Providers({"slow": cast("Provider", object())}, timedelta(0))
    with caught() as lines, pytest.raises(ProviderUnavailable):
        async with providers.use("slow"):
            await asyncio.Event().wait()
    event = json.loads(lines.getvalue())
    assert (event["event"], event["provider"]) == ("provider_failed", "slow")


def test_only_configured_providers_are_known() -> None:
    providers = Providers({"local": cast("Provider", object())}, timedelta(seconds=1))
    assert "local" in providers
    assert "github" not in providers
