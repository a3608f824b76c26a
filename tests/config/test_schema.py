"""The JSON Schema accepts exactly the values that the loader accepts."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.config import ConfigError
from authsvc.config.loading import validate
from authsvc.config.schema import resolve, settings_schema

_KEY = {"id": "a", "key": "A" * 43 + "="}
# Each optional table is there, so that every key has a place.
_WHOLE: dict[str, Any] = {
    "tls": {"certificate_file": "c", "key_file": "k", "client_ca_file": "a"},
    "http": {"tls": {"certificate_file": "c", "key_file": "k", "client_ca_file": "a"}},
    "callers": [{"identity": "dns:a", "roles": ["app"]}],
    "database": {"url": "postgresql://db"},
    "secrets": {"keyring": [_KEY], "peppers": [_KEY]},
    "rate_limits": {"policies": {"x": {"requests": 1, "window": "1s"}}},
    # Then http is taken of every host.
    "telemetry": {"plaintext": True},
    "delivery": {
        "smtp": {"host": "mail", "sender": "a@b.test"},
        "webhook": {"url": "https://hook", "secrets": ["whsec_" + "A" * 32]},
        "links": {"verify_email": "https://a"},
    },
    "oauth": {"providers": {"p": {"kind": "github", "client_id": "c", "client_secret": "s"}}},
}
_TEXTS = (
    "", " ", "a", "A", "a b", "a\r", "a\n", "\ufeffa", "é", "-", "0", "1", "true", "null", "none",
    ":9647", "9643", "127.0.0.1:99999", "nope", "127.0.0.1:0", "[::1]:1", "[:::]:1", "[::1", "*:1",
    "1.2.3:4", "256.1.1.1:1", "localhost:65535", "localhost:65536", "unix:/run/x", "unix:", "a:01",
    "https://", "https://a", "https://a b", "https://a\r", "https://a/ ", '"https://a"',
    "https://a?b", "https://a#b", "https://u@a", "http://a", "http://localhost:8080", "HTTP://a",
    "https://a:0", "https://é", "ftp://a", "//a", "a.example:/x", "https://a/{code}",
    "https://a/{x}", "example.com", "Example.com", "http://localhost", "https://a/", "0s", "1s",
    "30s", "10m", "601s", "10m1ms", "1h", "24h", "1d", "PT1H", "3600", "1.5h", "-1s", "1h30m",
    "90m", "30m1h", "1h90m", "36500d", "36501d", "2.592e+06s", "1 h", "1H", "app", "none", "1.2",
    "ES256", "a@b.test", "A <a@b.test>", "a, b <c@d>", "dns:a", "spiffe://a/b", "spiffe://a",
    "authsvc.x", "user", "A" * 43 + "=", "A" * 44, "whsec_" + "A" * 32, "whsec_" + "A" * 31,
    "whsec_" + "A" * 86 + "==", "whsec_" + "A" * 88, "x" * 64, "x" * 65, "x" * 256, "x" * 257,
)  # fmt: skip
_OTHERS: tuple[object, ...] = (
    None, True, False, 0, 1, 2, -1, 5.0, 0.5, 1e300, 64, 65, 1024, 65_536, 10**9, 10**9 + 1, 10**30,
    [], ["app"], ["app", "app"], [1], [None], ["a b"], [""], {}, {"a": 1}, {"a": "https://b"},
    ["https://a"], ["https://localhost"], [[]],
)  # fmt: skip


def _ecma(pattern: str) -> str:
    """Return a pattern in which `$` is the end of the text, as in JSON Schema, for Python."""
    return re.sub(r"\$$", r"\\Z", pattern)


def _pattern(_: Any, pattern: str, text: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(text, str) and not re.search(_ecma(pattern), text):
        yield jsonschema.ValidationError("pattern")


_SCHEMA = json.loads(
    json.dumps(settings_schema()), object_hook=lambda table: {_ecma(k): v for k, v in table.items()}
)
_KIND = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})
_VALIDATOR = _KIND(_SCHEMA)
# Their form is libpq's, of which the schema says only that they are text.
_ADDRESSES = ("database.url", "database.listener_url")


def _keys(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every key, through the tables and lists of the document, and its schema."""
    resolved = resolve(schema)
    if isinstance(value, list):
        for at, item in enumerate(value[:1]):
            yield from _keys(resolved["items"], item, f"{path}{at}.")
    tables = [*resolved.get("patternProperties", {}).values(), resolved.get("additionalProperties")]
    inner = dict(resolved.get("properties", {}))
    if isinstance(value, dict) and tables[0]:
        inner |= dict.fromkeys(value, tables[0])
    for name, part in inner.items():
        yield f"{path}{name}", part
        yield from _keys(
            part, value.get(name, {}) if isinstance(value, dict) else {}, f"{path}{name}."
        )


