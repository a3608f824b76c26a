"""Each metric moves when what it measures happens, in the real service."""

import re
from collections.abc import Mapping
from typing import Any

from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from authsvc.app.metrics import SECTIONS
from authsvc.app.metrics.table import Kind, Metric
from tests.support.service import Service

TABLE: Mapping[str, Metric[Any]] = {
    metric.name: metric for _, metrics in SECTIONS for metric in metrics
}
# Only with settings that the fixtures don't have.
CONDITIONAL = {
    "authsvc_http_tls_certificate_expire_time_seconds",
    "authsvc_breached_password_requests",
    "authsvc_breached_password_failures",
    "authsvc_breached_passwords_refused",
    "authsvc_audit_forward_lag_seconds",
    "authsvc_clock_skew_seconds",
}


def families(service: Service) -> Mapping[str, Family]:
    """Return what a scrape reads, by the names in queries."""
    text = service.app.web._metrics.render().decode()
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(text)
    }


def value(service: Service, name: str, **labels: str) -> float:
    found = service.app.web._metrics.registry.get_sample_value(name, labels)
    assert found is not None, (name, labels)
    return found


async def test_table_and_scrape_have_the_same_metrics(timed: Service) -> None:
    await timed.new_session()
    scraped = families(timed)
    own = {name for name in scraped if name.startswith("authsvc_")}
    assert own - TABLE.keys() == set()
    assert TABLE.keys() - own <= CONDITIONAL
    for name in own:
        metric, family = TABLE[name], scraped[name]
        assert (family.documentation, family.type) == (metric.meaning, metric.kind)
        for sample in family.samples:
            assert {*sample.labels} - {"le"} == {*metric.labels}, sample


def test_names_follow_the_conventions() -> None:
    assert len(TABLE) == sum(len(metrics) for _, metrics in SECTIONS)
    for name, metric in TABLE.items():
        assert re.fullmatch(r"authsvc_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.meaning.endswith(".")
        assert not metric.worry or metric.worry.endswith(".")
