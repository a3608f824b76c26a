"""joserfc, a library for JWTs in Python, accepts our tokens."""

import json

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from authsvc.config import Settings
from tests.polyglot.foreign import ALGORITHMS, BOUND, Case, NewDatabase, issue_cases
from tests.support.service import StartService

# RFC 9864 replaces the name EdDSA, which all libraries still use.
pytestmark = [pytest.mark.world, pytest.mark.filterwarnings("ignore:EdDSA is deprecated")]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_joserfc_accepts_good_tokens_only(
    algorithm: str, settings: Settings, new_database: NewDatabase, start_service: StartService
) -> None:
    _, cases = await issue_cases(algorithm, settings, start_service, new_database)
    for case in cases:
        # It knows nothing of certificates that tokens are bound to.
        good = case.good or case.name.endswith(BOUND)
        assert accepts(case, settings, algorithm) == good, case.name


def accepts(case: Case, settings: Settings, algorithm: str) -> bool:
    """Return whether the library accepts a token."""
    claims = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": settings.tokens.issuer},
        aud={"essential": True, "value": settings.tokens.audience},
        exp={"essential": True},
    )
    try:
        keys = KeySet.import_key_set(json.loads(case.jwks))
        claims.validate(jwt.decode(case.token, keys, algorithms=[algorithm]).claims)
    except (JoseError, ValueError) as error:
        print(case.name, repr(error))
        return False
    return True
