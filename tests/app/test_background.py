"""Background jobs: their list, and the restart of those that end or fail."""

import asyncio

from structlog.testing import capture_logs

from authsvc.app.background import Background, Job, background_jobs
from authsvc.app.build import open_deliverer, open_forwarding, open_parts
from authsvc.config import AuditSettings, Settings
from tests.support.clock import FakeClock


class _Work:
    """A job whose first runs raise or return, as `rounds` say, and whose next run does not end."""

    def __init__(self, *rounds: Exception | None) -> None:
        self._rounds = list(rounds)
        self.steady = asyncio.Event()
        self.cancelled = False

    async def run(self) -> None:
        if self._rounds:
            ending = self._rounds.pop(0)
            if ending is not None:
                raise ending
            return
        self.steady.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_failed_job_is_logged_and_restarted() -> None:
    failing, other = _Work(RuntimeError("first"), ValueError("second")), _Work()
    background = Background([Job("failing", failing.run), Job("other", other.run)], restart_delay=0)
    with capture_logs() as logs:
        background.start()
        async with asyncio.timeout(30):
            await asyncio.gather(failing.steady.wait(), other.steady.wait())
        assert not other.cancelled
        await background.stop()
    assert [(entry["event"], entry["work"], entry["log_level"]) for entry in logs] == [
        ("background_job_failed", "failing", "error")
    ] * 2
    assert all(entry["exc_info"] for entry in logs)


async def test_returning_job_is_restarted_without_logging() -> None:
    work = _Work(None)
    background = Background([Job("returning", work.run)], restart_delay=0)
    with capture_logs() as logs:
        background.start()
        async with asyncio.timeout(30):
            await work.steady.wait()
        await background.stop()
    assert logs == []


async def test_stop_cancels_all_jobs_and_waits_for_them() -> None:
    works = [_Work(), _Work()]
    background = Background([Job(f"job-{n}", work.run) for n, work in enumerate(works)])
    background.start()
    async with asyncio.timeout(30):
        await asyncio.gather(*(work.steady.wait() for work in works))
    await background.stop()
    assert [work.cancelled for work in works] == [True, True]
    running = {task.get_name() for task in asyncio.all_tasks()}
    assert running.isdisjoint({"job-0", "job-1"})


async def test_stop_ends_job_waiting_for_restart() -> None:
    failed = asyncio.Event()

    async def fail() -> None:
        failed.set()
        raise RuntimeError

    background = Background([Job("failing", fail)], restart_delay=3_600)
    with capture_logs():
        background.start()
        async with asyncio.timeout(30):
            await failed.wait()
            await background.stop()


async def test_stop_before_start_does_nothing() -> None:
    await Background([Job("idle", _Work().run)]).stop()


async def test_job_names_are_unique(live_settings: Settings, clock: FakeClock) -> None:
    async with open_parts(live_settings, clock) as parts:
        deliverer = open_deliverer(parts, live_settings)
        webhook = {"url": "https://a.test", "secrets": ["whsec_" + "A" * 32]}
        audit = AuditSettings.model_validate({"forward": {"target": "webhook", "webhook": webhook}})
        settings = live_settings.model_copy(update={"audit": audit})
        forwarding = open_forwarding(parts, settings)
        jobs = background_jobs(parts, deliverer, forwarding, *[_Work().run] * 3)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert "audit-forward" in names
