"""Claims of access tokens: each is there, of one kind, in one spelling; and nothing raises."""

import pytest

from authsvc.models import Claims, InactiveReason
from tests.forging import NOW, World

MALFORMED = InactiveReason.MALFORMED
SIGNATURE_INVALID = InactiveReason.SIGNATURE_INVALID


# What it says


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
def test_time_of_the_wrong_kind_is_refused(world: World, claim: str, value: object) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_time_in_the_future_is_refused_beyond_the_skew(world: World, claim: str) -> None:
    outcome = world.verify(world.with_payload(**{claim: NOW + 6}))
    assert outcome is InactiveReason.NOT_YET_VALID
    assert isinstance(world.verify(world.with_payload(**{claim: NOW + 5})), Claims)


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
def test_id_that_is_no_uuid_in_its_one_spelling_is_refused(
    world: World, claim: str, value: object
) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("claim", ["jti", "iss"])
@pytest.mark.parametrize("value", ["", 5, None, True, [], ["x"], {}])
def test_text_of_the_wrong_kind_is_refused(world: World, claim: str, value: object) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("claim", ["roles", "permissions", "amr"])
@pytest.mark.parametrize("value", ["admin", 5, None, {"admin": 1}, [1], [None], [""], [["admin"]]])
def test_list_of_the_wrong_kind_is_refused(world: World, claim: str, value: object) -> None:
    assert world.verify(world.with_payload(**{claim: value})) is MALFORMED


@pytest.mark.parametrize("value", [5, None, ["read"], " read", "read ", "read  write", " "])
def test_scope_of_the_wrong_kind_is_refused(world: World, value: object) -> None:
    assert world.verify(world.with_payload(scope=value)) is MALFORMED


@pytest.mark.parametrize(
    "value", [[], [""], ["authsvc", 5], 5, None, "", {"authsvc": 1}, [["authsvc"]]]
)
def test_audience_of_the_wrong_kind_is_refused(world: World, value: object) -> None:
    assert world.verify(world.with_payload(aud=value)) is MALFORMED


@pytest.mark.parametrize("value", ["authsv", "authsvc2", "AUTHSVC", "authsvc ", ["other", "auth"]])
def test_token_for_another_audience_is_refused(world: World, value: object) -> None:
    outcome = world.verify(world.with_payload(aud=value))
    assert outcome is InactiveReason.AUDIENCE_MISMATCH


@pytest.mark.parametrize(
    "value", ["https://authsvc.dev/", "http://authsvc.dev", "https://AUTHSVC.dev", "x"]
)
def test_token_of_another_issuer_is_refused(world: World, value: str) -> None:
    assert world.verify(world.with_payload(iss=value)) is InactiveReason.ISSUER_MISMATCH
