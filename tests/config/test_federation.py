"""The settings of external providers: unsafe ones are rejected on loading."""

from typing import Any

import pytest
from pydantic import ValidationError

from authsvc.config import OAuthSettings, ProviderSettings

PROVIDER = {"kind": "oidc", "client_id": "x", "client_secret": "y", "address": "https://id.test"}


@pytest.mark.parametrize(
    "uri",
    [
        "https://app.test",
        "https://app.test/",
        "https://app.test:8443/callback?tenant=1",
        "http://localhost/callback",
        "http://127.0.0.1:8080/callback",
        "com.example.app:/callback",
    ],
)
def test_safe_redirect_uris_are_accepted(uri: str) -> None:
    assert OAuthSettings.model_validate({"redirect_uris": [uri]}).redirect_uris == (uri,)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/callback",
        "http://app.test/callback",
        "http://localhost.evil.test/callback",
        "https://user@app.test/callback",
        "https://app.test/callback#x",
        "https://app.test/call back",
        "https://app.test/callback\n",
        "https://",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://app.test/",
        "https://app.test/" + "x" * 2_048,
    ],
)
def test_unsafe_redirect_uris_are_rejected(uri: str) -> None:
    with pytest.raises(ValidationError):
        OAuthSettings.model_validate({"redirect_uris": [uri]})


@pytest.mark.parametrize(
    "change",
    [
        {"address": "http://id.test"},
        {"address": "http://localhost.evil.test"},
        {"address": "https://user:pass@id.test"},
        {"address": "https://id.test?x"},
        {"address": "https://id.test#x"},
        {"address": "id.test"},
        {"address": None},
        {"api_address": "http://api.test"},
        {"kind": "saml"},
        {"client_id": ""},
        {"scopes": []},
        {"scopes": ["email"]},
        {"scopes": ["openid", "a b"]},
        {"response_mode": "fragment"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_unsafe_providers_are_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProviderSettings.model_validate(PROVIDER | change)


def test_oidc_provider_requires_address() -> None:
    without = {name: value for name, value in PROVIDER.items() if name != "address"}
    with pytest.raises(ValidationError, match="address must be set"):
        ProviderSettings.model_validate(without)
    github = ProviderSettings.model_validate(without | {"kind": "github"})
    assert (github.address, github.api_address) == ("https://github.com", "https://api.github.com")


@pytest.mark.parametrize("name", ["", "Local", "a b", "a/b", "1x", "x" * 33])
def test_invalid_provider_names_are_rejected(name: str) -> None:
    with pytest.raises(ValidationError):
        OAuthSettings.model_validate({"providers": {name: PROVIDER}})


def test_repr_hides_secret() -> None:
    settings = OAuthSettings.model_validate(
        {"providers": {"x": PROVIDER | {"client_secret": "sss"}}}
    )
    assert "sss" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://login.microsoftonline.com/common/v2.0", "TENANT-ID/v2.0"),
        ("https://login.microsoftonline.com/Organizations/v2.0/", "TENANT-ID/v2.0"),
        ("https://login.microsoftonline.com/consumers", "TENANT-ID/v2.0"),
        ("https://login.microsoftonline.com/{tenantid}/v2.0", "TENANT-ID/v2.0"),
        ("https://id.test/.well-known/openid-configuration", "must be without /.well-known/"),
    ],
)
def test_address_that_is_no_issuer_is_rejected_with_remedy(address: str, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        ProviderSettings.model_validate(PROVIDER | {"address": address})


def test_address_of_single_entra_tenant_is_accepted() -> None:
    address = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"
    assert ProviderSettings.model_validate(PROVIDER | {"address": address}).address == address
