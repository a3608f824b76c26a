"""Claims of access tokens: each must be present, of one type, in one spelling; none raises."""

import pytest

from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims
from tests.support.forging import NOW, World

pytestmark = pytest.mark.fast

MALFORMED = InactiveReason.MALFORMED
SIGNATURE_INVALID = InactiveReason.SIGNATURE_INVALID


# The types of claims


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "auth_time"])
@pytest.mark.parametrize(
    "value",
    [
        "1893459600",
        1e20,
        float(NOW + 600),
        NOW + 0.5,
        True,
        False,
        None,
        0,
        -1,
        10**10,
        10**100,
        [NOW],
        {"seconds": NOW},
    ],
)
def test_time_of_wrong_type_is_rejected(world: World, claim: str, value: object) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("value", [1, 10**10 - 1])
def test_any_time_from_1970_to_2286_is_accepted(world: World, value: int) -> None:
    assert isinstance(world.verify(world.with_payload(auth_time=value)), Claims)


def test_future_time_beyond_skew_is_rejected(world: World) -> None:
    assert world.verify(world.with_payload(nbf=NOW + 6)) is InactiveReason.NOT_YET_VALID
    assert isinstance(world.verify(world.with_payload(nbf=NOW + 5)), Claims)


def test_time_of_issue_may_be_ahead(world: World) -> None:
    # As after several losses of a user within a second; only our own keys sign it.
    assert isinstance(world.verify(world.with_payload(iat=NOW + 60)), Claims)


@pytest.mark.parametrize("claim", ["sub", "sid"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        "admin",
        "01900000-0000-7000-8000-00000000000",
        "{01900000-0000-7000-8000-000000000001}",
        "urn:uuid:01900000-0000-7000-8000-000000000001",
        "01900000000070008000000000000001",
        "0190000A-0000-7000-8000-000000000001",
        " 01900000-0000-7000-8000-000000000001",
        1,
        None,
        ["01900000-0000-7000-8000-000000000001"],
    ],
)
def test_non_canonical_uuid_is_rejected(world: World, claim: str, value: object) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("claim", ["jti", "iss"])
@pytest.mark.parametrize("value", ["", 5, None, True, [], ["x"], {}])
def test_text_of_wrong_type_is_rejected(world: World, claim: str, value: object) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("claim", ["roles", "permissions", "amr"])
@pytest.mark.parametrize("value", ["admin", 5, None, {"admin": 1}, [1], [None], [""], [["admin"]]])
def test_list_of_wrong_type_is_rejected(world: World, claim: str, value: object) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("value", [5, None, ["read"], " read", "read ", "read  write", " "])
def test_scope_of_wrong_type_is_rejected(world: World, value: object) -> None:
    assert world.verify(world.with_payload(scope=value)) is MALFORMED


@pytest.mark.parametrize(
    "value", [[], [""], ["authsvc", 5], 5, None, "", {"authsvc": 1}, [["authsvc"]]]
)
def test_audience_of_wrong_type_is_rejected(world: World, value: object) -> None:
    assert world.verify(world.with_payload(aud=value)) is MALFORMED


@pytest.mark.parametrize("value", ["authsv", "authsvc2", "AUTHSVC", "authsvc ", ["other", "auth"]])
def test_token_for_another_audience_is_rejected(world: World, value: object) -> None:
    outcome = world.verify(world.with_payload(aud=value))
    assert outcome is InactiveReason.AUDIENCE_MISMATCH


@pytest.mark.parametrize(
    "value", ["https://authsvc.dev/", "http://authsvc.dev", "https://AUTHSVC.dev", "x"]
)
def test_token_of_another_issuer_is_rejected(world: World, value: str) -> None:
    assert world.verify(world.with_payload(iss=value)) is InactiveReason.ISSUER_MISMATCH


# Actors, and the certificate that a token is bound to

_BOUND = {"x5t#S256": "A" * 43}
_ACTOR = {"sub": "spiffe://authsvc.test/shop"}


def _nested(depth: int) -> dict[str, object]:
    """Return nested actors."""
    return _ACTOR | {"act": _nested(depth - 1)} if depth > 1 else dict(_ACTOR)


