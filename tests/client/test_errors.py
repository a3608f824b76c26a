"""Every reason has its class, which survives the way between processes."""

import pickle

import pytest

from authsvc.client import AuthsvcError, NotDecidable, TokenRejected, errors
from authsvc.errors import Reason
from authsvc.rpc.status import CODES
from authsvc.v1.error_reason_pb2 import ErrorReason

_PREFIX = "ERROR_REASON_"
REASONS = [name.removeprefix(_PREFIX) for name in ErrorReason.keys()[1:]]  # without UNSPECIFIED


def test_each_reason_has_the_class_of_its_name() -> None:
    assert sorted(AuthsvcError.by_reason) == sorted(REASONS)
    for reason, found in AuthsvcError.by_reason.items():
        name = "".join(part.capitalize() for part in reason.split("_"))
        assert found is getattr(errors, name)
        assert found.__name__ == name


@pytest.mark.parametrize("reason", Reason)
def test_class_has_the_code_that_the_service_sends(reason: Reason) -> None:
    assert AuthsvcError.by_reason[reason].code is CODES[reason]


def test_error_shows_its_reason_message_and_request() -> None:
    error = errors.CredentialsInvalid("Wrong.")
    assert str(error) == "CREDENTIALS_INVALID: Wrong."
    error.request_id = "r1"
    assert str(error) == "CREDENTIALS_INVALID: Wrong. (request r1)"


def test_errors_can_be_pickled() -> None:
    error = errors.Overloaded("Busy.")
    error.request_id, error.is_retryable = "r1", True
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is errors.Overloaded
    assert vars(copied) == vars(error)
    assert pickle.loads(pickle.dumps(TokenRejected("EXPIRED"))).reason == "EXPIRED"
    assert pickle.loads(pickle.dumps(NotDecidable("UNUSABLE"))).reason == "UNUSABLE"
