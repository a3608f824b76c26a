"""Owns signing with keys in an HSM, through its PKCS#11 module.

All calls are made by one thread, as the event loop must not wait for them. A session that fails is
opened again, once for each call.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pkcs11
import structlog
from cryptography.hazmat.primitives import serialization
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import (
    NoSuchKey,
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
)
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from authsvc.config import HsmSettings
from authsvc.core.signing import jwk
from authsvc.core.signing.jwk import ExternalSecret, SigningKey
from authsvc.errors import StoreUnavailable

log = structlog.get_logger(__name__)

_ID_BYTES = 16
_RSA_BITS = 2048
_LABEL = "authsvc"
_ALWAYS_HIDDEN = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
# After these, another attempt may lock the token for everybody.
_PIN_REFUSED = (PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked)

Result = TypeVar("Result")


class Hsm:
    """Makes keys in a token of an HSM, and signs with them; their secrets never leave it."""

    def __init__(self, settings: HsmSettings) -> None:
        self._settings = settings
        self._timeout = settings.timeout.total_seconds()
        self._thread = ThreadPoolExecutor(1, "hsm")
        self._late: asyncio.Future[Any] | None = None
        self._pin_refused = False
        # The stubs of the package lack what its native part adds.
        self._library: Any = None
        self._session: pkcs11.Session | None = None
        self._keys: dict[bytes, Any] = {}

    async def generate(self, algorithm: str) -> SigningKey:
        """Make a key of the algorithm; raises StoreUnavailable."""
        return await self._call(lambda session: self._generate(session, algorithm))

    async def sign(self, algorithm: str, secret: ExternalSecret, message: bytes) -> bytes:
        """Return the key's signature over `message`; raises StoreUnavailable."""
        return await self._call(lambda session: self._sign(session, algorithm, secret.id, message))

    async def find_ids(self) -> AbstractSet[bytes]:
        """Return the ids of all private keys with the label; raises StoreUnavailable."""
        return await self._call(_find_ids)

    async def destroy(self, secret: ExternalSecret) -> None:
        """Destroy both halves of a key; raises StoreUnavailable."""
        try:
            await self._run(lambda session: self._destroy(session, secret.id))
        except NoSuchKey:
            pass
        except pkcs11.PKCS11Error as error:
            raise _unavailable(_cause(error)) from None

    def close(self) -> None:
        """Let the thread end when it is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _call(self, work: Callable[[pkcs11.Session], Result]) -> Result:
        """Run `work` in the thread; raise StoreUnavailable if the HSM fails."""
        try:
            return await self._run(work)
        except pkcs11.PKCS11Error as error:
            raise _unavailable(_cause(error)) from None

    async def _run(self, work: Callable[[pkcs11.Session], Result]) -> Result:
        """Run `work` in the thread; raise StoreUnavailable if it takes too long.

        While a call is late, others fail at once: they would only wait behind it.
        """
        if self._late is not None and not self._late.done():
            raise _unavailable("it does not answer")
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._attempt, work)
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(running)
        except TimeoutError:
            self._late = running
            running.add_done_callback(_ignore)
            raise _unavailable("it does not answer") from None

    # From here on, in the thread

    def _attempt(self, work: Callable[[pkcs11.Session], Result]) -> Result:
        try:
            return work(self._open())
        except _PIN_REFUSED:
            self._pin_refused = True
            raise
        except pkcs11.PKCS11Error as error:
            log.info("hsm_reopened", cause=_cause(error))
        self._session = None
        self._keys.clear()
        try:
            if self._library is not None:
                self._library.reinitialize()
            return work(self._open())
        except _PIN_REFUSED:
            self._pin_refused = True
            raise

    def _open(self) -> pkcs11.Session:
        if self._session is not None:
            return self._session
        if self._pin_refused:
            raise PinIncorrect("the PIN was refused; it is tried again after a restart")
        if self._library is None:
            self._library = pkcs11.lib(str(self._settings.module))
        token = self._library.get_token(token_label=self._settings.token)
        self._session = token.open(rw=True, user_pin=self._settings.pin.get_secret_value())
        return self._session

    def _generate(self, session: pkcs11.Session, algorithm: str) -> SigningKey:
        id_ = secrets.token_bytes(_ID_BYTES)
        template: dict[str, Any] = {
            "id": id_,
            "label": _LABEL,
            "store": True,
            "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
            "private_template": _ALWAYS_HIDDEN,
        }
        if algorithm == "ES256":
            curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            domain = session.create_domain_parameters(KeyType.EC, curve, local=True)
            public, private = domain.generate_keypair(**template)
            encoded = encode_ec_public_key(public)
        else:
            public, private = session.generate_keypair(KeyType.RSA, _RSA_BITS, **template)
            encoded = encode_rsa_public_key(public)
        key = jwk.external(algorithm, id_, _subject_public_key_info(encoded))
        # A command would take such an id for an option.
        if key.key_id.startswith("-"):
            self._destroy(session, id_)
            return self._generate(session, algorithm)
        self._keys[id_] = private
        return key

    def _sign(self, session: pkcs11.Session, algorithm: str, id_: bytes, message: bytes) -> bytes:
        key: Any = self._keys.get(id_)
        if key is None:
            key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=id_)
            self._keys[id_] = key
        if algorithm == "ES256":
            # The two numbers one after the other, as JWS has them.
            message, mechanism = hashlib.sha256(message).digest(), Mechanism.ECDSA
        else:
            mechanism = Mechanism.SHA256_RSA_PKCS
        signature: bytes = key.sign(message, mechanism=mechanism)
        return signature

    def _destroy(self, session: pkcs11.Session, id_: bytes) -> None:
        self._keys.pop(id_, None)
        halves = list(session.get_objects({Attribute.ID: id_}))
        if not halves:
            # Believed only from a session that was just opened: in a stale one all may be missing.
            raise NoSuchKey
        for half in halves:
            half.destroy()


def _find_ids(session: pkcs11.Session) -> AbstractSet[bytes]:
    wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: _LABEL}
    return {found[Attribute.ID] for found in session.get_objects(wanted)}


def _subject_public_key_info(encoded: bytes) -> bytes:
    public_key = serialization.load_der_public_key(encoded)
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _cause(error: pkcs11.PKCS11Error) -> str:
    if isinstance(error, NoSuchKey):
        return "it has no such key"
    return ": ".join(filter(None, (type(error).__name__, str(error))))


def _unavailable(cause: str) -> StoreUnavailable:
    return StoreUnavailable(f"The HSM that signs is not available: {cause}.")


def _ignore(late: "asyncio.Future[Any]") -> None:
    """Read the outcome of a call that nobody waits for any more."""
    if not late.cancelled():
        late.exception()
