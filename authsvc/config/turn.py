"""Owns the settings of TURN servers."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from authsvc.config.types import Between, Duration, Form, Section

# RFC 7065: a host without path or user, a port, and the transport.
_URI = Form(
    r"turns?:(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
    r"(?:\?transport=(?:udp|tcp))?",
    'a TURN URI, such as "turn:turn.example.com:3478?transport=udp"',
)
TurnUri = Annotated[str, _URI]
# On one line of coturn's configuration, and long enough not to be guessed.
TurnSecret = Annotated[
    SecretStr, Form("[!-~]{16,256}", "16 to 256 printable ASCII characters without blanks")
]


class TurnSettings(Section):
    """TURN servers, and the secrets shared with them; without servers there are no credentials."""

    uris: tuple[TurnUri, ...] = Field(
        default=(), max_length=16, description="The servers, as clients are told of them."
    )
    secrets: tuple[TurnSecret, ...] = Field(
        default=(),
        max_length=8,
        description="The shared secrets: the first makes passwords, the others are kept for a"
        " rotation and its way back.",
    )
    algorithm: Literal["sha1", "sha256"] = Field(
        "sha1", description="The hash of the HMAC: coturn takes `sha1` only."
    )
    max_lifetime: Annotated[Duration, Between("1s", "30d")] = Field(
        timedelta(hours=1), description="How long credentials work, at most and by default."
    )

    @model_validator(mode="after")
    def _secrets_exist(self) -> Self:
        if bool(self.uris) != bool(self.secrets):
            raise ValueError("uris and secrets need each other")
        values = [secret.get_secret_value() for secret in self.secrets]
        if len(set(values)) != len(values):
            raise ValueError("secrets has the same entry twice")
        return self
