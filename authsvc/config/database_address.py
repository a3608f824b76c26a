"""Owns the reading of a database's address, as PostgreSQL's own programs and providers write it.

Two forms: a URL (`postgresql://user:password@host:5432/name?sslmode=require`, with several hosts
separated by commas) and names with values (`host=… password='…'`). What the service can't use is
either left out with a note, if it is harmless to do so, or refused.
"""

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlencode

_FORM = "it should be of the form postgresql://user:password@host:port/name"
_SCHEMES = ("postgresql://", "postgres://")
# What may follow the `@` of a URL: hosts, a name without the characters that come next, parameters.
# The names of these are plain words: other text between `?` and `=` belongs to a password.
_PARAMETER = r"(?:[\w.-]+(?:=[^&]*)?)?"
_AFTER_LOGIN = re.compile(
    r"(?P<hosts>[^/?#@]*)(?:/(?P<name>[^/?#@]*))?"
    rf"(?:\?(?P<query>{_PARAMETER}(?:&{_PARAMETER})*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]*)(?::(?P<port>\d{1,5}))?")
# Cloud SQL's folders contain colons.
_SOCKET = re.compile(r"(?P<folder>/.*?)(?::(?P<port>\d{1,5}))?")
_PAIR = re.compile(
    r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?:\s+|$)", re.DOTALL
)

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_TLS = (
    "sslmode",
    *_TLS_FILES,
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_SYSTEM = "system"
_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Settings of the server's session that an address may carry.
_SESSION = (
    "application_name",
    "options",
    "search_path",
    "role",
    "lock_timeout",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
)
_OTHER_NAMES = {
    "database": "dbname",
    "fallback_application_name": "application_name",
    "ssl": "sslmode",
}
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_TLS_WORDS = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
# Of other drivers, for a pooler: PgBouncer, Rails, JDBC.
_UNNAMED = {"pgbouncer": "true", "prepared_statements": "false", "preparethreshold": "0"}
_LEFT_OUT = {
    "channel_binding": "the driver has none; sslmode=verify-full keeps others out as well",
    "connection_limit": "database.pool_max limits the connections",
    "pool_timeout": "database.acquire_timeout is what a call waits for a connection",
    "socket_timeout": "database.command_timeout is what a statement may take",
    "statement_cache_size": "database.statement_cache_size is the setting",
    "load_balance_hosts": "the hosts are tried in order, from the one that accepted last",
    "target_session_attrs": "the service uses a server only if it is writable",
} | dict.fromkeys(
    (
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "client_encoding",
        "gssencmode",
        "sslcompression",
        "sslsni",
        "uselibpqcompat",
        "supa",
        "workaround",
    ),
    "the service does without it",
)
_READ_ONLY = ("standby", "read-only", "prefer-standby")


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """An address: a URL for each host, in order, and what does not belong into one.

    `connect_timeout` is in seconds, None if the address has none. Without `names_statements`, the
    address says that there is a pooler. With `trusts_system`, the server's certificate has to be
    one that the system's authorities vouch for. `notes` are sentences for the operator.
    """

    hosts: Sequence[str] = field(repr=False)
    session: Mapping[str, str]
    connect_timeout: float | None
    names_statements: bool
    trusts_system: bool
    notes: Sequence[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address; raises ValueError with a sentence that quotes no secret."""
        text = text.strip()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            text = text[1:-1]
        if text.startswith(_SCHEMES):
            hosts, values = _read_url(text.partition("://")[2])
        elif found := re.match(r"([a-z][a-z0-9+.-]*):", text, re.IGNORECASE):
            scheme = found[1]
            raise ValueError(f"it should begin with postgresql://, not {scheme}:")
        else:
            hosts, values = _read_pairs(text)
        return cls._build(hosts, {_OTHER_NAMES.get(name, name): values[name] for name in values})

    @classmethod
    def _build(cls, hosts: Sequence[tuple[str, str]], values: Mapping[str, str]) -> Self:
        rest = dict(values)
        login = {name: rest.pop(name) for name in ("user", "password", "dbname") if name in rest}
        tls = {name: rest.pop(name) for name in _TLS if rest.get(name)}
        if "sslmode" in tls:
            tls["sslmode"] = _TLS_WORDS.get(tls["sslmode"], tls["sslmode"])
        _check_tls(tls)
        trusts_system = _trusts_system(tls)
        if trusts_system and "sslcert" in tls:
            raise ValueError("its sslcert needs an sslrootcert that names a file")
        session = {name: rest.pop(name) for name in _SESSION if name in rest}
        timeout = rest.pop("connect_timeout", "0")
        if not timeout.isdigit():
            raise ValueError("its connect_timeout is not a number of seconds")
        unnamed = [rest.pop(name) == word for name, word in _UNNAMED.items() if name in rest]
        return cls(
            hosts=tuple(_url(host, port, login | tls) for host, port in hosts),
            session=session,
            connect_timeout=float(timeout) or None,
            names_statements=not any(unnamed),
            trusts_system=trusts_system,
            notes=tuple(_notes(rest)),
        )


def _read_url(rest: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    login, after = _split_login(rest)
    user, _, password = login.partition(":")
    values = {"user": unquote(user), "password": unquote(password)}
    values["dbname"] = unquote(after["name"] or "")
    query: dict[str, str] = {}
    for pair in filter(None, (after["query"] or "").split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError("it has a parameter without a value")
        query[unquote(name).lower()] = unquote(value)
    hosts = [_host(unquote(part)) for part in after["hosts"].split(",")]
    if "host" in query:
        hosts = _with_ports(query.pop("host"), query.pop("port", ""))
    # As a parameter, each of them counts only if the URL has none elsewhere.
    values = {name: value for name, value in values.items() if value}
    return hosts, query | values


def _split_login(rest: str) -> tuple[str, re.Match[str]]:
    """Split at the first `@` that hosts can follow, so that passwords need no escapes."""
    for at in (each.start() for each in re.finditer("@", rest)):
        if found := _AFTER_LOGIN.fullmatch(rest, at + 1):
            return rest[:at], found
    if found := _AFTER_LOGIN.fullmatch(rest):
        return "", found
    raise ValueError(_FORM)


def _read_pairs(text: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    values, at = dict[str, str](), 0
    while at < len(text):
        found = _PAIR.match(text, at)
        if found is None:
            raise ValueError(_FORM)
        value = found[2] if found[2] is not None else found[3]
        values[found[1].lower()] = re.sub(r"\\(.)", r"\1", value)
        at = found.end()
    if not values:
        raise ValueError("it is empty")
    return _with_ports(values.pop("host", ""), values.pop("port", "")), values


def _with_ports(hosts: str, ports: str) -> list[tuple[str, str]]:
    found = [_host(part) for part in hosts.split(",")]
    given = ports.split(",")
    if len(given) not in {1, len(found)}:
        raise ValueError("it has another number of ports than of hosts")
    return [
        (host, _port(port or given[-1] if len(given) == 1 else given[index]))
        for index, (host, port) in enumerate(found)
    ]


def _host(text: str) -> tuple[str, str]:
    if found := _SOCKET.fullmatch(text):
        return found["folder"], _port(found["port"] or "")
    if text.count(":") > 1 and not text.startswith("["):
        return f"[{text}]", ""
    found = _HOST.fullmatch(text)
    if found is None or not _is_host(found["host"]):
        raise ValueError("its host or port is malformed")
    return found["host"], _port(found["port"] or "")


def _is_host(text: str) -> bool:
    """Return whether the resolver takes a name: none of its labels is empty or too long."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return True


def _port(text: str) -> str:
    if text and not (text.isdigit() and 0 < int(text) < 65_536):
        raise ValueError("its port is not a number from 1 to 65535")
    return text


def _url(host: str, port: str, values: Mapping[str, str]) -> str:
    """Return a URL in which everything is quoted."""
    named = {"host": host, "port": port if host else ""} | dict(values)
    login = ":".join(quote(named.pop(name, ""), safe="") for name in ("user", "password"))
    name = quote(named.pop("dbname", ""), safe="")
    query = urlencode({name: value for name, value in named.items() if value}, quote_via=quote)
    return f"postgresql://{login}@{name and '/' + name}{query and '?' + query}"


def _check_tls(tls: Mapping[str, str]) -> None:
    mode = tls.get("sslmode", "prefer")
    if mode not in _TLS_MODES:
        raise ValueError(f"its sslmode is none of {', '.join(_TLS_MODES)}")
    if tls.get("sslnegotiation", "postgres") not in {"postgres", "direct"}:
        raise ValueError("its sslnegotiation is none of postgres, direct")
    if tls.get("sslnegotiation") == "direct" and mode not in _TLS_MODES[3:]:
        raise ValueError(
            f"its sslnegotiation=direct needs an sslmode of {_TLS_MODES[3]} or stricter"
        )
    for name in ("ssl_min_protocol_version", "ssl_max_protocol_version"):
        if name in tls and tls[name] not in _TLS_VERSIONS:
            raise ValueError(f"its {name} is none of {', '.join(_TLS_VERSIONS)}")
    for name in _TLS_FILES:
        path = tls.get(name)
        if not path or path == _SYSTEM:
            continue
        if Path(path).is_dir() or not os.access(path, os.R_OK):
            raise ValueError(f"its {name} names a file that can't be read: {path}")
        if name == "sslrootcert" and not _has_certificates(path):
            raise ValueError(f"its {name} names a file without valid certificates: {path}")


def _has_certificates(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


def _trusts_system(tls: Mapping[str, str]) -> bool:
    """Return whether the authorities of the system say which server is the right one."""
    root = tls.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if root is None and tls.get("sslmode") == "verify-full":
        # Where PostgreSQL's own programs look.
        return not (Path("~").expanduser() / ".postgresql" / "root.crt").exists()
    return root == _SYSTEM


def _notes(rest: Mapping[str, str]) -> list[str]:
    notes = []
    for name, value in rest.items():
        if name == "target_session_attrs" and value in _READ_ONLY:
            raise ValueError(f"its target_session_attrs is {value}, but the service has to write")
        if name == "schema" and value != "public":
            raise ValueError("it names a schema: write options=-csearch_path%3D… instead")
        if name != "schema" and name not in _LEFT_OUT:
            raise ValueError(f"it has the parameter {name}, which the service does not know")
        notes.append(f"{name} is left out: {_LEFT_OUT.get(name, 'public is where tables are')}")
    return notes
