"""All actions that change an account, as its users may try them at any time.

Most are rejected, because of what another try did a moment earlier.
"""

import json
import random
from collections.abc import Awaitable
from copy import copy
from dataclasses import replace
from datetime import timedelta

from authsvc.app.build import Parts
from authsvc.config import RetentionSettings, SessionSettings
from authsvc.core.accounts.accounts import Registration
from authsvc.core.accounts.password_change import NewPassword
from authsvc.core.api_keys.keys import NewApiKey
from authsvc.core.codes.one_time_codes import IssuedCode, Purpose
from authsvc.core.factors.proofs import PasskeyAssertion, SecondFactor, TotpCode
from authsvc.core.federation.providers import AuthorizationAnswer
from authsvc.core.retention.addresses import AddressTruncation
from authsvc.core.retention.cleanup import Retention
from authsvc.core.secrets_at_rest.resealing import Resealing
from authsvc.core.session_keys.keys import NewSessionKey
from authsvc.core.session_keys.proof import SessionProof
from authsvc.dev.authenticator import Authenticator
from authsvc.errors import ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.factors import LoginOutcome, MfaChallenge
from authsvc.models.ids import ApiKeyId
from authsvc.models.messages import Delivery
from authsvc.models.sealing import SealAlgorithm, SealHeader
from authsvc.models.session_keys import PublicKey, PublicKeyKind
from authsvc.models.sessions import SessionSelection
from authsvc.models.tokens import Claims, Tokens
from tests.support.accounts import CALL, EMAIL, IP, PASSWORD
from tests.support.clock import FakeClock
from tests.support.codes import NEW_EMAIL, NEW_PASSWORD, WRONG_CODE
from tests.support.factors import App
from tests.support.passkeys import ORIGIN
from tests.support.probe import CLAIMS
from tests.support.provider import REDIRECT, LocalProvider

_NOTHING = timedelta(0)
_AT_ONCE = RetentionSettings(
    sessions=_NOTHING, api_keys=_NOTHING, devices=_NOTHING, messages=_NOTHING, batch_size=3
)
_ADDRESSES = (EMAIL, NEW_EMAIL, "Lovelace@Example.Test")
_PASSWORDS = (PASSWORD, NEW_PASSWORD)
BY_ADDRESS = (Purpose.VERIFY_EMAIL, Purpose.LOGIN, Purpose.RESET_PASSWORD)


