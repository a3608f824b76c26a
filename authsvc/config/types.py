"""Owns the types of settings' values, and the base class of all sections.

What a type accepts is also what it states in the JSON Schema: `Form` and `Between` are the only
ways to restrict a text or a duration, and each of them is one regular expression in both places.
"""

import base64
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    SecretStr,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from authsvc.config import durations


class Section(BaseModel):
    """A section of the settings: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a text: all of it matches `pattern`, or else the problem is "expected …".

    The pattern has to mean the same to Python and to JSON Schema (ECMA 262).
    """

    pattern: str
    expected: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^(?:{self.pattern})$"}

    def _check(self, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and not re.fullmatch(self.pattern, text):
            raise ValueError(f"expected {self.expected}")
        return value


@dataclass(frozen=True, slots=True)
class NotBeginning:
    """The names of a table's entries don't begin with `prefix`, which is reserved."""

    prefix: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"not": {"pattern": f"^{re.escape(self.prefix)}"}}

    def _check(self, value: str) -> str:
        if value.startswith(self.prefix):
            raise ValueError(f'names that start with "{self.prefix}" are reserved')
        return value


def _parse_duration(value: Any) -> Any:
    return value if isinstance(value, timedelta) else durations.parse(value)


@dataclass(frozen=True, slots=True)
class Between:
    """The bounds of a duration, both included."""

    least: str
    most: str = durations.LONGEST

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {
            "pattern": f"^(?:{durations.pattern(self.least, self.most)})$",
            "x-least": self.least,
            "x-most": self.most,
        }

    def _check(self, value: timedelta) -> timedelta:
        if not durations.parse(self.least) <= value <= durations.parse(self.most):
            if self.most == durations.LONGEST:
                bounds = f"of at least {self.least} and at most {self.most}"
            else:
                bounds = f"from {self.least} to {self.most}"
            raise ValueError(f"expected a duration {bounds}")
        return value


class _DurationText:
    """States in the JSON Schema that a duration is a text, not one of ISO 8601."""

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string"}


# From 0s; a setting for which that makes no sense adds a `Between` of its own.
Duration = Annotated[
    timedelta,
    _DurationText(),
    BeforeValidator(_parse_duration),
    PlainSerializer(durations.text, return_type=str, when_used="json"),
    Between("0s"),
]


