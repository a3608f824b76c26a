"""Owns the judgement of a token from memory, which both kinds of verifier share."""

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from authsvc.client import tokens
from authsvc.client.errors import NotDecidable, TokenRejected
from authsvc.client.freshness import Freshness, elapsed
from authsvc.client.identity import Identity
from authsvc.client.key_set import VerifyingKey
from authsvc.client.knowledge import Knowledge
from authsvc.client.tokens import Claims, Header, Malformed

# Headers whose signature was verified: those of one key are nearly always the same text.
_MAX_HEADERS = 64
# Not a user; what covers it is the end of a session.
_NOBODY = b""
_COUNTERS = dict.fromkeys(
    (
        "accepted",
        "accepted_stale",
        "rejected",
        "not_decidable",
        "asked",
        "examined",
        "became_fresh",
        "became_stale",
        "became_unusable",
    ),
    0,
)


class KeyUnknown(NotDecidable):
    """The token names a key that has not been fetched, and may exist."""

    def __init__(self) -> None:
        super().__init__("UNUSABLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What every token is held to.

    Attributes:
        issuer: `iss` has to equal it.
        audience: One of `aud` has to equal it, unless a call names another.
        max_staleness: Seconds within which a revocation may be unknown.
        clock_skew: Seconds by which `nbf` may be in the future; `exp` is exact.
        clock: The time in seconds since 1970.
    """

    issuer: str
    audience: str
    max_staleness: float = 1.0
    clock_skew: float = 5.0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience must not be empty")
        if not self.max_staleness > 0 or not self.clock_skew >= 0:
            raise ValueError("max_staleness must be above 0, and clock_skew not below")


class Verification:
    """Judges tokens by what is in memory, in any number of threads at once.

    Between `cache_size` and twice as many verified tokens are cached, so that a signature is
    verified once; everything else is checked on every call.
    """

    def __init__(self, expected: Expectations, knowledge: Knowledge, cache_size: int) -> None:
        self.counts: Counter[str] = Counter(_COUNTERS)
        self.knowledge = knowledge
        self._expected = expected
        self._issuer = expected.issuer
        self._skew = expected.clock_skew
        self._clock = expected.clock
        self._seen = _SeenTokens(cache_size)
        self._headers: dict[str, Header] = {}
        # Called in any thread when a token names an unknown key.
        self.on_unknown_key: Callable[[], None] = lambda: None

    @property
    def state(self) -> Freshness:
        """How much is known now."""
        now = elapsed()
        if not self.knowledge.is_usable(now):
            return Freshness("unusable", float("inf"))
        age = now - self.knowledge.known_until.time
        return Freshness("fresh" if age <= self._expected.max_staleness else "stale", age)

    def judge(
        self,
        token: str,
        audience: str,
        scopes: Iterable[str],
        min_cursor: str,
        certificate: bytes | None,
        max_staleness: float,
    ) -> Identity:
        """Return the identity of a token.

        Whatever is wrong with the token itself is said first, however little is known.

        Raises:
            TokenRejected: It must not be accepted.
            NotDecidable: It may have been revoked, for all that is known.
        """
        knowledge = self.knowledge
        # Before anything is looked up: what is found later can only be newer.
        now = elapsed()
        is_known = now - knowledge.known_until.time <= max_staleness
        is_reached = not min_cursor or knowledge.has_reached(min_cursor)
        entry = self._seen.get(token)
        # The key is looked up again, as a revoked key invalidates what it signed.
        if entry is None or knowledge.keys.find(entry[1].key_id) is not entry[1]:
            claims = self._examine(token, now)
        else:
            claims = entry[0]
        reason = self._why_refused(claims, audience, scopes, certificate)
        if reason is not None:
            self._reject(reason)
        if not is_reached:
            self._leave_open("CURSOR_NOT_REACHED")
        if not is_known or not knowledge.keys.is_usable(now):
            self._leave_open("UNUSABLE")
        self.counts["accepted"] += 1
        return claims.identity

    def key_id_of(self, token: str) -> str:
        """Return the key that a well-formed token names."""
        return tokens.read_header(tokens.split(token)[0]).key_id

    def metrics(self) -> Mapping[str, float]:
        """Return counters and the present state as numbers."""
        state = self.state
        return {
            **self.counts,
            **self.knowledge.counts,
            "age_seconds": state.age,
            "is_fresh": float(state.status == "fresh"),
            "is_usable": float(state.status != "unusable"),
            "revoked": len(self.knowledge.revoked),
        }

    def _why_refused(  # noqa: PLR0911 - one for each reason
        self, claims: Claims, audience: str, scopes: Iterable[str], certificate: bytes | None
    ) -> str | None:
        """Return the reason not to accept a token that the service signed, or None."""
        wall = self._clock()
        if wall >= claims.expires or claims.expires <= self.knowledge.swept_until:
            return "EXPIRED"
        if claims.valid_from > wall + self._skew:
            return "NOT_YET_VALID"
        if claims.issuer != self._issuer:
            return "ISSUER_MISMATCH"
        if audience not in claims.identity.audiences:
            return "AUDIENCE_MISMATCH"
        if claims.thumbprint and not _is_bound_to(certificate, claims.thumbprint):
            return "CERTIFICATE_MISMATCH"
        revoked = self.knowledge.revoked
        if claims.session and revoked.covers(claims.session, claims.user, claims.issued):
            has_ended = revoked.covers(claims.session, _NOBODY, claims.issued)
            return "SESSION_REVOKED" if has_ended else "TOKEN_OUTDATED"
        if scopes and not claims.identity.scopes.issuperset(scopes):
            return "SCOPE_MISSING"
        return None

    def _examine(self, token: str, now: float) -> Claims:
        """Return the claims of a token whose form and signature are right, and remember it."""
        try:
            head, body, tail = tokens.split(token)
            header = self._headers.get(head) or tokens.read_header(head)
            claims = tokens.read_claims(body, header.key_id)
            signature = tokens.decode(tail)
        except Malformed:
            self._reject("MALFORMED")
        key = self.knowledge.keys.find(header.key_id)
        if key is None:
            self._judge_unknown_key(header, now)
        signed = token[: -len(tail) - 1].encode()
        if key.algorithm != header.algorithm or not key.verify(signed, signature):
            self._reject("SIGNATURE_INVALID")
        self._seen.put(token, (claims, key))
        if len(self._headers) >= _MAX_HEADERS:
            self._headers = {}
        self._headers[head] = header
        self.counts["examined"] += 1
        return claims

    def _judge_unknown_key(self, header: Header, now: float) -> NoReturn:
        keys = self.knowledge.keys
        if keys.is_revoked(header.key_id):
            self._reject("SIGNATURE_INVALID")
        # A symmetric key is never published: only the service can tell, if it has any.
        if not keys.is_usable(now) or (header.algorithm == "HS256" and not keys.are_all):
            self._leave_open("UNUSABLE")
        if not keys.may_exist(now):
            self._reject("SIGNATURE_INVALID")
        self.counts["not_decidable"] += 1
        self.on_unknown_key()
        raise KeyUnknown

    def _reject(self, reason: str) -> NoReturn:
        self.counts["rejected"] += 1
        raise TokenRejected(reason)

    def _leave_open(self, reason: Literal["UNUSABLE", "CURSOR_NOT_REACHED"]) -> NoReturn:
        self.counts["not_decidable"] += 1
        raise NotDecidable(reason)


def _is_bound_to(certificate: bytes | None, thumbprint: bytes) -> bool:
    """Return whether this is the certificate, in DER form, whose SHA-256 is the thumbprint."""
    return certificate is not None and hmac.compare_digest(
        hashlib.sha256(certificate).digest(), thumbprint
    )


class _SeenTokens:
    """A cache of the most recently used tokens, between `size` and twice `size` of them.

    It has two generations: a look-up costs one dictionary access, and the older generation is
    dropped as a whole.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[str, tuple[Claims, VerifyingKey]] = {}
        self._old: dict[str, tuple[Claims, VerifyingKey]] = {}

    def get(self, token: str) -> tuple[Claims, VerifyingKey] | None:
        entry = self._young.get(token)
        if entry is None and (entry := self._old.get(token)) is not None:
            self.put(token, entry)
        return entry

    def put(self, token: str, entry: tuple[Claims, VerifyingKey]) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[token] = entry
