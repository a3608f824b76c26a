"""Detections: each is raised at its threshold, once in its window, by one of all replicas."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import MappingProxyType
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from authsvc.config import BruteForceSettings, DetectionsSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.audit.schema import Detail
from authsvc.core.incidents.detections import Detections
from authsvc.measures import Counts
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from authsvc.models.incidents import Detection, DetectionName
from authsvc.store import detections as store
from authsvc.store.incidents import first_id
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.databases import opened

CALL = Call("request-1", "spiffe://authsvc.dev/app")
ADMIN = Call("request-2", "spiffe://authsvc.dev/admin")
SYSTEM = Call("", "system")
IP, OTHER_IP = "198.51.100.7", "203.0.113.9"
WINDOW = timedelta(minutes=10)
THRESHOLD = 4


def event(
    type_: AuditType,
    *,
    ip: str | None = IP,
    user: bool = True,
    call: Call = CALL,
    detail: Detail = MappingProxyType({}),
) -> AuditEvent:
    """Return an event of a user of its own, or of nobody."""
    user_id = UserId(uuid4()) if user else None
    return AuditEvent(type_, call, user_id, client=ClientContext(ip), detail=detail)


def times(
    count: int,
    type_: AuditType,
    *,
    ip: str | None = IP,
    user: bool = True,
    call: Call = CALL,
    detail: Detail = MappingProxyType({}),
) -> list[AuditEvent]:
    return [event(type_, ip=ip, user=user, call=call, detail=detail) for _ in range(count)]


NEW: Detail = {"new_device": True}
# What one more of raises the detection, by how many there are.
ATTACKS: dict[DetectionName, Callable[[int], Sequence[AuditEvent]]] = {
    DetectionName.PASSWORD_SPRAYING: lambda n: [
        *times(n // 2, AuditType.LOGIN_FAILURE, detail={"cause": "password"}),
        *times(n - n // 2, AuditType.LOGIN_THROTTLED),
    ],
    DetectionName.CREDENTIAL_STUFFING: lambda n: [
        event(
            AuditType.LOGIN_FAILURE,
            ip=f"2001:db8:{number:x}::1",
            user=False,
            detail={"cause": "unknown"},
        )
        for number in range(n)
    ],
    DetectionName.MASS_PASSWORD_RESET: lambda n: [
        *times(n - 1, AuditType.PASSWORD_RESET_REQUEST),
        *times(1, AuditType.PASSWORD_RESET_REQUEST, user=False),
    ],
    DetectionName.REFRESH_REUSE: lambda n: times(n, AuditType.REFRESH_REUSE),
    DetectionName.NEW_DEVICES: lambda n: times(n, AuditType.LOGIN, detail=NEW),
    DetectionName.ADMIN_VOLUME: lambda n: [
        *times(n - 2, AuditType.USER_DISABLE, call=ADMIN, ip=None),
        *times(2, AuditType.IP_UNBLOCK, call=ADMIN, ip=None, user=False),
    ],
    DetectionName.KEY_COMPROMISE: lambda n: times(n, AuditType.KEY_REVOKE, user=False),
}
# What looks alike and raises nothing, however often.
HARMLESS: dict[DetectionName, Sequence[AuditEvent]] = {
    # One user mistypes; nobody knows where from; each from a network of its own.
    DetectionName.PASSWORD_SPRAYING: [
        *[event(AuditType.LOGIN_FAILURE)] * 20,
        *times(20, AuditType.LOGIN_FAILURE, ip=None),
        *[event(AuditType.LOGIN_FAILURE, ip=f"2001:db8:{number:x}::1") for number in range(20)],
    ],
    # As many succeed, and one more.
    DetectionName.CREDENTIAL_STUFFING: [
        *times(20, AuditType.LOGIN_FAILURE, user=False),
        *times(21, AuditType.LOGIN),
    ],
    DetectionName.MASS_PASSWORD_RESET: [event(AuditType.PASSWORD_RESET_REQUEST)] * 20,
    DetectionName.REFRESH_REUSE: [event(AuditType.REFRESH_REUSE)] * 20,
    DetectionName.NEW_DEVICES: [
        *times(20, AuditType.LOGIN),
        *[event(AuditType.LOGIN, detail=NEW)] * 20,
    ],
    DetectionName.ADMIN_VOLUME: [
        *times(20, AuditType.KEY_ROTATE, call=SYSTEM),
        *times(20, AuditType.LOGIN, call=ADMIN),
        *times(20, AuditType.IP_BLOCK, call=SYSTEM),
    ],
    DetectionName.KEY_COMPROMISE: times(20, AuditType.KEY_ROTATE),
}


def only(name: DetectionName, *, enabled: bool = True) -> DetectionsSettings:
    """Return settings that look for one thing, with a low threshold."""
    off = {str(other): {"enabled": False} for other in DetectionName if other is not name}
    sought = {"enabled": enabled, "threshold": THRESHOLD, "window": "10m"}
    return DetectionsSettings.model_validate({**off, name.value: sought})


class Announced(Counts):
    """Counts that announce the first."""

    def __init__(self, found: asyncio.Event) -> None:
        super().__init__()
        self._found = found

    def add(self, *labels: str, count: int = 1) -> None:
        super().add(*labels, count=count)
        self._found.set()


class Watched:
    """One replica's detections on a database."""

    def __init__(self, database: Database, clock: FakeClock, settings: DetectionsSettings) -> None:
        self.database = database
        self.clock = clock
        self.interval = settings.interval
        self.detections = Detections(
            database=database, settings=settings, networks=BruteForceSettings(), clock=clock
        )

    @property
    def raised(self) -> list[str]:
        """The names of what was raised, once for each time."""
        counts = self.detections.raised.read().items()
        return [name for (name,), count in counts for _ in range(count)]

    async def happen(self, events: Sequence[AuditEvent]) -> None:
        async with self.database.transaction() as connection:
            for each in events:
                await record_event(connection, self.clock.now(), each)

    async def look(self) -> list[Detection]:
        """Look, when it is due again."""
        self.clock.advance(self.interval)
        return await self.detections.run_once()

    async def recorded(self) -> list[dict[str, object]]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT caller, host(ip) AS ip, detail FROM audit_events"
                " WHERE type = 'detection.raise' ORDER BY event_id"
            )
        return [json.loads(row["detail"]) | {"by": row["caller"], "ip": row["ip"]} for row in rows]