KEYS = dict(_keys(_SCHEMA, _WHOLE, ""))


def _with(path: Sequence[str], value: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(_WHOLE))
    place: Any = document
    for name in path[:-1]:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    place[path[-1]] = value
    return document


def _loader_accepts(key: str, value: object) -> bool:
    try:
        validate(_with(key.split("."), value))
    except ConfigError as error:
        # What relates several keys to one another is reported for the table that has them.
        return not any(re.match(rf"{re.escape(key)}[:.]", problem) for problem in error.problems)
    return True


def _compare(key: str, values: Iterable[object]) -> None:
    validator = _KIND(KEYS[key] | {"$defs": _SCHEMA["$defs"]})
    for value in values:
        loader, schema = _loader_accepts(key, value), validator.is_valid(value)
        if key in _ADDRESSES and schema and isinstance(value, str):
            continue
        assert loader == schema, f"{key} = {value!r}: accepted by loader {loader}, schema {schema}"


def test_every_key_is_covered() -> None:
    assert len(KEYS) > 150
    assert _VALIDATOR.is_valid(_WHOLE)
    validate(_WHOLE)


@pytest.mark.slow
@pytest.mark.parametrize("section", sorted({key.partition(".")[0] for key in KEYS}))
def test_schema_and_loader_agree_on_every_value(section: str) -> None:
    # The many policies are alike.
    distinct = {
        str(schema): key for key, schema in KEYS.items() if key.partition(".")[0] == section
    }
    for key in distinct.values():
        _compare(key, (*_TEXTS, *_OTHERS))


_DURATIONS = st.from_regex(
    r"([0-9]{1,5}d)?([0-9]{1,6}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?([0-9]{1,4}ms)?", fullmatch=True
)
_URLS = st.from_regex(r"(https?://)?[a-zA-Z0-9.:\[\]/@?#{} -]{0,20}", fullmatch=True)


@settings(max_examples=300)
@given(
    key=st.sampled_from(sorted(KEYS)),
    value=_DURATIONS | st.integers() | st.text(max_size=12) | _URLS,
)
def test_schema_and_loader_agree_on_any_value(key: str, value: object) -> None:
    _compare(key, [value])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("rate_limits", "policies"), "authsvc.x"),
        (("rate_limits", "policies"), "authsvcx"),
        (("rate_limits", "policies"), "A"),
        (("oauth", "providers"), "1"),
        (("permissions",), ""),
        (("permissions",), "x" * 33),
        (("delivery", "links"), "Any name"),
        (("grpc",), "addr"),
        ((), "gprc"),
    ],
)
def test_schema_and_loader_agree_on_names(path: tuple[str, ...], name: str) -> None:
    valid = {
        "rate_limits": {"requests": 1, "window": "1s"},
        "permissions": [],
        "delivery": "https://a",
    }
    valid["oauth"] = _WHOLE["oauth"]["providers"]["p"]
    document = _with((*path, name), valid.get(path[0] if path else "", 1))
    try:
        validate(document)
    except ConfigError:
        loads = False
    else:
        loads = True
    assert loads == _VALIDATOR.is_valid(document)


def test_every_key_is_described() -> None:
    sections = settings_schema()["$defs"].items()
    bare = [
        f"{section}.{name}"
        for section, schema in sections
        for name, value in schema.get("properties", {}).items()
        if not value.get("description")
    ]
    assert bare == []


def test_defaults_are_spelled_as_they_are_read() -> None:
    assert "PT" not in re.findall(r'"default": "([^"]*)"', json.dumps(settings_schema()))
    lifetime = settings_schema()["$defs"]["TokenSettings"]["properties"]["access_lifetime"]
    assert lifetime["default"] == "1h"
    policy = settings_schema()["$defs"]["CodeSettings"]["properties"]["requests_per_ip"]
    assert policy["default"]["window"] == "1h"
