"""What is taken from a provider's answer, and how long it is waited for."""

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest

from authsvc.core.federation.providers import ExternalIdentity, Provider, Providers
from authsvc.errors import ProviderUnavailable


def _parse(subject: object = "ada", **values: Any) -> ExternalIdentity | None:
    told = {"email": "ada@example.test", "email_verified": True, "display_name": "Ada"} | values
    return ExternalIdentity.parse(subject, **told)


def test_well_formed_answer_is_taken_as_it_is() -> None:
    assert _parse() == ExternalIdentity("ada", "ada@example.test", True, "Ada")


@pytest.mark.parametrize("subject", ["", None, 17, "a\n", "a\0", "\ud800", "ä" * 129])
def test_subject_that_cannot_be_used_is_nobody(subject: object) -> None:
    assert _parse(subject) is None


def test_longest_subject_is_taken_whole() -> None:
    found = _parse("ä" * 128)
    assert found is not None
    assert found.subject == "ä" * 128


@pytest.mark.parametrize("email", [None, 17, "a\n@example.test", f"{'a' * 243}@example.test"])
def test_address_that_cannot_be_used_is_left_out_and_not_verified(email: object) -> None:
    assert _parse(email=email) == ExternalIdentity("ada", "", False, "Ada")


@pytest.mark.parametrize("verified", [1, "true", "True", None, [True]])
def test_only_true_verifies_an_address(verified: object) -> None:
    found = _parse(email_verified=verified)
    assert found is not None
    assert not found.email_verified


def test_name_is_cleaned_and_cut() -> None:
    found = _parse(display_name="A\n\0da" + "ä" * 200)
    assert found is not None
    assert found.display_name == "Ada" + "ä" * 126
    assert _parse(display_name=None) == ExternalIdentity("ada", "ada@example.test", True, "")


async def test_provider_that_takes_too_long_is_unavailable() -> None:
    providers = Providers({"slow": cast("Provider", object())}, timedelta(0))
    with pytest.raises(ProviderUnavailable):
        async with providers.use("slow"):
            await asyncio.Event().wait()


def test_only_the_providers_of_the_settings_are_known() -> None:
    providers = Providers({"local": cast("Provider", object())}, timedelta(seconds=1))
    assert "local" in providers
    assert "github" not in providers
