"""The view shows the numbers of all replicas, in terminals of any size."""

import io
import re
import time

import pytest
from rich.console import Console

from authsvc.app.metrics import SECTIONS
from authsvc.cli.scraping import parse
from authsvc.cli.top import snapshot as numbers
from authsvc.cli.top.snapshot import Observation, Snapshot, snapshot
from authsvc.cli.top.view import view

BEFORE = """
authsvc_uptime_seconds 100
authsvc_build_info{version="0.2.0",python="3.11"} 1
authsvc_settings_info{fingerprint="0123456789ab"} 1
"""
AFTER = """
authsvc_uptime_seconds 110
authsvc_build_info{version="0.2.0",python="3.11"} 1
authsvc_settings_info{fingerprint="0123456789ab"} 1
authsvc_settings_restart_needed 1
authsvc_rpc_in_flight 7
authsvc_rpc_calls_total{method="/authsvc.v1.AuthService/ValidateToken",code="OK",reason=""} 12000
authsvc_rpc_calls_total{method="/authsvc.v1.AuthService/Login",code="OK",reason=""} 20
authsvc_rpc_calls_total{method="/authsvc.v1.AuthService/Login",code="UNAUTHENTICATED",reason="x"} 30
authsvc_rpc_calls_total{method="/authsvc.v1.AuthService/Login",code="UNAVAILABLE",reason="y"} 10
authsvc_rpc_duration_seconds_bucket{method="/authsvc.v1.AuthService/Login",le="0.1"} 30
authsvc_rpc_duration_seconds_bucket{method="/authsvc.v1.AuthService/Login",le="0.2"} 60
authsvc_rpc_duration_seconds_bucket{method="/authsvc.v1.AuthService/Login",le="+Inf"} 60
authsvc_logins_total{method="password",outcome="succeeded"} 20
authsvc_logins_total{method="password",outcome="failed"} 30
authsvc_logins_total{method="password",outcome="throttled"} 5
authsvc_logins_total{method="password",outcome="frozen"} 10
authsvc_logins_total{method="passkey",outcome="succeeded"} 0
authsvc_rate_limit_decisions_total{policy="sign-up",outcome="allowed"} 5
authsvc_rate_limit_decisions_total{policy="sign-up",outcome="refused"} 15
authsvc_rate_limit_decisions_total{policy="api",outcome="allowed"} 900
authsvc_event_loop_lag_seconds_bucket{le="0.01"} 98
authsvc_event_loop_lag_seconds_bucket{le="0.1"} 100
authsvc_event_loop_lag_seconds_bucket{le="+Inf"} 100
authsvc_hashes_running 1
authsvc_hashes_queued 12
authsvc_hash_queue_seconds_bucket{le="0.5"} 10
authsvc_hash_queue_seconds_bucket{le="+Inf"} 10
authsvc_pool_wait_seconds_bucket{le="0.1"} 10
authsvc_pool_wait_seconds_bucket{le="+Inf"} 10
authsvc_revocation_delay_seconds_bucket{le="0.2"} 10
authsvc_revocation_delay_seconds_bucket{le="+Inf"} 10
authsvc_pool_connections{state="in_use"} 9
authsvc_pool_connections{state="idle"} 7
authsvc_pool_max 16
authsvc_pool_waiting 2
authsvc_revocation_read_age_seconds 0.2
authsvc_revocation_watchers 4
authsvc_ip_blocks 3
authsvc_login_freezes 1
authsvc_detections_total{detection="password_spraying"} 1
authsvc_overloaded_total{what="hashes"} 5
authsvc_requests_blocked 40
authsvc_messages_total{channel="smtp",outcome="sent"} 30
authsvc_outbox_pending 6
authsvc_outbox_abandoned 2
authsvc_signing_key_age_seconds 4000000
authsvc_signing_key_rotate_after_seconds 2592000
authsvc_tls_certificate_expire_time_seconds 1000
"""


