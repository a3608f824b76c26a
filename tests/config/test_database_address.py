"""Addresses of databases as people and providers write them."""

from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from authsvc.config import DatabaseSettings
from authsvc.config.database_address import DatabaseAddress
from authsvc.dev.postgres import EmbeddedPostgres
from tests.support.certificates import Authority
from tests.support.databases import opened

_SECRET = "hush-hush"


def _parts(url: str) -> dict[str, str]:
    """Return what asyncpg reads from a URL, by its own rules."""
    found = urlsplit(url)
    login = found.netloc.removesuffix("@").partition(":")
    parts = {"user": login[0], "password": login[2], "name": found.path.removeprefix("/")}
    query = {name: values[-1] for name, values in parse_qs(found.query).items()}
    return {name: unquote(value) for name, value in parts.items() if value} | query


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://u:p@db/name", {"user": "u", "password": "p", "host": "db", "name": "name"}),
        (" 'postgresql://u@db:6432'\n", {"user": "u", "host": "db", "port": "6432"}),
        ('"postgresql://db"', {"host": "db"}),
        ("postgresql://", {}),
        ("postgresql:///name?host=/run/pg&port=5433", {"host": "/run/pg", "port": "5433"}),
        ("postgresql://u@%2Frun%2Fpg:5433/name", {"host": "/run/pg", "port": "5433"}),
        ("postgresql://u@[::1]:5433/name", {"host": "[::1]", "port": "5433"}),
        ("postgresql://u:p%40q%25@db/n", {"password": "p@q%"}),
        ("postgresql://u:p@q#r?s/t:%@db/n", {"password": "p@q#r?s/t:%", "host": "db"}),
        ("postgresql://u:'p\"@db/n?application_name=a@b", {"password": "'p\"", "host": "db"}),
        ("postgresql://db/n?user=u&password=p&dbname=x", {"user": "u", "password": "p"}),
        (
            r"host=db port=6432 user=u password='it\'s #1' dbname = n sslmode=require",
            {"host": "db", "port": "6432", "password": "it's #1", "sslmode": "require"},
        ),
        ("host=::1 user=u", {"host": "[::1]", "user": "u"}),
        ("postgresql://u@db/n?ssl=true", {"sslmode": "require"}),
    ],
)
def test_forms_of_addresses_are_read(text: str, expected: dict[str, str]) -> None:
    (url,) = DatabaseAddress.parse(text).hosts
    parts = _parts(url)
    assert {name: parts.get(name) for name in expected} == expected


def test_hosts_keep_their_order_and_ports() -> None:
    for text in (
        "postgresql://u:p@one,two:6433,[::1]:6434/n",
        "host=one,two,::1 port=5432,6433,6434 user=u password=p dbname=n",
    ):
        read = [_parts(url) for url in DatabaseAddress.parse(text).hosts]
        assert [parts["host"] for parts in read] == ["one", "two", "[::1]"]
        assert [parts.get("port", "5432") for parts in read] == ["5432", "6433", "6434"]
        assert {parts["password"] for parts in read} == {"p"}


