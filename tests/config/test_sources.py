"""Where settings come from: what is tolerated there, and what an operator is told of."""

import json
from pathlib import Path

import pytest

from authsvc.config import ConfigError, load, load_with_notes
from tests.config.conftest import CONFIG, RING, SECRET


@pytest.fixture(autouse=True)
def _no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHSVC_CONFIG", "AUTHSVC_SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)


def _notes(config: Path, secrets: Path) -> list[str]:
    return list(load_with_notes(config, secrets_dir=secrets).notes)


def _problems(config: Path, secrets: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config, secrets_dir=secrets)
    return caught.value.problems


def test_complete_sources_leave_nothing_to_note(config: Path, secrets: Path) -> None:
    (secrets / "..data").mkdir()
    (secrets / ".hidden").write_text("x")
    assert _notes(config, secrets) == []


def test_byte_order_marks_and_line_ends_do_no_harm(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_bytes(b"\xef\xbb\xbf" + CONFIG.replace("\n", "\r\n").encode())
    (secrets / "secrets__keyring").write_text(f"\ufeff{RING}\r\n", newline="")
    monkeypatch.setenv("AUTHSVC_TOKENS__ISSUER", "https://issuer.test\r")
    settings = load(config, secrets_dir=secrets)
    assert settings.tokens.issuer == "https://issuer.test"
    assert settings.secrets.keyring[0].key.get_secret_value() == SECRET


def test_file_in_another_encoding_is_named(config: Path, secrets: Path) -> None:
    config.write_text(CONFIG, encoding="utf-16")
    assert _problems(config, secrets) == [f"settings file {config}: not TOML: not text in UTF-8"]


@pytest.mark.parametrize("value", ["\ufeff{}\r\n", " {}\ufeff", "\r\n\ufeff {}"])
def test_marks_and_blanks_around_a_variable_or_a_secret_do_no_harm(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AUTHSVC_TOKENS__ISSUER", value.format("https://issuer.test"))
    (secrets / "tokens__audience").write_text(value.format("shop"), encoding="utf-8")
    tokens = load(config, secrets_dir=secrets).tokens
    assert (tokens.issuer, tokens.audience) == ("https://issuer.test", "shop")


@pytest.mark.parametrize("value", ["1" * 5_000, "[" * 9_000])
def test_values_that_no_parser_takes_are_a_problem(config: Path, secrets: Path, value: str) -> None:
    config.write_text(f"a = {value}")
    (problem,) = _problems(config, secrets)
    assert problem.startswith(f"settings file {config}: not TOML: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DELIVERY__PRODUCT", "Sh\udcffp"),
        ("DELIVERY__LINKS", '{"verify_email": "\\ud800"}'),
        ("DELIVERY__LINKS", '{"\\ud800": ""}'),
    ],
)
def test_halves_of_characters_name_their_source(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"AUTHSVC_{name}", value)
    expected = [f"environment variable AUTHSVC_{name}: not text in UTF-8"]
    assert _problems(config, secrets) == expected


def test_quotes_of_an_env_file_are_left_out_except_of_secrets(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "TOKENS__ISSUER": '"https://issuer.test"',
        "GRPC__ADDRESS": "'127.0.0.1:9643'",
        "SESSIONS__MAX_PER_USER": '"7"',
        "GRPC__REFLECTION": "'false'",
        "SECOND_FACTORS__REQUIRED_FOR_ROLES": """'["user"]'""",
        "DELIVERY__SMTP__HOST": "mail.test",
        "DELIVERY__SMTP__SENDER": "a@b.test",
        "DELIVERY__SMTP__USERNAME": "a",
        "DELIVERY__SMTP__PASSWORD": '"quoted"',
    }.items():
        monkeypatch.setenv(f"AUTHSVC_{name}", value)
    loaded = load_with_notes(config, secrets_dir=secrets)
    settings = loaded.settings
    assert settings.tokens.issuer == "https://issuer.test"
    assert settings.grpc.address == "127.0.0.1:9643"
    assert (settings.sessions.max_per_user, settings.grpc.reflection) == (7, False)
    assert settings.second_factors.required_for_roles == {"user"}
    assert settings.delivery.smtp is not None
    assert settings.delivery.smtp.password is not None
    assert settings.delivery.smtp.password.get_secret_value() == '"quoted"'
    assert loaded.notes == [
        (
            "environment variable AUTHSVC_DELIVERY__SMTP__PASSWORD: its quotes are taken as part"
            " of the value"
        )
    ]


