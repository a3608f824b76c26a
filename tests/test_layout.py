"""The rules of the house that a tool can hold: see also the import contracts in pyproject.toml."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from authsvc.core.use_cases import UseCases

_ROOT = Path(__file__).parents[1]
_PACKAGE = _ROOT / "authsvc"
_CORE = _PACKAGE / "core"
_TOPICS = sorted(folder for folder in _CORE.iterdir() if (folder / "__init__.py").exists())
_MAX_MODULES = 12
_MAX_POSITIONAL = 3
# Modules of core without a test file of their own: where they are tested, or why not at all.
_TESTED_ELSEWHERE: Mapping[str, str] = {
    "accounts/administration": "tests/rpc/admin/test_accounts.py",
    "accounts/impersonation": "tests/rpc/admin/test_impersonation.py",
    "accounts/own_data": "tests/rpc/account/test_own_data.py",
    "codes/redemption": "tests/core/codes/test_reclaim.py",
    "factors/challenges": "tests/core/login/test_second_factor.py",
    "factors/changes": "tests/core/factors/test_own_factors.py",
    "factors/passkey_registration": "tests/rpc/account/test_passkeys.py",
    "factors/proofs": "tests/core/login/test_second_factor.py",
    "factors/totp_enrollment": "tests/core/factors/test_totp.py",
    "federation/states": "tests/core/federation/test_authorization.py",
    "incidents/evidence": "tests/cli/test_incident.py",
    "incidents/steps": "tests/cli/test_incident.py",
    "lib/memo": "tests/core/sessions/test_validation_cached.py",
    "limits/batch": "tests/core/limits/test_limiter.py",
    "login/completion": "tests/core/login/test_second_factor.py",
    "login/passkey": "tests/rpc/auth/test_passkeys.py",
    "messages/stored_messages": "tests/cli/test_messages.py",
    "messages/templates": "tests/outbound/test_templates.py",
    "passwords/foreign_schemes": "tests/core/passwords/test_foreign_forms.py",
    "sessions/cache": "tests/core/revocations/test_cache.py",
    "sessions/reading": "tests/core/sessions/test_use.py",
    "signing/jws": "tests/security/test_jwt_form.py",
    "signing/key_set": "tests/core/signing/test_signing_keys.py",
    "signing/token_claims": "tests/security/test_jwt_claims.py",
    "user_transfer/import_fields": "tests/core/user_transfer/test_importing.py",
}
_NOT_TESTED: Mapping[str, str] = {}


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module that is written by hand, by its path in the repository."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        if _PACKAGE / "v1" not in path.parents:
            yield path.relative_to(_ROOT).as_posix(), ast.parse(path.read_text())


def _constructors(module: ast.Module) -> Iterator[tuple[ast.ClassDef, ast.FunctionDef]]:
    for found in ast.walk(module):
        if isinstance(found, ast.ClassDef):
            for member in found.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    yield found, member


def test_constructors_of_many_parameters_take_them_by_keyword_only() -> None:
    offenders = []
    for path, module in _modules():
        for owner, constructor in _constructors(module):
            arguments = constructor.args
            positional = len(arguments.posonlyargs) + len(arguments.args) - 1
            # What other services import leads with what it is about: `Client("authsvc:8443", …)`.
            named = 0 if path.startswith("authsvc/client/") else len(arguments.kwonlyargs)
            if positional and positional + named > _MAX_POSITIONAL:
                offenders.append(f"{path}:{constructor.lineno}: {owner.name}")
    assert offenders == [], "put `*,` after self"


def _core_modules() -> Iterator[str]:
    for topic in _TOPICS:
        for path in sorted(topic.glob("*.py")):
            if path.stem != "__init__":
                yield f"{topic.name}/{path.stem}"


def test_each_module_of_core_has_its_tests() -> None:
    untested = set()
    for module in _core_modules():
        topic, name = module.split("/")
        if not (_ROOT / f"tests/core/{topic}/test_{name}.py").exists():
            untested.add(module)
    # Also fails for an exception that is no longer needed.
    assert untested == {*_TESTED_ELSEWHERE, *_NOT_TESTED}
    assert [path for path in _TESTED_ELSEWHERE.values() if not (_ROOT / path).exists()] == []
    assert all(_NOT_TESTED.values())


@pytest.mark.parametrize("topic", _TOPICS, ids=lambda topic: topic.name)
def test_topic_says_what_it_owns_and_names_its_entries(topic: Path) -> None:
    said = ast.get_docstring(ast.parse((topic / "__init__.py").read_text())) or ""
    assert said.startswith("Owns ")
    entries = set(re.findall(r"`(\w+)`", said))
    assert entries
    defined = {
        member.name
        for path in topic.glob("*.py")
        for member in ast.parse(path.read_text()).body
        if isinstance(member, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert entries <= defined


# `lib` is no topic: each of its tools stands by itself.
@pytest.mark.parametrize(
    "topic", [topic for topic in _TOPICS if topic.name != "lib"], ids=lambda topic: topic.name
)
def test_topic_is_small_enough_to_be_one(topic: Path) -> None:
    modules = [path.stem for path in topic.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= _MAX_MODULES, "this is two topics"


def test_each_use_case_has_the_name_of_its_class() -> None:
    for field in fields(UseCases):
        assert isinstance(field.type, type)
        assert field.name.replace("_", "") == field.type.__name__.lower()
