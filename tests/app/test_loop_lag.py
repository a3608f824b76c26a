"""The event loop's lag is measured."""

import time

from authsvc.app.loop_lag import LoopLag
from tests.support.databases import until
from tests.support.jobs import running


async def test_blocked_loop_lags() -> None:
    lag = LoopLag()

    async def measured() -> bool:
        counts, _ = lag.lags.read()
        return counts[-1][1] > 0

    async with running(lag):
        await until(measured)
        before = dict(lag.lags.read()[0])["0.25"]
        whole = dict(lag.lags.read()[0])["+Inf"]
        # Nothing else runs meanwhile: the timer that is set is late by all but its interval.
        time.sleep(0.4)  # noqa: ASYNC251 - this is what is measured

        async def measured_again() -> bool:
            return dict(lag.lags.read()[0])["+Inf"] > whole

        await until(measured_again)
        counts = dict(lag.lags.read()[0])
    # Those up to a quarter of a second have not become more by the one that was late.
    assert counts["+Inf"] - counts["0.25"] >= whole - before + 1
    assert lag.lags.read()[1] > 0.25