def test_variables_of_kubernetes_are_ignored(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AUTHSVC_PORT": "tcp://10.0.0.1:8443",
        "AUTHSVC_PORT_8443_TCP": "tcp://10.0.0.1:8443",
        "AUTHSVC_PORT_8443_TCP_ADDR": "10.0.0.1",
        "AUTHSVC_PORT_8443_TCP_PORT": "8443",
        "AUTHSVC_PORT_8443_TCP_PROTO": "tcp",
        "AUTHSVC_SERVICE_HOST": "fd00::1",
        "AUTHSVC_SERVICE_PORT": "8443",
        "AUTHSVC_SERVICE_PORT_GRPC": "8443",
        "AUTHSVC_POSTGRES_RW_SERVICE_HOST": "10.0.0.2",
        "AUTHSVC_POSTGRES_RW_PORT": "tcp://10.0.0.2:5432",
    }.items():
        monkeypatch.setenv(name, value)
    assert _notes(config, secrets) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTHSVC_PORT", "8443"),
        ("AUTHSVC_SERVICE_HOST", "db.example.test"),
        ("AUTHSVC_SERVICE_PORT", "tcp"),
        ("AUTHSVC_GRPC_ADDRESS", "127.0.0.1:8443"),
        ("AUTHSVC_GRPC__PORT", "8443"),
        ("AUTHSVC_DATABASE__URL__X", "a"),
        ("AUTHSVC_", "a"),
        ("authsvc_tokens__isuer", "a"),
    ],
)
def test_mistyped_variables_are_still_told_of(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert _problems(config, secrets) == [f"environment variable {name}: no such setting"]


def test_malformed_json_names_its_source_without_the_secret(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = secrets / "secrets__keyring"
    file.write_text(f'[{{"id": "k1", "key": {SECRET}}}]')
    monkeypatch.setenv("AUTHSVC_CALLERS", "[")
    first, second = _problems(config, secrets)
    assert first.startswith("environment variable AUTHSVC_CALLERS: not JSON, which lists and")
    assert second.startswith(f"secrets file {file}: not JSON, which lists and tables are: ")
    assert second.endswith("line 1, column 22")
    assert SECRET not in second


def test_bad_entry_of_a_keyring_is_one_line(config: Path, secrets: Path) -> None:
    short = json.dumps([{"id": "k1", "key": SECRET[:20]}])
    (secrets / "secrets__keyring").write_text(short)
    assert _problems(config, secrets) == [
        "secrets.keyring.0.key: got a string: expected 32 bytes in base64"
    ]


def test_files_of_no_setting_are_told_of(config: Path, secrets: Path) -> None:
    (secrets / "keystore.p12").write_bytes(b"\xff")
    (secrets / "databse__url").write_text("x")
    assert _notes(config, secrets) == [
        f"secrets folder {secrets}: {name} names no setting; ignored"
        for name in ("databse__url", "keystore.p12")
    ]


def test_misspelt_file_is_named_beside_the_setting_that_is_missing(
    config: Path, secrets: Path
) -> None:
    (secrets / "secrets__peppers").rename(secrets / "peppers")
    assert _problems(config, secrets) == [
        "secrets.peppers: missing, and it has no default",
        f"secrets folder {secrets}: peppers names no setting; ignored",
    ]


def test_variables_that_the_secrets_folder_overrides_are_told_of(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTHSVC_DATABASE__URL", "postgresql://other/db")
    monkeypatch.setenv("AUTHSVC_SECRETS", json.dumps({"peppers": json.loads(RING)}))
    loaded = load_with_notes(config, secrets_dir=secrets)
    assert "authsvc:hidden" in loaded.settings.database.url.get_secret_value()
    assert loaded.notes == [
        (
            f"environment variable AUTHSVC_DATABASE__URL is overridden by secrets file"
            f" {secrets}/database__url"
        ),
        (
            f"environment variable AUTHSVC_SECRETS is overridden by secrets file"
            f" {secrets}/secrets__peppers"
        ),
    ]


def test_key_of_a_table_takes_precedence_over_the_table(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTHSVC_TOKENS__ISSUER", "https://key.test")
    monkeypatch.setenv("AUTHSVC_TOKENS", '{"issuer": "https://table.test", "audience": "table"}')
    tokens = load(config, secrets_dir=secrets).tokens
    assert (tokens.issuer, tokens.audience) == ("https://key.test", "table")


@pytest.mark.parametrize("value", ["on", "1", "TRUE", "yes"])
def test_booleans_of_the_environment_have_several_words(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AUTHSVC_SESSIONS__USER_AGENT_BINDING", value)
    assert load(config, secrets_dir=secrets).sessions.user_agent_binding


@pytest.mark.parametrize(("value", "number"), [("0.05", 0.05), ("0", 0.0), ("1", 1.0)])
def test_numbers_of_the_environment_may_have_a_fraction(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch, value: str, number: float
) -> None:
    monkeypatch.setenv("AUTHSVC_TELEMETRY__TRACES_SAMPLE_RATIO", value)
    assert load(config, secrets_dir=secrets).telemetry.traces_sample_ratio == number


@pytest.mark.parametrize("value", ["1e-2", "0.1.2", "half", "-1", "1.5"])
def test_other_texts_are_no_ratio(
    config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AUTHSVC_TELEMETRY__TRACES_SAMPLE_RATIO", value)
    [problem] = _problems(config, secrets)
    assert problem.startswith("telemetry.traces_sample_ratio: got a")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[tokens]\nissuer = ''", "tokens.issuer: got a string: expected an https:// or http://"),
        ("[tokens]\nissuer = 'https://a b'", "tokens.issuer: got a string"),
        ('[tokens]\nissuer = "https://a\\r"', "tokens.issuer: got a string"),
        ("[tokens]\nissuer = 'auth.example.com'", "tokens.issuer: got a string"),
        ("[tokens]\nissuer = 'https://a?b=c'", "tokens.issuer: got a string"),
        ("[grpc]\naddress = '9643'", "grpc.address: got a string: expected HOST:PORT or unix:PATH"),
        ("[grpc]\naddress = 9643", "grpc.address: got an integer: input should be a valid string"),
        ("[grpc]\naddress = '127.0.0.1:99999'", "grpc.address: got a string"),
        ("[grpc]\naddress = 'nope'", "grpc.address: got a string"),
        ("[grpc]\naddress = '[::1:8443'", "grpc.address: got a string"),
        ("[http]\naddress = 'unix:/run/a.sock'", "http.address: got a string: expected HOST:PORT"),
        ("[http]\naddress = 'http://127.0.0.1:8081'", "http.address: got a string"),
        ("[grpc]\ncall_timeout = '0s'", "grpc.call_timeout: got a string"),
        ("[grpc]\nmax_connection_age = '25d'", "grpc.max_connection_age: got a string"),
        ("[grpc]\nmax_connections = 3000000000", "grpc.max_connections: got an integer"),
        ("[grpc]\nmax_connections = '5'", "grpc.max_connections: got a string"),
        ("[grpc]\nreflection = 1", "grpc.reflection: got an integer"),
        ("[tokens]\nissuer = 1979-05-27", "tokens.issuer: got a date or time: write it as text"),
        ('[delivery]\nproduct = "a\\u0000b"', "delivery.product: got a string"),
    ],
)
def test_what_would_not_work_is_refused_by_name(
    config: Path, secrets: Path, text: str, problem: str
) -> None:
    config.write_text(CONFIG + text)
    (said,) = _problems(config, secrets)
    assert said.startswith(problem)


@pytest.mark.parametrize("address", [":9647", "[::]:9647", "localhost:0", "unix:///run/a.sock"])
def test_addresses_as_people_write_them_are_taken(
    config: Path, secrets: Path, address: str
) -> None:
    config.write_text(f"{CONFIG}[grpc]\naddress = '{address}'")
    assert load(config, secrets_dir=secrets).grpc.address == address
