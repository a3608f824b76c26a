"""The README's tables of the API and of roles match the access table."""

import pytest

from authsvc.models.calls import Role
from authsvc.rpc.access import ACCESS
from tests.support.documents import page

README = page("README.md")


def test_api_table_matches_access_table() -> None:
    written: dict[str, frozenset[Role]] = {}
    service = ""
    for first, names, _, roles in README.tables("service", "RPC"):
        service = first or service
        granted = frozenset(Role if roles == "all" else map(Role, roles.split(", ")))
        written |= {f"/authsvc.v1.{service}/{name}": granted for name in names.split(", ")}
    served = {
        method: access.roles for method, access in ACCESS.items() if method.startswith("/authsvc.")
    }
    assert written == served


@pytest.mark.parametrize("role", Role)
def test_every_role_is_described(role: Role) -> None:
    assert f"`{role}`" in {cell for cell, _ in README.tables("role", "may")}