@pytest.mark.parametrize("name", DetectionName)
async def test_raised_at_its_threshold_and_once_in_its_window(
    name: DetectionName, database: Database, clock: FakeClock
) -> None:
    watched = Watched(database, clock, only(name))
    attack = ATTACKS[name](THRESHOLD)
    await watched.happen(attack[1:])
    assert await watched.look() == []

    await watched.happen(attack[:1])
    [found] = await watched.look()
    assert (found.name, found.count, found.threshold) == (name, THRESHOLD, THRESHOLD)
    [recorded] = await watched.recorded()
    assert (recorded["detection"], recorded["by"]) == (name, "system")
    assert (recorded["count"], recorded["window_seconds"]) == (THRESHOLD, 600)
    assert watched.raised == [name]

    # It goes on, and is raised again only after the window.
    await watched.happen(ATTACKS[name](THRESHOLD))
    assert await watched.look() == []
    clock.advance(WINDOW)
    assert await watched.look() == []
    await watched.happen(ATTACKS[name](THRESHOLD))
    assert len(await watched.look()) == 1
    assert len(await watched.recorded()) == 2


@pytest.mark.parametrize("name", DetectionName)
async def test_ordinary_use_and_what_is_switched_off_raise_nothing(
    name: DetectionName, database: Database, clock: FakeClock
) -> None:
    watched = Watched(database, clock, only(name))
    await watched.happen(HARMLESS[name])
    assert await watched.look() == []

    off = Watched(database, clock, only(name, enabled=False))
    await off.happen(ATTACKS[name](2 * THRESHOLD))
    assert await off.look() == []
    assert await off.recorded() == []


@pytest.mark.parametrize("name", DetectionName)
async def test_what_happened_before_the_window_does_not_count(
    name: DetectionName, database: Database, clock: FakeClock
) -> None:
    watched = Watched(database, clock, only(name))
    attack = ATTACKS[name](THRESHOLD)
    await watched.happen(attack[1:])
    clock.advance(WINDOW)
    await watched.happen(attack[:1])
    assert await watched.look() == []


async def test_logins_of_one_user_do_not_hide_stuffing(
    database: Database, clock: FakeClock
) -> None:
    watched = Watched(database, clock, only(DetectionName.CREDENTIAL_STUFFING))
    await watched.happen([event(AuditType.LOGIN)] * (2 * THRESHOLD))
    await watched.happen(ATTACKS[DetectionName.CREDENTIAL_STUFFING](THRESHOLD))
    assert [each.count for each in await watched.look()] == [THRESHOLD]


async def test_each_network_and_caller_is_raised_by_itself(
    database: Database, clock: FakeClock
) -> None:
    watched = Watched(database, clock, only(DetectionName.PASSWORD_SPRAYING))
    await watched.happen(ATTACKS[DetectionName.PASSWORD_SPRAYING](THRESHOLD))
    await watched.happen(
        [
            event(AuditType.LOGIN_FAILURE, ip=f"2001:db8:1:2:{number:x}::1")
            for number in range(THRESHOLD + 1)
        ]
    )
    found = {each.subject: each.count for each in await watched.look()}
    assert found == {f"{IP}/32": THRESHOLD, "2001:db8:1:2::/64": THRESHOLD + 1}
    recorded = {str(each["ip"]): each["prefix"] for each in await watched.recorded()}
    assert recorded == {IP: 32, "2001:db8:1:2::": 64}

    await watched.happen(times(THRESHOLD, AuditType.LOGIN_FAILURE, ip=OTHER_IP))
    assert [each.subject for each in await watched.look()] == [f"{OTHER_IP}/32"]

    administration = Watched(database, clock, only(DetectionName.ADMIN_VOLUME))
    await administration.happen(ATTACKS[DetectionName.ADMIN_VOLUME](THRESHOLD))
    [found_caller] = await administration.look()
    assert found_caller.subject == ADMIN.caller