@given(password=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_password_may_be_quoted(password: str) -> None:
    value = password.replace("\\", r"\\").replace("'", r"\'")
    (url,) = DatabaseAddress.parse(f"host=db user=u password='{value}'").hosts
    assert _parts(url).get("password", "") == password


def test_parameters_are_honoured_or_left_out_with_a_note() -> None:
    address = DatabaseAddress.parse(
        "postgresql://u:p@db/n?sslmode=require&channel_binding=require&connect_timeout=10"
        "&pgbouncer=true&application_name=shop&options=-c%20geqo%3Doff&connection_limit=5"
        "&target_session_attrs=read-write&schema=public&search_path=auth"
    )
    assert address.connect_timeout == 10
    assert not address.names_statements
    assert dict(address.session) == {
        "application_name": "shop",
        "options": "-c geqo=off",
        "search_path": "auth",
    }
    assert [note.partition(" is left out: ")[0] for note in address.notes] == [
        "channel_binding",
        "connection_limit",
        "target_session_attrs",
        "schema",
    ]
    settings = DatabaseSettings.model_validate({"url": "postgresql://db?channel_binding=prefer"})
    assert len(settings.notes) == 1
    assert settings.notes[0].startswith("database.url: channel_binding is left out")


def test_authorities_of_the_system_are_trusted_without_a_file(
    tmp_path: Path, authority: Authority
) -> None:
    root = tmp_path / "root.crt"
    root.write_bytes(authority.certificate)
    for query, trusts in {
        "": False,
        "?sslmode=require": False,
        "?sslmode=verify-full": True,
        "?sslmode=verify-full&sslrootcert=system": True,
        f"?sslmode=verify-full&sslrootcert={root}": False,
    }.items():
        assert DatabaseAddress.parse(f"postgresql://db{query}").trusts_system is trusts


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"mysql://u:{_SECRET}@db/n", "begin with postgresql://, not mysql:"),
        (f"jdbc:postgresql://u:{_SECRET}@db/n", "begin with postgresql://, not jdbc:"),
        ("", "empty"),
        (_SECRET, "of the form"),
        (f"postgresql://u:{_SECRET}@[::1/n", "host or port is malformed"),
        (f"postgresql://u:x@db:{_SECRET}/n", "host or port is malformed"),
        ("postgresql://u@db:65536/n", "port is not a number"),
        ("postgresql://u@one,two/n?host=a,b&port=1,2,3", "number of ports"),
        (f"postgresql://db/n?sslmode={_SECRET}", "sslmode is none of"),
        ("postgresql://db/n?ssl_mode=verify-full", "parameter ssl_mode, which the service"),
        ("postgresql://db/n?sslrootcert=/nowhere/ca.crt", "can't be read: /nowhere/ca.crt"),
        ("postgresql://db/n?connect_timeout=soon", "connect_timeout is not a number"),
        ("postgresql://db/n?target_session_attrs=standby", "has to write"),
        ("postgresql://db/n?schema=auth", "search_path"),
        ("postgresql://db/n?sslmode", "without a value"),
        ("postgresql://db/n?sslmode=verify-full&sslcert=/dev/null", "needs an sslrootcert"),
        ("postgresql://db/n?sslmode=require&sslrootcert=/etc", "can't be read: /etc"),
        ("postgresql://db/n?sslmode=require&sslrootcert=/dev/null", "without valid cert"),
        ("postgresql://db/n?sslnegotiation=direct", "needs an sslmode of require"),
        ("postgresql://db/n?sslnegotiation=straight", "sslnegotiation is none of"),
        ("postgresql://db/n?ssl_min_protocol_version=TLSv9", "version is none of"),
        (f"postgresql+psycopg2://u:{_SECRET}@db/n", "not postgresql+psycopg2:"),
        (f"postgresql://u:{_SECRET}@db..internal/n", "host or port is malformed"),
        (f"postgresql://u:{_SECRET}@{'d' * 64}/n", "host or port is malformed"),
    ],
)
def test_unusable_address_is_refused_without_its_secret(text: str, problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        DatabaseSettings.model_validate({"url": text})
    (found,) = refused.value.errors()
    assert problem in found["msg"]
    assert _SECRET not in found["msg"]


@pytest.mark.parametrize("password", ["a@b?c", "a@b/c?d'e", "a#b@c/d?e'f\""])
def test_part_of_a_password_is_not_taken_for_hosts_and_parameters(password: str) -> None:
    (host,) = DatabaseAddress.parse(f"postgresql://u:{password}@db:5432/n?sslmode=require").hosts
    assert urlsplit(host).password == quote(password, safe="")
    assert parse_qs(urlsplit(host).query)["host"] == ["db"]


@pytest.mark.parametrize("socket", ["/run/a:b", "/cloudsql/project:region:instance"])
@pytest.mark.parametrize("form", ["postgresql://u:p@/n?host={}", "host={} user=u dbname=n"])
def test_folder_of_a_socket_may_contain_colons(socket: str, form: str) -> None:
    (host,) = DatabaseAddress.parse(form.format(socket)).hosts
    assert parse_qs(urlsplit(host).query)["host"] == [socket]


async def test_awkward_login_works_unescaped(own_server: EmbeddedPostgres) -> None:
    owner = await asyncpg.connect(own_server.dsn(user="postgres"))
    await owner.execute("""CREATE ROLE "o'brien@shop" LOGIN PASSWORD 'a@b#c/d?e%f:g''h"i'""")
    await owner.close()
    where = urlsplit(own_server.dsn()).query
    for address in (
        f"""postgres://o'brien%40shop:a@b#c/d?e%f:g'h"i@/authsvc?{where}""",
        r"""user=o\'brien@shop password='a@b#c/d?e%f:g\'h"i' dbname=authsvc """
        + where.replace("&", " "),
    ):
        async with opened(address) as database:
            await database.ping()
