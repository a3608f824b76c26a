"""Every way to authenticate, each tried with a right or a wrong proof."""

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyotp

from authsvc.config import CallerSettings, Settings
from authsvc.dev.authenticator import Authenticator, encode
from authsvc.models.calls import Role
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.common_pb2 import DELIVERY_RETURN, ClientContext, Tokens
from tests.support.accounts import PASSWORD, WRONG, cheap_passwords
from tests.support.codes import NEW_EMAIL, unlimited_codes
from tests.support.passkeys import ORIGIN, allowed, bearer, begin_login, register
from tests.support.probe import identity_of, outcome
from tests.support.service import Service

PORTAL = "portal"
CODE = "23456789"
PLACES = [f"10.9.{net}.{host}" for net in range(4) for host in range(1, 250)]


def affordable(settings: Settings, **changes: object) -> Settings:
    """Return settings with cheap hashes, unlimited codes, and PORTAL, which receives them."""
    portal = CallerSettings(identity=identity_of(PORTAL), roles=frozenset({Role.APP, Role.ISSUER}))
    cheap = {
        "passwords": cheap_passwords(),
        "codes": unlimited_codes(),
        "callers": (*settings.callers, portal),
    }
    return settings.model_copy(update=cheap | changes)


@dataclass
class Victim:
    """An account, and what its owner knows and has; just an address if it has no account."""

    service: Service
    email: str
    device: Authenticator = field(default_factory=lambda: Authenticator(ORIGIN))
    tokens: Tokens = field(default_factory=Tokens)
    seed: str = ""
    mfa_token: str = ""

    async def register(self, **client: str) -> "Victim":
        """Create the account and log in; a device, if given, is known from then on."""
        self.tokens = await self.service.new_session(self.email, **client)
        return self

    async def add_passkey(self) -> "Victim":
        async with self._proved():
            await register(self.service, self.tokens, self.device)
        return self

    @contextlib.asynccontextmanager
    async def _proved(self) -> AsyncIterator[None]:
        """Verify the address temporarily, as a factor requires that; the ways verify it later."""
        await self.service.prove(self.tokens.user_id)
        yield
        await self.service.prove(self.tokens.user_id, proved=False)

    async def add_totp(self) -> "Victim":
        """Add an authenticator app, and start a login that requires it."""
        stub, metadata = self.service.account(), bearer(self.tokens)
        async with self._proved():
            enrolled = await stub.EnrollTotp(account_pb.EnrollTotpRequest(), metadata=metadata)
            self.seed = enrolled.enrollment.secret
            await stub.ConfirmTotp(
                account_pb.ConfirmTotpRequest(
                    factor_id=enrolled.enrollment.factor_id, code=pyotp.TOTP(self.seed).now()
                ),
                metadata=metadata,
            )
        await self.begin_mfa()
        return self

    async def begin_mfa(self) -> None:
        """Give the first factor of a login, from its own IP, so that no limit rejects it."""
        answer = await self.service.auth().Login(
            pb.LoginRequest(email=self.email, password=PASSWORD)
        )
        self.mfa_token = answer.mfa.mfa_token


# A way: an attempt to authenticate, with a right or a wrong proof, from a client.
Way = Callable[[Victim, bool, ClientContext], Awaitable[object]]


async def by_password(victim: Victim, right: bool, client: ClientContext) -> object:
    password = PASSWORD if right else WRONG
    return await victim.service.auth().Login(
        pb.LoginRequest(email=victim.email, password=password, client=client)
    )


async def by_login_code(victim: Victim, right: bool, client: ClientContext) -> object:
    asked = await victim.service.auth(PORTAL).RequestLoginCode(
        pb.RequestLoginCodeRequest(email=victim.email, delivery=DELIVERY_RETURN)
    )
    code = asked.code if right else CODE
    return await victim.service.auth().LoginWithCode(
        pb.LoginWithCodeRequest(challenge_id=asked.challenge_id, code=code, client=client)
    )


async def by_reset(victim: Victim, right: bool, client: ClientContext) -> object:
    asked = await victim.service.auth(PORTAL).RequestPasswordReset(
        pb.RequestPasswordResetRequest(email=victim.email, delivery=DELIVERY_RETURN)
    )
    code = asked.code if right else CODE
    return await victim.service.auth().ResetPassword(
        pb.ResetPasswordRequest(email=victim.email, code=code, new_password=PASSWORD, client=client)
    )