def test_bound_and_delegated_token_exposes_thumbprint_and_actors(world: World) -> None:
    claims = world.verify(world.with_payload(cnf=_BOUND, act=_nested(4)))
    assert isinstance(claims, Claims)
    assert claims.certificate_thumbprint == bytes(32)
    assert claims.actors == (_ACTOR["sub"],) * 4


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "A" * 43,
        5,
        True,
        [],
        [_BOUND],
        {},
        {"x5t#S256": ""},
        {"x5t#S256": None},
        {"x5t#S256": 5},
        {"x5t#S256": ["A" * 43]},
        {"x5t#S256": "A" * 42},
        {"x5t#S256": "A" * 44},
        {"x5t#S256": "A" * 43 + "="},
        {"x5t#S256": "A" * 42 + "B"},
        {"x5t#S256": "+" + "A" * 42},
        {"x5t#S256": "é" * 43},
        {"x5t#S256": "\ud800" * 43},
        {"x5t#s256": "A" * 43},
        {"x5t": "A" * 27},
        {"jkt": "A" * 43},
        {"jwk": {"kty": "oct", "k": "AA"}},
        _BOUND | {"jkt": "A" * 43},
    ],
)
def test_confirmation_of_wrong_type_is_rejected(world: World, value: object) -> None:
    assert world.verify(world.with_payload(cnf=value)) is MALFORMED
    assert world.verify(_service_token(world, cnf=value)) is MALFORMED


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "spiffe://authsvc.test/shop",
        5,
        True,
        [],
        [_ACTOR],
        {},
        {"sub": ""},
        {"sub": None},
        {"sub": 5},
        {"sub": ["spiffe://authsvc.test/shop"]},
        {"sub": "shop"},
        {"sub": "01900000-0000-7000-8000-000000000001"},
        {"sub": "spiffe://"},
        {"sub": "spiffe://authsvc.test/a shop"},
        {"sub": "spiffe://authsvc.test/shöp"},
        {"sub": "spiffe://authsvc.test/shop\n"},
        {"act": _ACTOR},
        _ACTOR | {"iss": "https://authsvc.dev"},
        _ACTOR | {"act": None},
        _ACTOR | {"act": {}},
        _ACTOR | {"act": "dns:shop.test"},
        _ACTOR | {"act": [_ACTOR]},
        _ACTOR | {"act": {"sub": 5}},
        _nested(5),
        _nested(100),
    ],
)
def test_actor_of_wrong_type_is_rejected(world: World, value: object) -> None:
    assert world.verify(world.with_payload(act=value)) is MALFORMED


# Service tokens


def _service_token(world: World, **changes: object) -> str:
    """Return a correctly signed service token with these changes; `...` removes a claim."""
    names = ("iss", "aud", "exp", "iat", "nbf", "jti", "scope")
    payload = {name: world.payload[name] for name in names}
    payload |= {"sub": "spiffe://authsvc.test/shop", "cnf": _BOUND} | changes
    return world.forge(payload={name: value for name, value in payload.items() if value != ...})


@pytest.mark.parametrize("subject", ["spiffe://authsvc.test/shop", "dns:shop.authsvc.test"])
def test_service_token_is_accepted(world: World, subject: str) -> None:
    claims = world.verify(_service_token(world, sub=subject))
    assert isinstance(claims, ServiceClaims)
    assert (claims.subject, claims.certificate_thumbprint) == (subject, bytes(32))


@pytest.mark.parametrize("claim", ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "scope", "cnf"])
def test_service_token_lacking_a_claim_is_rejected(world: World, claim: str) -> None:
    assert world.verify(_service_token(world, **{claim: ...})) is MALFORMED


@pytest.mark.parametrize("claim", ["sid", "roles", "permissions", "amr", "auth_time"])
def test_service_token_with_user_claim_is_rejected(world: World, claim: str) -> None:
    assert world.verify(_service_token(world, **{claim: world.payload[claim]})) is MALFORMED
    assert world.verify(_service_token(world, **{claim: None})) is MALFORMED


def test_service_token_with_actor_is_rejected(world: World) -> None:
    assert world.verify(_service_token(world, act=_ACTOR)) is MALFORMED


@pytest.mark.parametrize(
    "subject",
    [
        "",
        None,
        5,
        "shop",
        "01900000-0000-7000-8000-000000000001",
        "https://authsvc.test/shop",
        "spiffe:authsvc.test",
        "dns:",
        " dns:shop.authsvc.test",
        "dns:shop.authsvc.test\0",
        "SPIFFE://authsvc.test/shop",
        "spiffe://authsvc.test/" + "x" * 2_049,
    ],
)
def test_service_token_without_valid_subject_is_rejected(world: World, subject: object) -> None:
    assert world.verify(_service_token(world, sub=subject)) is MALFORMED


def test_user_token_with_service_subject_is_rejected(world: World) -> None:
    assert world.verify(world.with_payload(sub="spiffe://authsvc.test/shop")) is MALFORMED
