"""Owns the types of settings' values, and the base class of all sections."""

import base64
import re
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


# A point in time this far from now is still one that Python and PostgreSQL can express.
_LONGEST = timedelta(days=36_500)


def _parse_duration(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)(ms|s|m|h|d)", value)):
        seconds = int(match[1]) * _UNITS[match[2]]
        return timedelta(seconds=min(seconds, 2 * _LONGEST.total_seconds()))
    if isinstance(value, timedelta) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError('expected a duration such as "500ms", "30s", "10m", "1h" or "7d"')


def _bounded(value: timedelta) -> timedelta:
    if value > _LONGEST:
        raise ValueError(f"expected a duration of at most {_LONGEST.days}d")
    return value


Duration = Annotated[timedelta, BeforeValidator(_parse_duration), AfterValidator(_bounded)]


def _key_bytes(secret: SecretStr) -> bytes:
    key = base64.b64decode(secret.get_secret_value(), validate=True)
    if len(key) != 32:
        raise ValueError("expected 32 bytes in base64")
    return key


class Section(BaseModel):
    """A section of the settings: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# A scope-token (RFC 6749, section 3.3): permissions become the `scope` of access tokens.
PermissionName = Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,64}$")]
RoleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Audience = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]


class KeySettings(Section):
    """A 32-byte key in base64, and the id stored with everything encrypted or hashed with it."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    key: SecretStr

    @model_validator(mode="after")
    def _key_has_its_length(self) -> Self:
        self.key_bytes()
        return self

    def key_bytes(self) -> bytes:
        """Return the key's 32 bytes."""
        return _key_bytes(self.key)


# An https URL, or http on this machine, without a query or a fragment.
Address = Annotated[
    str, Field(pattern=r"^(https://[^\s/?#@]+|http://(127\.0\.0\.1|localhost)(:\d+)?)(/[^\s?#]*)?$")
]
# Like Address, optionally with a query; or with an app's private scheme (RFC 8252, section 7.1).
RedirectUri = Annotated[
    str,
    Field(
        max_length=2_048,
        pattern=r"^(https://[^\s/?#@]+|http://(127\.0\.0\.1|localhost)(:\d+)?"
        r"|[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+:)(/[^\s#]*)?$",
    ),
]
# Like Address, optionally with a query or a fragment, which may contain {code} and {email}.
Link = Annotated[
    str,
    Field(
        pattern=r"^(https://[^\s/?#@{}]+|http://(127\.0\.0\.1|localhost)(:\d+)?)"
        r"([/?#]([^\s{}]|\{code\}|\{email\})*)?$"
    ),
]
# As browsers write them: in lower case, IDNA in ASCII, and no IP addresses.
_DOMAIN = r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z]([a-z0-9-]*[a-z0-9])?"


Origin = Annotated[str, Field(pattern=rf"^https://{_DOMAIN}(:[1-9]\d{{0,4}})?$")]
# An Android app: the SHA-256 of its signing certificate in base64url, of whose 43 characters the
# last holds only four bits.
_APP = r"android:apk-key-hash:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"


def _explain_app(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("android:") and not re.fullmatch(_APP, value):
        raise ValueError(
            "the origin of an Android app is android:apk-key-hash: and the SHA-256 of the"
            " certificate that signs it, in base64url without padding (43 characters)"
        )
    return value


# A page or an app. Android checks that an app belongs to the domain (/.well-known/assetlinks.json).
PasskeyOrigin = Annotated[
    str,
    BeforeValidator(_explain_app),
    Field(pattern=rf"^((https://{_DOMAIN}|http://localhost)(:[1-9]\d{{0,4}})?|{_APP})$"),
]
ProviderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
