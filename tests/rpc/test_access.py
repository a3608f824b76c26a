"""The access table: its rows are as documented, and an RPC without a row is rejected."""

from authsvc.models.calls import Role
from authsvc.rpc.access import ACCESS, Access

HEALTH = {f"/grpc.health.v1.Health/{rpc}" for rpc in ("Check", "List", "Watch")}
REFLECTION = {
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
}


def methods(**attributes: bool) -> set[str]:
    """Return the RPCs whose rows have these attributes."""
    return {
        method
        for method, access in ACCESS.items()
        if all(getattr(access, name) is value for name, value in attributes.items())
    }


def test_default_access_allows_no_caller() -> None:
    nobody = Access()
    assert not nobody.roles
    assert not nobody.any_certificate


def test_only_health_is_open_to_any_certificate() -> None:
    assert methods(any_certificate=True) == HEALTH


def test_only_observers_can_use_reflection() -> None:
    assert {ACCESS[method].roles for method in REFLECTION} == {frozenset({Role.OBSERVER})}


def test_account_service_requires_bearer_token() -> None:
    assert methods(bearer=True) == {
        method for method in ACCESS if method.startswith("/authsvc.v1.AccountService/")
    }


def test_only_batch_rpcs_are_marked_as_batch() -> None:
    assert methods(batch=True) == {method for method in ACCESS if "/Batch" in method}


def test_only_long_streams_are_long_lived() -> None:
    assert methods(long_lived=True) == {
        "/authsvc.v1.AccountService/ExportData",
        "/authsvc.v1.AdminService/ExportUsers",
        "/authsvc.v1.AdminService/ImportUsers",
        "/authsvc.v1.AdminService/WatchAuditEvents",
        "/authsvc.v1.SessionService/WatchRevocations",
        "/grpc.health.v1.Health/Watch",
    }


def test_only_streams_without_end_are_ended_when_the_service_stops() -> None:
    # An export is given time to finish, and a health watch says that the service stops.
    assert methods(endless=True) == {
        "/authsvc.v1.AdminService/WatchAuditEvents",
        "/authsvc.v1.SessionService/WatchRevocations",
    }


def test_only_issuers_create_sessions() -> None:
    # An app that could create sessions could act as any user.
    assert ACCESS["/authsvc.v1.SessionService/CreateSession"].roles == {Role.ISSUER}


def test_edges_have_only_read_access() -> None:
    changing = methods(read_only=False)
    # Except that they may request a token of their own, as any caller may.
    assert [method for method in changing if Role.EDGE in ACCESS[method].roles] == [
        "/authsvc.v1.AuthService/IssueServiceToken"
    ]