async def test_replicas_look_in_turn_and_raise_once(
    database_dsn: str, database: Database, clock: FakeClock
) -> None:
    settings = only(DetectionName.REFRESH_REUSE)
    async with opened(database_dsn) as other:
        replicas = [Watched(each, clock, settings) for each in (database, other) for _ in range(4)]
        await replicas[0].happen(ATTACKS[DetectionName.REFRESH_REUSE](THRESHOLD))
        clock.advance(settings.interval)
        found = await asyncio.gather(*(each.detections.run_once() for each in replicas))
        assert sum(map(len, found)) == 1
        assert len(await replicas[0].recorded()) == 1
        # All of them know that one has looked.
        assert {each.detections.age() for each in replicas} == {0.0}
        assert await replicas[-1].detections.run_once() == []
        clock.advance(2)
        assert {each.detections.age() for each in replicas} == {2.0}


async def test_one_of_many_claims_what_all_of_them_found(
    database_dsn: str, database: Database, clock: FakeClock
) -> None:
    """The race for one detection: only the atomic claim keeps it from being raised twice."""
    detection = Detection(DetectionName.NEW_DEVICES, "198.51.100.0/24", 9, 4, WINDOW)

    async def claim(pool: Database) -> bool:
        async with pool.transaction() as connection:
            return await store.claim(connection, detection, clock.now())

    async with opened(database_dsn, pool_max=8) as other:
        for _ in range(5):
            claims = [claim(pool) for pool in (database, other) for _ in range(8)]
            assert sum(await asyncio.gather(*claims)) == 1
            clock.advance(WINDOW)


async def test_flood_of_subjects_is_bounded(database: Database, clock: FakeClock) -> None:
    watched = Watched(database, clock, only(DetectionName.PASSWORD_SPRAYING))
    for start in (0, 60):
        await watched.happen(
            [
                event(AuditType.LOGIN_FAILURE, ip=f"2001:db8:{network:x}::1")
                for network in range(start, start + 60)
                for _ in range(THRESHOLD)
            ]
        )
        await watched.look()
    assert len(await watched.recorded()) == store.MAX_SUBJECTS


async def test_failing_detection_does_not_stop_the_others(
    database: Database, clock: FakeClock
) -> None:
    settings = DetectionsSettings.model_validate(
        {"refresh_reuse": {"threshold": THRESHOLD}, "password_spraying": {"threshold": THRESHOLD}}
    )
    watched = Watched(database, clock, settings)
    await watched.happen(ATTACKS[DetectionName.PASSWORD_SPRAYING](THRESHOLD))
    await watched.happen(ATTACKS[DetectionName.REFRESH_REUSE](THRESHOLD))
    async with database.connection() as connection:
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.detection = 'password_spraying' THEN RAISE lock_not_available; END IF;"
            " RETURN NEW; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON detections FOR EACH ROW"
            " EXECUTE FUNCTION refuse()"
        )
    with capture_logs() as logged:
        assert [each.name for each in await watched.look()] == [DetectionName.REFRESH_REUSE]
    assert [line["name"] for line in logged if line["event"] == "detection_failed"] == [
        "password_spraying"
    ]


async def test_counting_reads_no_more_than_the_window_by_its_index(
    database: Database, clock: FakeClock
) -> None:
    """The plan of each count is an index scan, whatever else is in the table."""
    window = store.Window(clock.now() - WINDOW, 32, 64)
    plans: list[str] = []
    async with database.connection() as connection:
        await connection.execute("SET enable_seqscan = off")
        for statement in (
            *(store._COUNT_SPRAYED, store._COUNT_NEW_DEVICES, store._COUNT_LOGINS),
            *(store._COUNT_RESETS, store._COUNT_REUSES, store._COUNT_CALLERS, store._COUNT_KEYS),
        ):
            arguments: list[object] = [first_id(window.start), window.start]
            if "$3" in statement:
                arguments.append(THRESHOLD)
            if "$5" in statement:
                arguments += [32, 64]
            elif "$4" in statement:
                arguments.append(["user.disable"])
            rows = await connection.fetch(f"EXPLAIN {statement}", *arguments)
            plans.append("\n".join(row[0] for row in rows))
        await connection.execute("RESET enable_seqscan")
    for plan in plans:
        assert "Seq Scan on audit_events" not in plan
        assert "type_event_id_idx" in plan, plan


async def test_background_job_looks_until_it_is_cancelled(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = only(DetectionName.REFRESH_REUSE)
    watched = Watched(database, clock, settings)
    await watched.happen(ATTACKS[DetectionName.REFRESH_REUSE](THRESHOLD))
    found = asyncio.Event()
    watched.detections.raised = Announced(found)
    monkeypatch.setattr("random.SystemRandom.uniform", lambda *_: 0.001)
    job = asyncio.create_task(watched.detections.run())
    try:
        async with asyncio.timeout(30):
            await found.wait()
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
