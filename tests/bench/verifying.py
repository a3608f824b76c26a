"""Owns the measurements of a client's verifier: time for each token, and memory.

They run in a process of their own (`python -m tests.bench.verifying`), as memory is that of a
process. The bare check of a signature is measured in turn with the verifier's work: only the ratio
of the two is worth anything, as the machine's speed changes.
"""

import gc
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import uuid4

from jwt.algorithms import get_default_algorithms

from authsvc.client import base64url
from authsvc.client.freshness import elapsed
from authsvc.client.knowledge import Knowledge
from authsvc.client.verification import Expectations, Verification
from authsvc.core.signing import jwk
from authsvc.v1.session_service_pb2 import Revocation, WatchRevocationsResponse
from tests.support.tokens import signed

_REVOKED = 1_000_000
_PAGE = 1_000
_TOKENS = 400
_ROUNDS = 15
_Item = TypeVar("_Item")
_ROOT = Path(__file__).parents[2]


class Verifying(NamedTuple):
    """Times of a token in µs of CPU; memory of what is held in MB.

    `fill` is the CPU time in seconds in which all of it arrives.
    """

    algorithm: str
    bare: float
    new: float
    seen: float
    memory: float
    fill: float


def measure(algorithm: str, revoked: int = _REVOKED) -> Verifying:
    """Measure with this algorithm and so many revocations held, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.verifying", algorithm, str(revoked)],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Verifying(*json.loads(done.stdout))


def _measure(algorithm: str, revoked: int) -> Verifying:
    key = jwk.generate(algorithm)
    now = int(time.time())
    texts = [_token(key, now) for _ in range(_TOKENS)]
    signed = [text.rpartition(".") for text in texts]
    parts = [(message.encode(), base64url.decode(last)) for message, _, last in signed]
    algorithm_of_pyjwt = get_default_algorithms()[algorithm]
    public = algorithm_of_pyjwt.from_jwk(key.public_jwk or {})
    knowledge = Knowledge()
    gc.collect()
    before = _resident_mb()
    began = time.process_time()
    _fill(knowledge, now, revoked)
    fill = time.process_time() - began
    gc.collect()
    memory = _resident_mb() - before
    knowledge.keys.install(json.dumps({"keys": [key.public_jwk]}), 3600, elapsed())
    expected = Expectations(issuer="https://authsvc.dev", audience="shop", max_staleness=1e9)

    def check(verification: Verification) -> Callable[[str], object]:
        return lambda text: verification.judge(text, "shop", (), "", None, 1e9)

    bare, new, seen = [], [], []
    for _ in range(_ROUNDS):
        bare.append(
            _per_item(lambda part: algorithm_of_pyjwt.verify(part[0], public, part[1]), parts)
        )
        fresh = check(Verification(expected, knowledge, 10_000))
        new.append(_per_item(fresh, texts))
        # Of each request, the text is another object.
        copies = [(text + ".")[:-1] for text in texts]
        seen.append(_per_item(fresh, copies))
    return Verifying(
        algorithm,
        bare=statistics.median(bare),
        new=statistics.median(new),
        seen=statistics.median(seen),
        memory=memory,
        fill=fill,
    )


def _per_item(work: Callable[[_Item], object], items: Sequence[_Item]) -> float:
    began = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - began) / len(items) * 1e6


def _token(key: jwk.SigningKey, now: int) -> str:
    payload: dict[str, object] = {
        "iss": "https://authsvc.dev",
        "aud": "shop",
        "exp": now + 3600,
        "iat": now,
        "nbf": now,
        "jti": secrets.token_urlsafe(16),
        "sub": str(uuid4()),
        "sid": str(uuid4()),
        "roles": ["user"],
        "permissions": ["read", "write"],
        "scope": "read write",
        "amr": ["pwd", "otp"],
        "auth_time": now,
    }
    return signed(key, "at+jwt", payload)


def _fill(knowledge: Knowledge, now: int, revoked: int) -> None:
    """Let pages of revocations arrive, of sessions and users in turn, as from the stream."""
    knowledge.known_until.open(elapsed())
    numbers = count()
    for start in range(0, revoked, _PAGE):
        page = WatchRevocationsResponse(complete=start + _PAGE >= revoked)
        page.known_until_time.FromSeconds(now)
        for number in range(start, min(start + _PAGE, revoked)):
            event = Revocation()
            if number % 2:
                event.user_id = str(uuid4())
            else:
                event.session_id = str(uuid4())
            event.revoke_time.FromSeconds(now)
            event.expire_time.FromSeconds(now + 3600 + next(numbers) % 3600)
            page.revocations.append(event)
        message = WatchRevocationsResponse.FromString(page.SerializeToString())
        knowledge.receive(message, elapsed())
    if len(knowledge.revoked) != revoked:
        raise RuntimeError("revocations are missing")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))