def observed(*names: str, after: str = AFTER) -> Snapshot:
    return snapshot(
        [Observation(name, parse(BEFORE, 0), parse(after, 10)) for name in names or ("a:8081",)]
    )


def shown(found: Snapshot, width: int = 100, height: int = 60) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), highlight=False)
    console.print(view(found, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line(text: str, start: str) -> list[str]:
    """Return the words of the line that starts with this word."""
    [found] = [each.split() for each in text.splitlines() if each.split()[:1] == [start]]
    return found


def test_numbers_of_all_replicas_are_summed() -> None:
    text = shown(observed("a:8081", "b:8081"))
    assert text.startswith("2 of 2 replicas, 2,412 calls/s, 2.0 failed/s, over 10.0 s\n")
    assert line(text, "AuthService/Login")[1:] == ["12", "6.0", "2.0", "100.0ms", "198.0ms"]
    assert line(text, "AuthService/ValidateToken")[1:3] == ["2,400", "0"]
    assert line(text, "password")[1:] == ["4.0", "6.0", "1.0", "2.0"]
    assert line(text, "api")[1:] == ["180", "0", "0"]
    assert line(text, "sign-up")[1:] == ["1.0", "3.0", "0"]
    assert "pool: 18 of 32 in use, 4 waiting, waited 99.0ms (p99)" in text
    assert "hashing: 2 running, 24 queued, waited 475.0ms (p95)" in text
    assert "refusals: 1.0 shed/s, 8.0 blocked/s, 3 blocks, 1 freezes" in text
    assert "messages: 6.0 attempts/s, 6 waiting, 2 given up" in text
    assert "revocations: read 200.0ms ago, known after 198.0ms (p99), 8 watchers" in text


def test_each_replica_says_all_that_it_knows_in_a_wide_terminal() -> None:
    # Of it alone, as calls are those of one replica.
    text = shown(observed("a:8081", "b:8081"), width=200)
    for name in ("a:8081", "b:8081"):
        assert line(text, name)[1:] == [
            *("(restart", "needed)", "110s", "1,206", "7", "55.0ms", "200.0ms"),
            *("0.2.0", "0123456789ab"),
        ]


def test_tables_stand_side_by_side_where_there_is_room() -> None:
    for width in (149, 150):
        text = shown(observed(), width=width)
        headers = [each.split() for each in text.splitlines() if each.startswith("method")]
        assert [("policy" in each) for each in headers] == [width == 150]


def test_long_method_leaves_room_for_the_table_beside_it() -> None:
    long = f'authsvc_rpc_calls_total{{method="/{"m" * 200}",code="OK",reason=""}} 99000\n'
    text = shown(observed(after=AFTER + long), width=160)
    assert max(map(len, text.splitlines())) <= 160
    [row] = [each for each in text.splitlines() if "/mmm" in each]
    # Its name gives way, visibly; the policy in the same line doesn't.
    assert "…" in row
    assert re.search(r"9,900 .* api +90 ", row)


def test_busiest_come_first_and_the_idle_are_left_out() -> None:
    idle = """
authsvc_rpc_calls_total{method="/authsvc.v1.AuthService/GetJwks",code="OK",reason=""} 0
authsvc_rate_limit_decisions_total{policy="idle",outcome="allowed"} 0
authsvc_rate_limit_decisions_total{policy="watched",outcome="shadow"} 500
authsvc_detections_total{detection="refresh_reuse"} 0
"""
    found = observed(after=AFTER + idle)
    # By all charges, whatever came of them.
    assert [row.policy for row in found.policies] == ["api", "watched", "sign-up"]
    assert found.policies[1].shadow_per_second == 50
    assert [row.method.rpartition("/")[2] for row in found.methods] == ["ValidateToken", "Login"]
    assert [row.method for row in found.logins] == ["password"]
    assert found.detections.keys() == {"password_spraying"}


# By which a caller learns that it is not to blame.
FAILURES = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS")


@pytest.mark.parametrize(
    ("code", "failed", "refused"),
    [
        *((code, 1, 0) for code in FAILURES),
        *((code, 0, 1) for code in ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "CANCELLED")),
        ("OK", 0, 0),
    ],
)
def test_failures_are_told_from_what_callers_asked_for(
    code: str, failed: float, refused: float
) -> None:
    after = f'authsvc_uptime_seconds 110\nauthsvc_rpc_calls_total{{method="m",code="{code}"}} 10\n'
    [row] = observed(after=after).methods
    assert (row.failed_per_second, row.refused_per_second) == (failed, refused)


def test_time_is_that_of_the_longest_interval() -> None:
    """A replica that has just come back was looked at for a shorter time."""
    short, long = (
        Observation(
            name, parse("authsvc_uptime_seconds 0", 0), parse(f"authsvc_uptime_seconds {up}", 9)
        )
        for name, up in (("a", 2), ("b", 8))
    )
    assert snapshot([short, long]).seconds == 8


def test_first_look_knows_no_rates() -> None:
    found = snapshot([Observation("a:8081", None, parse(AFTER, 0))])
    assert found.replicas[0].calls_per_second is None
    assert line(shown(found), "a:8081")[3:5] == ["110s", "-"]
    again = snapshot([Observation("a:8081", parse(AFTER, 0), parse(AFTER, 2))])
    assert again.replicas[0].calls_per_second == 0


def test_revocations_that_were_never_read_are_no_number() -> None:
    after = AFTER.replace("read_age_seconds 0.2", "read_age_seconds +Inf")
    assert "revocations: read never ago" in shown(observed(after=after))


AGES = [
    ("0", "0s"),
    ("119", "119s"),
    ("120", "2m"),
    ("7199", "119m"),
    ("7200", "2h"),
    ("172799", "47h"),
    ("172800", "2d"),
    ("8640000", "100d"),
]


@pytest.mark.parametrize(("seconds", "said"), AGES)
def test_ages_of_keys_have_the_unit_that_tells_most(seconds: str, said: str) -> None:
    names = ("signing_key_age", "signing_key_rotate_after", "keyring_age", "pepper_age")
    for number, expected in enumerate(
        (
            f"signing key {said} of -",
            f"signing key - of {said}",
            f"keyring {said}",
            f"pepper {said}",
        )
    ):
        text = shown(observed(after=f"authsvc_{names[number]}_seconds {seconds}\n"))
        [keys] = [each for each in text.splitlines() if each.startswith("keys: ")]
        assert expected in keys


@pytest.mark.parametrize(("days", "warned"), [(6.9, True), (7.1, False)])
def test_certificate_is_marked_a_week_before_its_end(days: float, warned: bool) -> None:
    end = time.time() + days * 86_400
    text = shown(observed(after=f"authsvc_tls_certificate_expire_time_seconds {end}\n"))
    assert ("the certificate ends soon" in text) is warned
    assert f"certificate ends in {days:.0f}d" in text or f"ends in {days // 1:.0f}d" in text


@pytest.mark.parametrize(("age", "warned"), [(119, False), (121, True)])
def test_signing_key_is_marked_when_it_is_overdue(age: int, warned: bool) -> None:
    after = f"authsvc_signing_key_age_seconds {age}\nauthsvc_signing_key_rotate_after_seconds 100\n"
    assert ("the signing key is not rotated" in shown(observed(after=after))) is warned


@pytest.mark.parametrize("count", [0, 1])
def test_pending_migrations_are_marked(count: int) -> None:
    text = shown(observed(after=f"authsvc_migrations_pending {count}\n"))
    assert ("migrations are pending" in text) == bool(count)
    assert ("look: " in text) == bool(count)


def test_what_is_wrong_is_named() -> None:
    text = shown(observed())
    for said in (
        "detected: password_spraying",
        "the signing key is not rotated",
        "the certificate has expired",
        "a:8081 (restart needed)",
    ):
        assert said in text
    other = [
        Observation("a:8081", None, parse(BEFORE, 0)),
        Observation(
            "b:8081",
            None,
            parse(BEFORE.replace("0.2.0", "0.1.0").replace("0123456789ab", "ba"), 0),
        ),
    ]
    text = shown(snapshot(other))
    assert "replicas have different settings, replicas have different versions" in text
    assert "first look" in text


def test_replica_that_is_down_does_not_hide_the_others() -> None:
    up = Observation("a:8081", parse(BEFORE, 0), parse(AFTER, 10))
    text = shown(snapshot([up, Observation("b:8081", problem="can't be reached: refused")]))
    assert text.startswith("1 of 2 replicas, 1,206 calls/s")
    assert "b:8081: can't be reached: refused" in text


def test_replica_without_newer_metrics_is_shown() -> None:
    """An older version lacks some; what is not known is a dash."""
    text = shown(snapshot([Observation("a:8081", None, parse("authsvc_uptime_seconds 5\n", 0))]))
    assert "hashing: - running, - queued" in text
    assert "nothing at the moment" in text


def test_replica_without_labels_that_are_expected_is_shown() -> None:
    text = "authsvc_rpc_calls_total {}\nauthsvc_pool_connections {}\nauthsvc_logins_total {}\n"
    before, after = (parse(text.format(n, n, n), at) for n, at in ((1, 0.0), (5, 2.0)))
    [row] = snapshot([Observation("a", before, after)]).replicas
    assert row.calls_per_second == 2
    for bucket in ("m_bucket 1", 'm_bucket{le="x"} 1'):
        with pytest.raises(ValueError, match="could not convert"):
            parse(bucket, 0)


@pytest.mark.parametrize(("width", "height"), [(30, 10), (40, 24), (80, 24), (149, 50), (200, 60)])
def test_tables_keep_within_the_terminal(width: int, height: int) -> None:
    text = shown(observed("replica-with-a-long-name.example.com:8081"), width, height)
    assert max(map(len, text.splitlines())) <= width
    # Numbers are whole; names give way.
    assert "2,400" in text or "1,200" in text
    assert re.search(r"calls/s", text)


def test_short_terminal_says_how_many_rows_are_left_out() -> None:
    many = AFTER + "".join(
        f'authsvc_rpc_calls_total{{method="/m/{number}",code="OK",reason=""}} 10\n'
        for number in range(20)
    )
    text = shown(observed(after=many), height=24)
    assert "and 19 more" in text


def test_one_row_that_is_left_out_is_said_too() -> None:
    many = AFTER + "".join(
        f'authsvc_rpc_calls_total{{method="/m/{number}",code="OK",reason=""}} 10\n'
        for number in range(2)
    )
    assert "and 1 more" in shown(observed(after=many), height=24)


def test_names_cannot_steer_the_terminal() -> None:
    evil = 'authsvc_rpc_calls_total{method="\x1b[2J",code="OK",reason=""} 10\n'
    assert "\x1b[2J" not in shown(observed(after=AFTER + evil))


def test_metrics_that_are_read_exist() -> None:
    known = {metric.name for _, section in SECTIONS for metric in section}
    named = {metric for metric, _ in numbers._GAUGES.values()} | set(numbers._RATES.values())
    named |= {metric for metric, _ in numbers._QUANTILES.values()}
    in_text = re.findall(r"^(authsvc_\w+?)(?:_bucket)?[ {]", BEFORE + AFTER, re.MULTILINE)
    assert named | set(in_text) <= known


def test_replica_without_its_database_stands_out() -> None:
    text = shown(observed(after=AFTER + "authsvc_database_up 0\n"))
    assert line(text, "a:8081")[1:3] == ["(no", "database)"]
    assert "can't be reached" in text
    assert "database" not in shown(observed(after=AFTER + "authsvc_database_up 1\n"))


def test_certificate_that_ends_soon_is_not_called_expired() -> None:
    soon = f"authsvc_tls_certificate_expire_time_seconds {time.time() + 3_600}\n"
    assert "the certificate ends soon" in shown(observed(after=BEFORE + soon))
