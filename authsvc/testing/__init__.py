"""Owns the real service in a test process: the pytest plugin and what its fixture returns.

Nothing in the service imports it. Importing it imports only Python's own library, so that pytest
can load the plugin in every project; `TestService` brings the service.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from authsvc.testing.service import TestService
    from authsvc.testing.users import Message, User

__all__ = ["Message", "TestService", "User"]


def __getattr__(name: str) -> Any:
    if name == "TestService":
        from authsvc.testing import service  # noqa: PLC0415 - see above

        return service.TestService
    if name in {"User", "Message"}:
        from authsvc.testing import users  # noqa: PLC0415 - see above

        return getattr(users, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
