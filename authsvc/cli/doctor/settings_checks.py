"""Owns the checks of the settings themselves: their files, and choices that are weak."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

from authsvc.app.addresses import split_address
from authsvc.cli.config_check import check_addresses, check_files
from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, error, ok, warning
from authsvc.config import Settings
from authsvc.config.database_address import DatabaseAddress
from authsvc.config.delivery import is_loopback
from authsvc.config.durations import text
from authsvc.models.calls import Role

# A verified connection, and to a server on the same machine any.
_VERIFIED = frozenset({"verify-full", "verify-ca"})
_DEVELOPMENT = "spiffe://authsvc.dev/"
_CALLING = frozenset({Role.APP, Role.EDGE, Role.ISSUER})
_LONGEST_ACCESS = timedelta(hours=24)
_REVOCATION_PROMISE = timedelta(seconds=1)


async def files(deployment: Deployment) -> Sequence[Finding]:
    """Check that the files that the settings name can be read, and that templates work."""
    remedy = "create the file, let the service's user read it, or correct the setting"
    problems = check_files(deployment.settings)
    return [error(each, remedy) for each in problems] or [ok("all of them can be used")]


async def addresses(deployment: Deployment) -> Sequence[Finding]:
    """Check that this machine has the addresses that the service listens on."""
    remedy = "choose an address of this machine; 0.0.0.0 or [::] stands for all of them"
    return [
        error(f"{each.name} = {each.detail}: {each.problem}", remedy)
        if each.problem
        else ok(f"{each.name} = {each.detail}")
        for each in check_addresses(deployment.settings)
    ]


async def choices(deployment: Deployment) -> Sequence[Finding]:
    """Name what is allowed, but weaker than production should be."""
    settings = deployment.settings
    found = [warning(text, _NOTE) for text in (*settings.database.notes, *settings.tokens.notes)]
    if is_development(settings):
        return [*found, ok("tokens.issuer is this machine: development, where all is allowed")]
    for choose in _CHOICES:
        found += choose(settings)
    return found or [ok("no choice is weaker than the defaults")]


_NOTE = "change the setting if this is not meant"


def is_development(settings: Settings) -> bool:
    """Return whether only this machine is served: tokens are issued in its name."""
    return is_loopback(urlsplit(settings.tokens.issuer).hostname or "")


_Weaknesses = Iterator[Finding]


def _issuer(settings: Settings) -> _Weaknesses:
    issuer = urlsplit(settings.tokens.issuer)
    if issuer.hostname == "authsvc.dev":
        yield warning(
            "tokens.issuer is the default, which is not an address of yours",
            "set it to the address by which verifiers know this service; tokens issued before"
            " are then refused",
        )
    elif issuer.scheme == "http":
        yield warning(
            "tokens.issuer is http: whoever is between a verifier and its address can replace"
            " the keys",
            "serve it over https (http.tls, or a gateway), or let verifiers fetch keys by GetJwks",
        )


def _callers(settings: Settings) -> _Weaknesses:
    if not settings.callers:
        yield warning("callers is empty, so nobody may call", "list your services and their roles")
    for caller in settings.callers:
        if caller.identity.startswith(_DEVELOPMENT):
            yield warning(
                f"callers has {caller.identity}, an identity of development",
                "remove it, or rename it to the identity in that service's certificate",
            )
        elif Role.ADMIN in caller.roles and caller.roles & _CALLING:
            roles = ", ".join(sorted(caller.roles))
            yield warning(
                f"callers: {caller.identity} has the roles {roles} together",
                "give tools of administrators an identity of their own, so that a stolen"
                " certificate of a service is not one of theirs",
            )


def _database(settings: Settings) -> _Weaknesses:
    for name in ("url", "listener_url"):
        address = getattr(settings.database, name)
        if address is None:
            continue
        for host in DatabaseAddress.parse(address.get_secret_value()).hosts:
            query = parse_qs(urlsplit(host).query)
            where, mode = query.get("host", ["localhost"])[0], query.get("sslmode", ["prefer"])[0]
            if mode in _VERIFIED or where.startswith("/") or is_loopback(where):
                continue
            yield warning(
                f"database.{name} reaches {where} with sslmode={mode}, which does not verify the"
                " server",
                "use sslmode=verify-full and sslrootcert=FILE in the address",
            )


def _messages(settings: Settings) -> _Weaknesses:
    match settings.delivery.channel:
        case "none":
            yield warning(
                "delivery.channel is none: codes reach users only through callers with the role"
                " issuer",
                'set it to "smtp" or "webhook", unless all codes are returned (delivery = RETURN)',
            )
        case "folder":
            yield warning(
                "delivery.channel is folder: messages are files with codes in them, sent to nobody",
                'set it to "smtp" or "webhook"',
            )


def _protection(settings: Settings) -> _Weaknesses:
    if settings.encryption.missing_keys == "warn":
        yield warning(
            "encryption.missing_keys is warn: the service starts without keys that stored secrets"
            " need",
            'set it to "refuse" again once the loss is dealt with',
        )
    if not settings.blocks.automatic:
        yield warning(
            "blocks.automatic is off: addresses that attack are not blocked",
            "turn it on, and put what must never be blocked into blocks.allow",
        )
    detections = settings.detections
    off = [
        name
        for name in type(detections).model_fields
        if not getattr(getattr(detections, name), "enabled", True)
    ]
    if off:
        yield warning(
            f"detections: {', '.join(off)} is not looked for",
            "raise its threshold instead of turning it off",
        )
    if (cookie := settings.sessions.cookie) is not None:
        if not cookie.secure:
            yield warning(
                "sessions.cookie.secure is off: it is sent over plain HTTP, too", "turn it on"
            )
        if not cookie.http_only:
            yield warning("sessions.cookie.http_only is off: scripts can read it", "turn it on")


def _times(settings: Settings) -> _Weaknesses:
    if settings.tokens.access_lifetime > _LONGEST_ACCESS:
        yield warning(
            f"tokens.access_lifetime is {text(settings.tokens.access_lifetime)}: verifiers that"
            " don't watch revocations accept a revoked token for as long",
            "an hour is the default; refresh tokens make up for it",
        )
    if settings.sessions.cache_staleness > _REVOCATION_PROMISE:
        yield warning(
            f"sessions.cache_staleness is {text(settings.sessions.cache_staleness)}: a revoked"
            " session may be accepted for as long",
            f"{text(_REVOCATION_PROMISE)} is what clients are promised",
        )


def _passkeys(settings: Settings) -> _Weaknesses:
    keys = settings.passkeys
    if keys.relying_party_id == "localhost" and "relying_party_id" in keys.model_fields_set:
        yield warning(
            "passkeys.relying_party_id is localhost: passkeys work on this machine only",
            "set it to your domain before users register passkeys, as it can't be changed later",
        )
    local = [uri for uri in settings.oauth.redirect_uris if uri.startswith("http://")]
    if local:
        yield warning(
            f"oauth.redirect_uris has {local[0]}: logins can be sent to a program on the user's"
            " machine",
            "remove it, unless an app on the desktop needs it (RFC 8252)",
        )


def _log(settings: Settings) -> _Weaknesses:
    if settings.log.level == "debug":
        yield warning("log.level is debug, which is much", 'set it to "info"')


_CHOICES: Sequence[Callable[[Settings], _Weaknesses]] = (
    _issuer,
    _callers,
    _database,
    _messages,
    _protection,
    _times,
    _passkeys,
    _log,
)


async def exposure(deployment: Deployment) -> Sequence[Finding]:
    """Say who can read /metrics."""
    http = deployment.settings.http
    if http.tls is not None:
        return [ok("http.tls is set: /metrics needs a client certificate")]
    host, _ = split_address(http.address)
    if is_loopback(host):
        return [ok(f"{http.address} is reachable from this machine only")]
    return [ok(f"{http.address} is plain HTTP: whoever can connect may read /metrics")]