def _distinct(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if any(item in value[:at] for at, item in enumerate(value)):
        raise ValueError("expected no entry twice")
    # What can't be in a set, such as a table, is left to the check of types.
    return frozenset(value) if all(isinstance(item, str) for item in value) else value


_Entry = TypeVar("_Entry")
# An entry that is there twice is a mistake.
Distinct = Annotated[
    frozenset[_Entry], BeforeValidator(_distinct), PlainSerializer(sorted, when_used="json")
]

# A scope-token (RFC 6749, section 3.3): permissions become the `scope` of access tokens.
PermissionName = Annotated[
    str, Form(r"[!#-\[\]-~]{1,64}", '1 to 64 printable ASCII characters without blanks, " and \\')
]
_NAME = Form(r"[a-z][a-z0-9_-]{0,31}", "a name such as my-name_1, of at most 32 characters")
RoleName = Annotated[str, _NAME]
ProviderName = Annotated[str, _NAME]
Audience = Annotated[
    str, Form("[!-~]{1,256}", "1 to 256 printable ASCII characters without blanks")
]
# What people read: on one line, without control characters.
Line = Annotated[
    str, Form(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,64}", "1 to 64 characters on one line")
]
FilePath = Annotated[Path, Form(r"[^\x00]+", "a path")]

# Names of hosts as resolvers take them: labels of at most 63 characters, the last not a number.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_LAST_LABEL = r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAMED = rf"(?:{_LABEL}\.)*{_LAST_LABEL}\.?"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_PORT = durations.number(1, 65_535)


def _ipv6() -> str:
    group = "[0-9A-Fa-f]{1,4}"

    def groups(count: int) -> str:
        return rf"(?:{group}(?::{group}){{0,{count - 1}}})?" if count else ""

    # RFC 4291: eight groups, or fewer of them around one "::".
    short = [
        (rf"{group}(?::{group}){{{before - 1}}}" if before else "") + "::" + groups(7 - before)
        for before in range(8)
    ]
    return "|".join([rf"{group}(?::{group}){{7}}", *short])


_HOST = rf"(?:{_NAMED}|{_IPV4}|\[(?:{_ipv6()})\])"
Host = Annotated[
    str, Form(rf"{_NAMED}|{_IPV4}|{_ipv6()}", "a host's name or address, without a port")
]
# An address is a network of its own; bits beyond the prefix count for nothing.
NetworkText = Annotated[
    str,
    Form(
        rf"{_IPV4}(?:/{durations.number(0, 32)})?|(?:{_ipv6()})(?:/{durations.number(0, 128)})?",
        'an IP address or a network, such as "192.0.2.0/24" or "2001:db8::/32"',
    ),
]
# Without a host: all interfaces. Port 0 is any free port.
_LISTEN = rf"{_HOST}?:(?:0|{_PORT})"
HttpListen = Annotated[
    str, Form(_LISTEN, 'HOST:PORT, such as "127.0.0.1:8081", "[::]:8081" or ":8081"')
]
GrpcListen = Annotated[
    str,
    Form(
        # A socket's path may have 107 bytes on Linux, and 103 elsewhere.
        rf"{_LISTEN}|unix:(?://)?[!-~]{{1,100}}",
        'HOST:PORT or unix:PATH, such as "127.0.0.1:8443", "[::]:8443" or ":8443"',
    ),
]

# Characters of a URL up to its path, and after that: ASCII without blanks (RFC 3986).
_AUTHORITY = rf"{_HOST}(?::{_PORT})?"
_LOCAL = rf"http://(?:127\.0\.0\.1|localhost)(?::{_PORT})?"
_SECURE = rf"(?:https://{_AUTHORITY}|{_LOCAL})"
_PATH = r"(?:/[!-\"$->@-~]*)?"
# An https URL, or http on this machine, without a query or a fragment.
Address = Annotated[
    str,
    Form(
        _SECURE + _PATH,
        "an https:// URL (http:// only for this machine), in ASCII, without user, query or"
        " fragment",
    ),
]
# As Address, but http is enough: who fetches the keys there may be in the same network.
Issuer = Annotated[
    str,
    Form(
        rf"https?://{_AUTHORITY}{_PATH}",
        "an https:// or http:// URL, in ASCII, without blanks, user, query or fragment",
    ),
]
# A server of the operator's, without a path.
ServerUrl = Annotated[
    str,
    Form(
        rf"https?://{_AUTHORITY}/?",
        "an https:// or http:// URL of a host and its port, without a path",
    ),
]
# Like Address, optionally with a query; or with an app's private scheme (RFC 8252, section 7.1).
RedirectUri = Annotated[
    str,
    Form(
        # At most 2,048 characters in all; no lookahead, as not every JSON Schema has it.
        rf"(?:{_SECURE}|[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+:)(?:/[!-\"$-~]{{0,1800}})?",
        "an https:// URL (http:// only for this machine) or an app's private scheme, in ASCII,"
        " without a fragment",
    ),
]
# Like Address, optionally with a query or a fragment, which may contain {code} and {email}.
Link = Annotated[
    str,
    Form(
        rf"{_SECURE}(?:[/?#](?:[!-z|~]|\{{code\}}|\{{email\}})*)?",
        "an https:// URL (http:// only for this machine), in ASCII, in which braces are only"
        " {code} and {email}",
    ),
]
# As browsers write them: in lower case, IDNA in ASCII, and no IP addresses.
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
Domain = Annotated[str, Form(_DOMAIN, "a domain in lower case, such as example.com")]
Origin = Annotated[
    str,
    Form(
        rf"https://{_DOMAIN}(?::{_PORT})?",
        'an https origin as browsers send it, such as "https://example.com"',
    ),
]
# An Android app: the SHA-256 of its signing certificate in base64url, of whose 43 characters the
# last holds only four bits. Android checks that an app belongs to the domain
# (/.well-known/assetlinks.json).
_APP = r"android:apk-key-hash:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"
PasskeyOrigin = Annotated[
    str,
    Form(
        rf"(?:https://{_DOMAIN}|http://localhost)(?::{_PORT})?|{_APP}",
        'an origin as browsers send it, such as "https://example.com", or that of an Android app:'
        " android:apk-key-hash: and the SHA-256 of the certificate that signs it, in base64url"
        " without padding (43 characters)",
    ),
]


class KeySettings(Section):
    """A 32-byte key in base64, and the id stored with everything encrypted or hashed with it."""

    id: Annotated[
        str, Form(r"[a-z0-9][a-z0-9_-]{0,31}", "an id such as key-1, of at most 32 characters")
    ] = Field(description="Its name, which is stored with what was sealed or hashed with it.")
    key: Annotated[SecretStr, Form(r"[A-Za-z0-9+/]{43}=", "32 bytes in base64")] = Field(
        description="32 bytes in base64."
    )

    def key_bytes(self) -> bytes:
        """Return the key's 32 bytes."""
        return base64.b64decode(self.key.get_secret_value())