async def by_verification(victim: Victim, right: bool, client: ClientContext) -> object:
    asked = await victim.service.auth(PORTAL).ResendVerification(
        pb.ResendVerificationRequest(email=victim.email, delivery=DELIVERY_RETURN)
    )
    # Without the password, the right code would remove what the victim has.
    request = pb.VerifyEmailRequest(email=victim.email, code=CODE, client=client)
    if right:
        request.code, request.password = asked.code, PASSWORD
    return await victim.service.auth().VerifyEmail(request)


async def by_verification_with_password(
    victim: Victim, right: bool, client: ClientContext
) -> object:
    asked = await victim.service.auth(PORTAL).ResendVerification(
        pb.ResendVerificationRequest(email=victim.email, delivery=DELIVERY_RETURN)
    )
    password = PASSWORD if right else WRONG
    return await victim.service.auth().VerifyEmail(
        pb.VerifyEmailRequest(email=victim.email, code=asked.code, client=client, password=password)
    )


async def by_passkey(victim: Victim, right: bool, client: ClientContext) -> object:
    asked = await begin_login(victim.service, victim.email)
    options = asked.options_json
    signed = forged(options)
    if right:
        # For an account deleted meanwhile, passkeys that the device does not have are requested.
        with contextlib.suppress(LookupError):
            signed = victim.device.get(options)
    return await victim.service.auth().LoginWithPasskey(
        pb.LoginWithPasskeyRequest(
            challenge_id=asked.challenge_id, assertion_json=json.dumps(signed), client=client
        )
    )


def forged(options_json: str) -> dict[str, Any]:
    """Return the response of somebody who knows the id of a passkey but does not have it."""
    options = json.loads(options_json)
    attacker = Authenticator(ORIGIN)
    creation = {
        "rp": {"id": options["rpId"]},
        "user": {"id": encode(b"user")},
        "challenge": options["challenge"],
        "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
    }
    attacker.create(json.dumps(creation))
    signed = attacker.get(json.dumps(options | {"allowCredentials": []}))
    (first, *_) = allowed(options_json)
    return signed | {"id": first, "rawId": first}


async def by_second_factor(victim: Victim, right: bool, client: ClientContext) -> object:
    totp, now = pyotp.TOTP(victim.seed), datetime.now(UTC)
    near = {totp.at(now, counter_offset=steps) for steps in range(-9, 10)}
    wrong = next(code for n in range(20) if (code := f"{n:06}") not in near)
    code = totp.at(now) if right else wrong
    return await victim.service.auth().VerifyMfa(
        pb.VerifyMfaRequest(mfa_token=victim.mfa_token, totp_code=code, client=client)
    )


async def by_password_change(victim: Victim, right: bool, client: ClientContext) -> object:
    request = account_pb.ChangePasswordRequest(
        current_password=PASSWORD if right else WRONG,
        new_password=f"Sketch-{secrets.token_hex(8)}",
        client=client,
    )
    return await victim.service.account().ChangePassword(request, metadata=bearer(victim.tokens))


async def by_email_change(victim: Victim, right: bool, client: ClientContext) -> object:
    stub, metadata = victim.service.account(), bearer(victim.tokens)
    request = account_pb.ConfirmEmailChangeRequest(new_email=NEW_EMAIL, code=CODE, client=client)
    return await stub.ConfirmEmailChange(request, metadata=metadata)


# Ways open to anybody who knows an address.
PUBLIC: Mapping[str, Way] = {
    "password": by_password,
    "login code": by_login_code,
    "reset": by_reset,
    "verification": by_verification,
    "verification with password": by_verification_with_password,
    "passkey": by_passkey,
}
# Further ways, open to anybody who has a token or the password.
INSIDE: Mapping[str, Way] = {
    "second factor": by_second_factor,
    "password change": by_password_change,
    "email change": by_email_change,
}
WAYS = {**PUBLIC, **INSIDE}
# What can't be guessed needs nothing that strangers could use up.
UNGUESSABLE = {"reset", "passkey"}
GUESSABLE = [way for way in PUBLIC if way not in UNGUESSABLE]
FAILED = {"CREDENTIALS_INVALID", "CODE_INVALID"}


async def attempt(way: str, victim: Victim, *, right: bool = False, **client: str) -> str:
    """Return the outcome of one attempt."""
    return await outcome(WAYS[way](victim, right, ClientContext(**client)))
