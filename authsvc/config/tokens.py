"""Owns the settings of access and refresh tokens."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from authsvc.config.hsm import HsmSettings
from authsvc.config.types import Audience, Between, Duration, Issuer, Section


class TokenSettings(Section):
    """Access and refresh tokens."""

    issuer: Issuer = Field(
        "https://authsvc.dev", description="`iss`; also the base address in the discovery document."
    )
    audience: Audience = Field(
        "authsvc", description="`aud` of access tokens, and what ValidateToken expects by default."
    )
    algorithm: Literal["ES256", "EdDSA", "RS256", "HS256"] = Field(
        "ES256", description="What new keys sign with; changing it rotates the key."
    )
    signer: Literal["local", "pkcs11"] = Field(
        "local",
        description="Where new keys are made and sign: in the service, or with `pkcs11` in the HSM"
        " of `tokens.pkcs11`; changing it rotates the key.",
    )
    pkcs11: HsmSettings | None = Field(
        None,
        description="The HSM for `tokens.signer`; keep it until no key in it is needed any more.",
    )
    access_lifetime: Annotated[Duration, Between("1s")] = Field(
        timedelta(hours=1), description="How long an access token is valid."
    )
    lifetime_jitter: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="By which part of its lifetime an access token may end earlier, at random, so"
        " that tokens issued together are not refreshed together.",
    )
    refresh_lifetime: Annotated[Duration, Between("1s")] = Field(
        timedelta(days=7), description="How long a session lasts without being used."
    )
    service_lifetime: Annotated[Duration, Between("1s")] = Field(
        timedelta(minutes=10),
        description="How long tokens from IssueServiceToken and ExchangeToken are valid.",
    )
    session_key_lifetime: Annotated[Duration, Between("1s")] = Field(
        timedelta(hours=1),
        description="How long a session key and its statement are valid, at most and by default.",
    )
    refresh_grace: Annotated[Duration, Between("0s", "300s")] = Field(
        timedelta(seconds=10),
        description="How long the previous refresh token still gets the current one.",
    )
    refresh_lost_answer: Literal["same_device", "strict"] = Field(
        "same_device",
        description="After that, if the current one was never used: the session's own device gets"
        " another, or, with `strict`, nobody does and the session ends.",
    )
    clock_skew: Duration = Field(
        timedelta(seconds=5), description="How far in the future `nbf` may be."
    )
    key_rotation_interval: Annotated[Duration, Between("2s")] = Field(
        timedelta(days=30), description="How long a key signs."
    )
    key_publish_lead: Annotated[Duration, Between("2s")] = Field(
        timedelta(hours=1),
        description="How long a key is published before it signs; at least twice as long as the"
        " published keys may be cached (`max-age`), which is five minutes, and half of this if that"
        " is less. At most `tokens.key_rotation_interval`.",
    )

    @model_validator(mode="after")
    def _keys_sign_for_longer_than_they_wait(self) -> "TokenSettings":
        if self.key_publish_lead > self.key_rotation_interval:
            raise ValueError(
                "key_publish_lead must be at most key_rotation_interval: a key can't be replaced"
                " before the next one has been published for long enough"
            )
        return self

    @model_validator(mode="after")
    def _hsm_can_sign(self) -> "TokenSettings":
        if self.signer == "pkcs11":
            if self.pkcs11 is None:
                raise ValueError('signer = "pkcs11" needs the section tokens.pkcs11')
            if self.algorithm not in ("ES256", "RS256"):
                raise ValueError(
                    f'signer = "pkcs11" signs with ES256 or RS256, not with {self.algorithm}'
                )
        return self

    @property
    def notes(self) -> list[str]:
        """Sentences for the operator about what is allowed, but may not be meant."""
        note = (
            "tokens.algorithm: the key of HS256 is secret and not published, so only this service"
            " can verify the tokens: no verifier, gateway or client can without calling it"
        )
        return [note] if self.algorithm == "HS256" else []

    @property
    def longest_validity(self) -> timedelta:
        """How long any token or statement can be valid, on any clock that is not too far off."""
        longest = max(self.access_lifetime, self.service_lifetime, self.session_key_lifetime)
        return longest + self.clock_skew

    @property
    def revocation_validity(self) -> timedelta:
        """How long after its time a revocation can concern a token that is still valid.

        Calls that are in progress at that time may still issue tokens for a moment.
        """
        return self.longest_validity + timedelta(minutes=1)
