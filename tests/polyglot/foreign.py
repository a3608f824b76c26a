"""Owns the tokens that verifiers of other makers are given: good ones, and ones to be refused.

The service itself issues them all, with keys of every algorithm that it publishes keys of.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from authsvc.config import Settings
from authsvc.v1 import auth_service_pb2 as pb
from tests.support.clock import FakeClock
from tests.support.databases import settings_for
from tests.support.probe import with_changes
from tests.support.service import Service, StartService

ALGORITHMS = ("ES256", "EdDSA", "RS256")
# For the right audience: a verifier that sees no certificate has to refuse it.
BOUND = "bound to a certificate"
ANOTHER_AUDIENCE = "for another audience"
NewDatabase = Callable[[], str]


@dataclass(frozen=True)
class Case:
    """A token, the published keys, and whether a verifier has to accept it."""

    name: str
    token: str
    jwks: str
    good: bool = False

    @property
    def verdict(self) -> str:
        return "accepted" if self.good else "refused"


async def issue_cases(
    algorithm: str, settings: Settings, start_service: StartService, new_database: NewDatabase
) -> tuple[Service, list[Case]]:
    """Return a new service that signs with `algorithm`, and tokens that it has issued."""
    settings = settings.model_copy(update={"database": settings_for(new_database())})
    settings = with_changes(settings, "tokens", algorithm=algorithm)
    earlier = await start_service(settings, FakeClock(datetime.now(UTC) - timedelta(hours=2)))
    expired = (await earlier.new_session()).access_token
    await earlier.app.stop()
    service = await start_service(settings)
    other = await start_service(with_changes(settings, "tokens", audience="billing"))
    good = (await service.login()).access_token
    jwks = (await service.auth().GetJwks(pb.GetJwksRequest())).jwks_json
    assert {key["alg"] for key in json.loads(jwks)["keys"]} == {algorithm}
    refused = {
        "expired": expired,
        ANOTHER_AUDIENCE: (await other.login()).access_token,
        BOUND: await _bound(service),
        **{f"changed in its {part}": token for part, token in _changed(good)},
    }
    await other.app.stop()
    return service, [
        Case(f"{algorithm} good", good, jwks, good=True),
        *(Case(f"{algorithm} {name}", token, jwks) for name, token in refused.items()),
    ]


def write_cases(cases: list[Case], path: Path) -> None:
    """Write the tokens for a program, without what it should make of them."""
    path.write_text(
        json.dumps([{k: v for k, v in asdict(case).items() if k != "good"} for case in cases])
    )


async def _bound(service: Service) -> str:
    """Return the app's own token, bound to its certificate."""
    request = pb.IssueServiceTokenRequest(
        audience=service.settings.tokens.audience, scopes=["invoices.read"]
    )
    return (await service.auth().IssueServiceToken(request)).access_token


def _changed(token: str) -> Iterator[tuple[str, str]]:
    parts = token.split(".")
    for number, name in enumerate(("header", "payload", "signature")):
        part = parts[number]
        middle = len(part) // 2
        other = "A" if part[middle] != "A" else "B"
        changed = [*parts]
        changed[number] = part[:middle] + other + part[middle + 1 :]
        yield name, ".".join(changed)