class Tries:
    """Random tries on the account that was seen last."""

    def __init__(
        self, parts: Parts, provider: LocalProvider, clock: FakeClock, chance: random.Random
    ) -> None:
        self._parts, self._provider, self._clock = parts, provider, clock
        self._random = chance
        self._retention = Retention(database=parts.database, settings=_AT_ONCE, clock=clock)
        self._truncation = AddressTruncation(
            database=parts.database,
            settings=_AT_ONCE.model_copy(update={"addresses": _NOTHING}),
            sessions=SessionSettings(),
            clock=clock,
        )
        self._user_id, self._email = CLAIMS.subject, EMAIL
        self._codes: dict[Purpose, list[tuple[str, IssuedCode]]] = {way: [] for way in Purpose}
        self._tokens: list[Tokens] = []
        self._challenges: list[MfaChallenge] = []
        self._apps: list[App] = []
        self._keys: list[ApiKeyId] = []
        self._device = Authenticator(ORIGIN)

    async def try_register(self) -> None:
        registration = Registration(
            self._random.choice(_ADDRESSES), PASSWORD, client=self._client()
        )
        await self._parts.use.accounts.register(CALL, registration)

    async def try_rename(self) -> None:
        await self._parts.use.accounts.rename(CALL, self._claims(), "Ada")

    async def try_disable_and_enable(self) -> None:
        user_id = self._user_id
        await self._parts.use.accounts.disable(CALL, user_id)
        await self._parts.use.accounts.enable(CALL, user_id)

    async def try_delete(self) -> None:
        await self._parts.use.account_deletion.delete(CALL, self._claims())

    async def try_retention(self) -> None:
        await self._retention.run_once()

    async def try_truncate_addresses(self) -> None:
        await self._truncation.truncate_events()
        await self._truncation.truncate_sessions()

    async def try_reseal(self) -> None:
        keyring = copy(self._parts.keyring)
        algorithm = self._random.choice(tuple(SealAlgorithm))
        keyring.newest = SealHeader(keyring.newest.key_id, algorithm)
        resealing = Resealing(self._parts.database, keyring, self._clock)
        await resealing.run(CALL, batch_size=3, progress=lambda _: None)

    # Codes

    async def try_request(self) -> None:
        await self.request(self._random.choice(BY_ADDRESS))

    async def request(self, purpose: Purpose) -> None:
        email, requests = self._email, self._parts.use.code_requests
        issued = await requests.request(CALL, purpose, email, Delivery.SEND, self._client())
        self._codes[purpose].append((email, issued))

    async def try_request_change(self) -> None:
        email = self._random.choice([other for other in _ADDRESSES if other != self._email])
        change = self._parts.use.email_change
        issued = await change.request(CALL, self._claims(), email, Delivery.SEND, self._client())
        self._codes[Purpose.CHANGE_EMAIL].append((email, issued))

    async def try_verify(self) -> None:
        email, _, code = self._code(Purpose.VERIFY_EMAIL)
        await self._parts.use.email_verification.verify(CALL, email, code, self._client(), None)

    async def try_code_login(self) -> None:
        _, issued, code = self._code(Purpose.LOGIN)
        login = self._parts.use.code_login
        self._logged_in(await login.log_in(CALL, issued.code_id, code, self._client()))

    async def try_reset(self) -> None:
        email, _, code = self._code(Purpose.RESET_PASSWORD)
        recovery = self._parts.use.password_reset
        await recovery.reset(CALL, email, code, self._password(), self._client())

    async def try_change(self) -> None:
        email, _, code = self._code(Purpose.CHANGE_EMAIL)
        change = self._parts.use.email_change
        await change.confirm(CALL, self._claims(), email, code, self._client())

    def _code(self, purpose: Purpose) -> tuple[str, IssuedCode, str]:
        """Return an address, the code request for it, and the code or a wrong one."""
        email, issued = self._random.choice(self._codes[purpose][-2:])
        return email, issued, self._random.choice((issued.code, issued.code, WRONG_CODE))

    # Passwords and sessions

    async def try_login(self) -> None:
        login = self._parts.use.password_login
        self._logged_in(await login.log_in(CALL, self._email, self._password(), self._client()))

    async def try_change_password(self) -> None:
        old, new = self._random.sample(_PASSWORDS, 2)
        asked = NewPassword(old, new, self._random.random() < 0.5, self._client())
        await self._parts.use.password_change.change(CALL, self._claims(), asked)

    async def try_issue_session_key(self) -> None:
        tokens = self._random.choice(self._tokens[-5:])
        proof = SessionProof(tokens.session_token, self._client())
        # Few keys, so that calls also meet at the row of one.
        public = PublicKey(PublicKeyKind.JWK, f"{self._random.randrange(3)}")
        wanted = NewSessionKey(public, "chat")
        await self._parts.use.session_keys.issue(CALL, proof, wanted)

    async def try_create_session(self) -> None:
        opening = self._parts.use.session_opening
        created = await opening.create(CALL, self._user_id, self._client(), ("hwk",))
        self._tokens.append(created)

    async def try_refresh(self) -> None:
        token = self._random.choice(self._tokens[-5:]).refresh_token
        refreshed = await self._parts.use.session_refresh.refresh(CALL, token, self._client())
        self._tokens.append(refreshed)

    async def try_logout(self) -> None:
        token = self._random.choice(self._tokens[-5:]).refresh_token
        await self._parts.use.session_ending.log_out(CALL, token)

    async def try_revoke_all(self) -> None:
        await self._parts.use.session_ending.revoke_all(CALL, self._user_id)

    async def try_end_in_bulk(self) -> None:
        await self._parts.use.bulk_session_ending.end(CALL, SessionSelection())

    async def try_impersonate(self) -> None:
        await self._parts.use.impersonation.impersonate(
            CALL, self._user_id, "a case", self._client()
        )

    # Second factors

    async def try_enroll(self) -> None:
        totp = self._parts.use.totp_enrollments
        app = App.scan(await totp.enroll(self._claims(), ""), self._clock)
        self._apps.append(app)
        await totp.confirm(CALL, self._claims(), app.factor_id, app.code(), self._client())

    async def try_mfa(self) -> None:
        challenge = self._random.choice(self._challenges[-3:])
        code = TotpCode(self._random.choice(self._apps[-3:]).code(self._random.choice((0, 1, -1))))
        await self._verify(challenge, code)

    async def try_mfa_by_passkey(self) -> None:
        asked = [challenge for challenge in self._challenges if challenge.passkey_options]
        challenge = self._random.choice(asked[-3:])
        answer = json.dumps(self._device.get(challenge.passkey_options))
        await self._verify(challenge, PasskeyAssertion(answer))

    async def _verify(self, challenge: MfaChallenge, factor: SecondFactor) -> None:
        client, verification = self._client(), self._parts.use.mfa_verification
        trust = bool(client.device_id)
        await verification.verify(CALL, challenge.mfa_token, factor, client, trust_device=trust)

    async def try_recovery_codes(self) -> None:
        await self._parts.use.factors.generate_recovery_codes(CALL, self._claims())

    async def try_remove_factor(self) -> None:
        factors, _ = await self._parts.use.factors.list(self._user_id)
        for factor in factors:
            await self._parts.use.factors.remove(CALL, self._claims(), factor.factor_id)

    async def try_passkey(self) -> None:
        use = self._parts.use
        begun = await use.passkey_registration_start.begin(self._claims())
        created = json.dumps(self._device.create(begun.options))
        await use.passkey_registration.finish(CALL, self._claims(), begun.challenge_id, created, "")

    async def try_passkey_login(self) -> None:
        use = self._parts.use
        begun = await use.passkey_login_start.begin("", self._client())
        answer = json.dumps(self._device.get(begun.options))
        outcome = await use.passkey_login.log_in(CALL, begun.challenge_id, answer, self._client())
        self._logged_in(outcome)

    # Identities and keys

    async def try_oauth(self) -> None:
        await self._log_in_elsewhere("")

    async def try_link(self) -> None:
        await self._log_in_elsewhere(self._random.choice(self._tokens[-3:]).access_token)

    async def try_unlink(self) -> None:
        identities = self._parts.use.identities
        await identities.unlink(CALL, self._claims(), "local", "ada")

    async def _log_in_elsewhere(self, link: str) -> None:
        use, client = self._parts.use, self._client()
        begun = await use.oauth_start.begin("local", REDIRECT, client, link)
        code, state = self._provider.log_in(begun.url)
        completed = await use.oauth_login.complete(CALL, state, AuthorizationAnswer(code), client)
        self._logged_in(completed.outcome)

    async def try_create_key(self) -> None:
        created = await self._parts.use.api_keys.create(CALL, self._claims(), NewApiKey("ci"))
        self._keys.append(created.key.key_id)

    async def try_revoke_key(self) -> None:
        key_id = self._random.choice(self._keys[-5:])
        await self._parts.use.api_keys.revoke(CALL, self._user_id, key_id)

    def _logged_in(self, outcome: LoginOutcome) -> None:
        if isinstance(outcome, Tokens):
            self._tokens.append(outcome)
        else:
            self._challenges.append(outcome)

    def _claims(self) -> Claims:
        return replace(
            CLAIMS,
            subject=self._user_id,
            authentication_time=self._clock.now(),
            scopes=("read",),
        )

    def _client(self) -> ClientContext:
        return ClientContext(IP, "Browser/1", self._random.choice(("phone", "tablet", "")))

    def _password(self) -> str:
        return self._random.choice(_PASSWORDS)


async def outcome(work: Awaitable[object]) -> str:
    """Return the result of a try: "OK", the reason of its failure, or "nothing to try"."""
    try:
        await work
    except ServiceError as error:
        return error.reason.value
    except KeyError:
        raise
    except LookupError:
        return "NOTHING"  # There is no token, code, key or passkey yet to try it with.
    return "OK"
