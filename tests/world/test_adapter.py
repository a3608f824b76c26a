"""The autoscaler's metrics: what the adapter asks a real Prometheus, fed by replicas under load.

The queries are filled as prometheus-adapter does it (its `pkg/naming/metrics_query.go`): for the
pods of a namespace, grouped by pod.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from authsvc.dev.postgres import EmbeddedPostgres
from deploy.observability.__main__ import FOLDER
from tests.support.prometheus import Prometheus
from tests.world.alerts.installation import Installation
from tests.world.alerts.scene import flood, going_on

pytestmark = [pytest.mark.world, pytest.mark.alone, pytest.mark.timeout(600)]

_QUEUE, _CALLS = "authsvc_hash_queue_seconds", "authsvc_rpc_in_flight"
_NAMESPACE = "login"
_BUSY, _IDLE = "authsvc-5c9d-busy", "authsvc-5c9d-idle"
_LOGINS = 12
# One thread hashes, so logins wait for one another.
_SETTINGS = """
[passwords]
hash_workers = 1
"""


def _rules() -> list[dict[str, Any]]:
    text = (FOLDER / "adapter.yaml").read_text()
    rules: list[dict[str, Any]] = yaml.safe_load(text)["rules"]["custom"]
    return rules


def _filled(rule: Mapping[str, Any], series: str, pods: Sequence[str]) -> str:
    """Return the query for these pods."""
    labels = {each["resource"]: label for label, each in rule["resources"]["overrides"].items()}
    operator = "=~" if len(pods) > 1 else "="
    matchers = [f'{labels["namespace"]}="{_NAMESPACE}"']
    matchers.append(f'{labels["pod"]}{operator}"{"|".join(pods)}"')
    query: str = rule["metricsQuery"]
    for name, text in (
        ("Series", series),
        ("LabelMatchers", ",".join(matchers)),
        ("GroupBy", labels["pod"]),
    ):
        query = query.replace(f"<<.{name}>>", text)
    assert "<<" not in query, query
    return query


async def _metrics(
    prometheus: Prometheus, rules: Sequence[Mapping[str, Any]], *pods: str
) -> dict[str, dict[str, float]]:
    """Return each metric that the adapter has, and its values by pod."""
    metrics = {}
    for rule in rules:
        names = {each["__name__"] for each in await prometheus.series(rule["seriesQuery"])}
        for name in names:
            found = await prometheus.query(_filled(rule, name, pods))
            values = {labels["pod"]: value for labels, value in found}
            # One of each pod, which the adapter tells by nothing else.
            assert [labels.keys() for labels, _ in found] == [{"pod"}] * len(values)
            metrics[rule.get("name", {}).get("as", name)] = values
    return metrics


async def test_autoscaler_gets_both_metrics_of_every_pod(
    own_server: EmbeddedPostgres, server: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        prometheus = await stack.enter_async_context(Prometheus(tmp_path / "prometheus"))
        installation = Installation(
            "scaled", folder=tmp_path, prometheus=prometheus, server=server, settings=_SETTINGS
        )
        await installation.prepare()
        stack.push_async_callback(installation.stop)
        busy, idle = await installation.start(), await installation.start()
        for pod, replica in ((_BUSY, busy), (_IDLE, idle)):
            labels = {"namespace": _NAMESPACE, "pod": pod}
            prometheus.scrape(pod, [replica.http], labels)
            # A rate takes two scrapes.
            await prometheus.until(f'count_over_time({_CALLS}{{pod="{pod}"}}[1m]) > 1')
        rules = _rules()
        # Without logins, the time is 0, and not unknown: unknown, it would add pods.
        quiet = await _metrics(prometheus, rules, _BUSY, _IDLE)
        assert quiet == {_QUEUE: {_BUSY: 0, _IDLE: 0}, _CALLS: {_BUSY: 0, _IDLE: 0}}
        await stack.enter_async_context(going_on(flood(busy), parallel=_LOGINS))
        by_name = {rule["seriesQuery"].partition("{")[0]: rule for rule in rules}
        for series in (f"{_QUEUE}_count", _CALLS):
            await prometheus.until(f"({_filled(by_name[series], series, [_BUSY])}) > 0")
        loaded = await _metrics(prometheus, rules, _BUSY, _IDLE)
        assert loaded.keys() == {_QUEUE, _CALLS}
        assert loaded[_QUEUE][_IDLE] == loaded[_CALLS][_IDLE] == 0
        waited = loaded[_QUEUE][_BUSY]
        # By Markov's inequality, one in twenty waits 20 times the mean at most, and a bucket more.
        assert 0 < waited <= 50 * await _mean(prometheus)
        await prometheus.until(f'max_over_time({_CALLS}{{pod="{_BUSY}"}}[1m]) > 1')
        assert 0 <= loaded[_CALLS][_BUSY] <= _LOGINS
        # Of one pod alone, as somebody asks who looks at it.
        assert (await _metrics(prometheus, rules, _BUSY))[_CALLS].keys() == {_BUSY}
        # What is misspelt is noticed by this test: it has no series, or never a value above 0.
        for wrong in _misspelt(rules):
            found = await _metrics(prometheus, wrong, _BUSY, _IDLE)
            assert found.keys() != {_QUEUE, _CALLS} or not found[_QUEUE].get(_BUSY)


async def _mean(prometheus: Prometheus) -> float:
    matching = f'{{pod="{_BUSY}"}}'
    query = f"sum(rate({_QUEUE}_sum{matching}[2m])) / sum(rate({_QUEUE}_count{matching}[2m]))"
    [(_, mean)] = await prometheus.query(query)
    return mean


def _misspelt(rules: Sequence[Mapping[str, Any]]) -> Sequence[Sequence[Mapping[str, Any]]]:
    """Return the rules with each name of a metric in them misspelt."""
    changed = []
    for number, rule in enumerate(rules):
        names = (("seriesQuery", _QUEUE), ("seriesQuery", _CALLS), ("metricsQuery", _QUEUE))
        for field, name in names:
            if name in rule[field]:
                made = copy.deepcopy(list(rules))
                made[number] = {**rule, field: rule[field].replace(name, f"{name}x")}
                changed.append(made)
    assert len(changed) == 3
    return changed
