"""The loading of settings: precedence of sources, rejected settings and their errors."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from authsvc.config import ConfigError, Settings, load
from authsvc.models.calls import Role
from authsvc.models.limits import Algorithm
from tests.config.conftest import CONFIG, SECRET


def _problems(config: Path, secrets: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config, secrets_dir=secrets)
    return caught.value.problems


def test_defaults_match_shipped_settings(config: Path, secrets: Path) -> None:
    settings = load(config, secrets_dir=secrets)
    policies = settings.rate_limits.all_policies()
    assert set(policies) == {"login", "api", "upload"}
    login = policies["login"]
    assert (login.requests, login.window, login.burst) == (5, timedelta(minutes=5), 10)
    assert login.algorithm is Algorithm.TOKEN_BUCKET
    assert settings.tokens.access_lifetime == timedelta(hours=1)
    assert settings.sessions.max_per_user == 5
    assert settings.permissions == {"user": ("read", "write")}


def test_later_sources_take_precedence(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(CONFIG + '[tokens]\nissuer = "https://file"\naudience = "file"\n')
    assert load(config, secrets_dir=secrets).tokens.issuer == "https://file"
    monkeypatch.setenv("AUTHSVC_TOKENS__ISSUER", "https://environment")
    settings = load(config, secrets_dir=secrets)
    assert (settings.tokens.issuer, settings.tokens.audience) == ("https://environment", "file")
    (secrets / "tokens__issuer").write_text("https://folder")
    assert load(config, secrets_dir=secrets).tokens.issuer == "https://folder"


def test_environment_variables_name_sources(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTHSVC_CONFIG", str(config))
    monkeypatch.setenv("AUTHSVC_SECRETS_DIR", str(secrets))
    assert load().database.url.get_secret_value().startswith("postgresql://")


def test_custom_policies_extend_default_ones(config: Path, secrets: Path) -> None:
    config.write_text(
        CONFIG + '[rate_limits.policies.mail]\nrequests = 3\nwindow = "1d"\n'
        'algorithm = "fixed_window"\n'
    )
    policies = load(config, secrets_dir=secrets).rate_limits.all_policies()
    assert policies["mail"].algorithm is Algorithm.FIXED_WINDOW
    assert policies["mail"].window == timedelta(days=1)
    assert "login" in policies


def test_callers_are_loaded_with_roles(config: Path, secrets: Path) -> None:
    config.write_text(
        CONFIG + '[[callers]]\nidentity = "spiffe://test/shop"\nroles = ["app", "issuer"]\n'
        '[[callers]]\nidentity = "dns:edge.internal"\nroles = ["edge"]\n'
    )
    first, second = load(config, secrets_dir=secrets).callers
    assert first.roles == {Role.APP, Role.ISSUER}
    assert second.identity == "dns:edge.internal"
    assert (first.audiences, first.scopes) == (frozenset(), frozenset())


def test_callers_are_loaded_with_audiences_and_scopes(config: Path, secrets: Path) -> None:
    config.write_text(
        CONFIG + "[[callers]]\nidentity = 'dns:a'\nroles = ['app']\n"
        "audiences = ['billing', 'https://ledger.test']\nscopes = ['invoices.read']\n"
    )
    (caller,) = load(config, secrets_dir=secrets).callers
    assert caller.audiences == {"billing", "https://ledger.test"}
    assert caller.scopes == {"invoices.read"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[grpc]\nmax_message_bytes = "many"', "grpc.max_message_bytes: got a string: "),
        ("[grpc]\nmax_message_bytes = 1", "grpc.max_message_bytes: got an integer: "),
        ("[grpc]\nmax_mesage_bytes = 65536", "grpc.max_mesage_bytes: no such setting"),
        ("[gprc]\naddress = ':1'", "gprc: no such setting"),
        (
            "[tokens]\nrefresh_grace = '301s'",
            "tokens.refresh_grace: got a string: expected a duration from 0s to 300s",
        ),
        ("[tokens]\nrefresh_grace = 'soon'", "tokens.refresh_grace: got a string: expected a dur"),
        ("[tokens]\nalgorithm = 'none'", "tokens.algorithm: got a string: input should be 'ES256'"),
        ("[passwords]\nargon2_memory_kib = 1024", "passwords.argon2_memory_kib: got an integer: "),
        ("[passwords]\nargon2_time_cost = 1", "passwords.argon2_time_cost: got an integer: "),
        ("[[callers]]\nidentity = 'spiffe://test/'\nroles = ['app']", "callers.0.identity: got"),
        ("[[callers]]\nidentity = 'dns:a'\nroles = ['root']", "callers.0.roles.0: got a string: "),
        ("[[callers]]\nidentity = 'dns:a'\nroles = []", "callers.0.roles: expected at least 1"),
        (
            "[[callers]]\nidentity = 'dns:a'\nroles = ['app']\naudiences = ['a b']",
            "callers.0.audiences.0: got a string: ",
        ),
        (
            "[[callers]]\nidentity = 'dns:a'\nroles = ['app']\nscopes = ['a b']",
            "callers.0.scopes.0: got a string: ",
        ),
        ("[audit.forward]\ntarget = 'syslog'", "audit.forward: target is 'syslog', so syslog must"),
        (
            (
                "[audit.forward]\ntarget = 'syslog'\nsyslog.host = 'a'\n"
                "[retention]\naudit_events = '6d'"
            ),
            "settings: retention.audit_events must be at least 7d with audit.forward",
        ),
        (
            "[tokens]\naccess_lifetime = '5d'\n[retention]\nsessions = '4d'",
            "settings: retention.sessions must be at least tokens.access_lifetime",
        ),
        (
            "[tokens]\nsession_key_lifetime = '31d'",
            "settings: retention.revocations must be at least tokens.access_lifetime,",
        ),
        (
            "[api_keys]\npolicy = 'nobody-s'",
            "settings: api_keys.policy is not one of rate_limits.policies",
        ),
        ("[api_keys]\nprefix = 'A_B'", "api_keys.prefix: got a string: "),
        (
            "[api_keys]\nmax_lifetime = '3651d'",
            "api_keys.max_lifetime: got a string: expected a duration from 1m to 3650d",
        ),
        (
            "[second_factors]\nchallenge_lifetime = '11m'",
            "second_factors.challenge_lifetime: got a string: expected a duration from 30s to 10m",
        ),
        (
            "[second_factors]\ntrusted_device_lifetime = '366d'",
            "second_factors.trusted_device_lifetime: got a string: expected a duration from 0s",
        ),
        (
            "[second_factors]\nrecent_login = '25h'",
            "second_factors.recent_login: got a string: expected a duration from 1m to 24h",
        ),
        (
            "[tokens]\nservice_lifetime = '1ms'",
            "tokens.service_lifetime: got a string: expected a duration of at least 1s",
        ),
        (
            "[[callers]]\nidentity = 'dns:a'\nroles = ['app']\n" * 2,
            "settings: callers has duplicate identities: dns:a",
        ),
        (
            "[rate_limits.policies.x]\nrequests = -1\nwindow = '1s'",
            "rate_limits.policies.x.requests: got an integer: ",
        ),
        (
            "[rate_limits.policies.x]\nrequests = 1\nwindow = '1ms'",
            "rate_limits.policies.x.window: got a string: expected a duration from 1s to 366d",
        ),
        ("[permissions]\nuser = ['read all']", "permissions.user.0: got a string: "),
        ("[permissions]\n'' = ['read']", "permissions."),
        (
            "[rate_limits.policies.'authsvc.login.ip']\nrequests = 1\nwindow = '1s'",
            "rate_limits.policies.authsvc.login.ip",
        ),
        ("[retention]\nsessions = '99999999999999d'", "retention.sessions: got a string: expected"),
        ("[retention]\nsessions = '36501d'", "of at most 36500d"),
        ("[retention]\nsessions = 30", "retention.sessions: got an integer: expected a duration"),
        ("[tls", "not TOML"),
        ("[grpc]\naddress = '127.0.0.1:8081'\n[http]\naddress = '127.0.0.1:8081'", "are the same"),
    ],
)
def test_error_names_key_and_expected_value(
    config: Path, secrets: Path, text: str, problem: str
) -> None:
    config.write_text(CONFIG + text)
    (said,) = _problems(config, secrets)
    assert problem in said


def test_every_missing_key_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError) as caught:
        load(secrets_dir=empty)
    assert caught.value.problems == [
        f"{key}: missing, and it has no default" for key in ("tls", "database", "secrets")
    ]


def test_unknown_variables_are_rejected(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTHSVC_TOKENS__ISUER", "https://x")
    assert _problems(config, secrets) == [
        "environment variable AUTHSVC_TOKENS__ISUER: no such setting"
    ]


def test_unknown_files_in_secrets_folder_are_rejected(config: Path, secrets: Path) -> None:
    (secrets / "database__pasword").write_text("x")
    assert _problems(config, secrets) == ["database.pasword: no such setting"]


def test_secret_that_is_not_text_is_named_without_showing_it(config: Path, secrets: Path) -> None:
    file = secrets / "secrets__keyring"
    file.write_bytes(SECRET.encode() + b"\xff")
    assert _problems(config, secrets) == [f"secrets file {file}: not text in UTF-8"]


def test_files_that_name_no_section_may_have_any_content(config: Path, secrets: Path) -> None:
    (secrets / ".database__url.swp").write_bytes(b"\xff")
    (secrets / "keystore.p12").write_bytes(b"\xff")
    (secrets / "tokens__issuer").write_text("\ufeffhttps://marked.test\n")
    assert load(config, secrets_dir=secrets).tokens.issuer == "https://marked.test"


@pytest.mark.parametrize("missing", ["file", "folder"])
def test_missing_source_is_named(config: Path, secrets: Path, missing: str) -> None:
    if missing == "file":
        config = config.with_name("nowhere.toml")
    else:
        secrets = secrets.with_name("nowhere")
    (said,) = _problems(config, secrets)
    assert "nowhere" in said


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        json.dumps([{"id": "k1", "key": SECRET[:20]}]),
        json.dumps([{"id": "k1", "key": SECRET}, {"id": "k1", "key": SECRET}]),
        json.dumps([{"id": "K 1", "key": SECRET}]),
        json.dumps([]),
    ],
)
def test_invalid_keyring_is_rejected_without_showing_it(
    config: Path, secrets: Path, text: str
) -> None:
    (secrets / "secrets__keyring").write_text(text)
    problems = _problems(config, secrets)
    assert problems
    assert SECRET[:20] not in "".join(problems)


def test_secrets_are_hidden_in_repr_and_json(config: Path, secrets: Path) -> None:
    settings = load(config, secrets_dir=secrets)
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert SECRET not in shown
    assert "hidden" not in shown


def test_settings_are_frozen(config: Path, secrets: Path) -> None:
    settings = load(config, secrets_dir=secrets)
    with pytest.raises(ValueError, match="frozen"):
        settings.tokens.issuer = "https://other"  # type: ignore[misc]  # the point
    assert isinstance(settings, Settings)
