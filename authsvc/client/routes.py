"""Owns the rules of a guarded service: what each of its routes demands."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from authsvc.client.when_degraded import Ask, WhenDegraded

# Open, as whoever probes a service has no token.
HEALTH = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.health.v1.Health/List",
    "GET /healthz",
    "GET /livez",
    "GET /readyz",
)

_PATTERN = re.compile(r"(?:(?P<method>[A-Z]+) )?(?P<path>/\S*)", re.ASCII)
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}", re.ASCII)
# What some frameworks read as another path: empty and dot segments, backslashes, control
# characters, and what is still encoded after decoding.
_AMBIGUOUS = re.compile(
    r"//|/\.{1,2}(?:/|\Z)|[\\\x00-\x1f\x7f\ufffd]|%(?:2[ef]|5c|00)", re.IGNORECASE
)


class AmbiguousPath(Exception):
    """The path of a request could be read as another one."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a route demands.

    Attributes:
        scopes: The scopes that the token must have, all of them.
        when_degraded: What to do with a token that the verifier can't decide on by itself.
        public: Whether it is open to everybody. Tokens are not looked at, and there is no identity.
        audience: The audience that the token must be for, if not the verifier's.
        recheck: While a stream or web socket is open, after how many seconds its token is checked
            again; the stream ends if it is no longer accepted. None: only at the beginning.
    """

    scopes: Collection[str] = ()
    when_degraded: WhenDegraded = Ask()  # noqa: RUF009 - immutable
    public: bool = False
    audience: str | None = None
    recheck: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.scopes, str):
            raise TypeError("scopes must be a collection of texts, not one text")
        if self.public and (self.scopes or self.audience is not None):
            raise ValueError("a public route can't demand scopes or an audience")
        if self.recheck is not None and not self.recheck > 0:
            raise ValueError("recheck must be a number of seconds above 0")


class Routes:
    """The rules of all routes of a service.

    A pattern is a path, or an HTTP method and a path: "/shop.v1.Orders/Place", "/orders/{id}",
    "POST /orders", "/admin/*". `{id}` stands for one segment, and a `*` at the end for everything
    below. More literal segments win over fewer, and patterns with a method over those without. GET
    includes HEAD. A public pattern opens exactly the path that it spells; any other also covers
    that path in other letter case, and with a slash at the end.

    Args:
        routes: The rule of each pattern.
        default: The rule of everything else: a token is needed, unless you say otherwise.
        health: The patterns of health checks, which are public unless `routes` has them.

    Raises:
        ValueError: A pattern can't be read.
    """

    def __init__(
        self,
        routes: Mapping[str, Route] | None = None,
        *,
        default: Route = Route(),
        health: Iterable[str] = HEALTH,
    ) -> None:
        self._default = default
        given = {**dict.fromkeys(health, Route(public=True)), **(routes or {})}
        patterns = [_Pattern.read(pattern, route) for pattern, route in given.items()]
        self._patterns = sorted(patterns, key=lambda each: (each.rank, each.route.public))

    def find(self, path: str, method: str = "") -> Route:
        """Return the rule of a request.

        Args:
            path: The decoded path, or the full method of gRPC.
            method: The method of HTTP.

        Raises:
            AmbiguousPath: Some frameworks would read another path.
        """
        if _AMBIGUOUS.search(path) or not path.startswith("/"):
            raise AmbiguousPath
        verb = "GET" if method == "HEAD" else method
        exact = self._first(path, verb, exact=True)
        loose = self._first(path, verb, exact=False)
        # What opens all below a path must not open other spellings of what is guarded there.
        if exact is None or (loose is not None and loose.rank < exact.rank):
            exact = loose
        return self._default if exact is None else exact.route

    def _first(self, path: str, method: str, *, exact: bool) -> "_Pattern | None":
        covering = (each for each in self._patterns if each.covers(path, method, exact=exact))
        return next(covering, None)


@dataclass(frozen=True, slots=True)
class _Pattern:
    method: str
    exact: re.Pattern[str]
    loose: re.Pattern[str]
    rank: tuple[object, ...]
    route: Route

    @classmethod
    def read(cls, pattern: str, route: Route) -> "_Pattern":
        found = _PATTERN.fullmatch(pattern)
        if found is None or _AMBIGUOUS.search(path := found["path"]):
            raise ValueError(f"not a route: {pattern!r}")
        is_prefix = path.endswith("/*")
        segments = (path[:-2] if is_prefix else path).split("/")[1:]
        if any("*" in each for each in segments):
            raise ValueError(f"a * can only be the last segment of a route: {pattern!r}")
        written = "".join(
            "/[^/]+" if _PARAMETER.fullmatch(each) else "/" + re.escape(each) for each in segments
        )
        below = "/.*" if is_prefix else ""
        literal = [not _PARAMETER.fullmatch(each) for each in segments]
        return cls(
            method=found["method"] or "",
            exact=re.compile(written + below, re.DOTALL),
            loose=re.compile(
                written.removesuffix("/") + ("(?:/.*)?" if is_prefix else "/?"),
                re.DOTALL | re.IGNORECASE,
            ),
            # The most specific first.
            rank=(-sum(literal), is_prefix, -len(segments), not found["method"]),
            route=route,
        )

    def covers(self, path: str, method: str, *, exact: bool) -> bool:
        if self.method and method != self.method:
            return False
        if exact:
            return self.exact.fullmatch(path) is not None
        return not self.route.public and self.loose.fullmatch(path) is not None
