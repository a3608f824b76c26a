"""Owns the loading of settings: their sources, and the problems reported for invalid ones.

Later sources override earlier ones: defaults, a TOML file, environment variables
(`AUTHSVC_TOKENS__ISSUER`), files in a secrets folder (`database__url`). Unknown keys are rejected,
except files of the secrets folder that name no section.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)

from authsvc.config.settings import PREFIX, Settings
from authsvc.config.types import Section

# Variables with this prefix that are not settings: they say where settings are, or are for tests.
_NOT_SETTINGS = {"AUTHSVC_CONFIG", "AUTHSVC_SECRETS_DIR", "AUTHSVC_TEST_DATABASE"}


class ConfigError(Exception):
    """The settings are invalid; `problems` has a line for each problem, without values."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def load(file: Path | None = None, *, secrets_dir: Path | None = None) -> Settings:
    """Return the settings from `file`, the environment and `secrets_dir`.

    `file` and `secrets_dir` default to AUTHSVC_CONFIG and AUTHSVC_SECRETS_DIR, if set.

    Raises:
        ConfigError: A source can't be read, a key is unknown, or a value is invalid.
    """
    file = file or _path("AUTHSVC_CONFIG")
    secrets_dir = secrets_dir or _path("AUTHSVC_SECRETS_DIR")
    _check_sources(file, secrets_dir)
    unknown = _unknown_variables()
    if unknown:
        raise ConfigError([f"environment variable {name}: no such setting" for name in unknown])
    try:
        return _with_sources(file, secrets_dir)()
    except ValidationError as error:
        raise ConfigError([_problem(item) for item in error.errors()]) from None
    except SettingsError as error:
        raise ConfigError([f"{error}; write lists and tables as JSON"]) from None


def _path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _check_sources(file: Path | None, secrets_dir: Path | None) -> None:
    if secrets_dir is not None and not secrets_dir.is_dir():
        raise ConfigError([f"secrets folder {secrets_dir}: no such folder"])
    if file is None:
        return
    try:
        with file.open("rb") as stream:
            tomllib.load(stream)
    except OSError as error:
        raise ConfigError([f"settings file {file}: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"settings file {file}: not TOML: {error}"]) from None


def _with_sources(file: Path | None, secrets_dir: Path | None) -> type[Settings]:
    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources = [init_settings, env_settings]
            if secrets_dir is not None:
                secrets = _SecretFiles(
                    file_secret_settings,
                    secrets_dir=secrets_dir,
                    secrets_prefix="",
                    secrets_nested_delimiter="__",
                )
                sources.insert(1, secrets)
            if file is not None:
                sources.append(TomlConfigSettingsSource(settings_cls, file))
            return tuple(sources)

    return Sourced


class _SecretFiles(NestedSecretsSettingsSource):
    """The files of a secrets folder that name a section; others may have any content."""

    @classmethod
    def load_secrets(cls, path: Path) -> dict[str, str]:
        found = {}
        try:
            for file in path.iterdir():
                if file.name.lower().partition("__")[0] in Settings.model_fields and file.is_file():
                    found[file.name] = file.read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise ConfigError([f"secrets file {error.filename}: {error.strerror}"]) from None
        except UnicodeDecodeError:
            # Without the cause, which quotes the secret.
            raise ConfigError([f"secrets file {file}: not text in UTF-8"]) from None
        return found


def _unknown_variables() -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            known |= {f"{PREFIX}{name}__{key}".upper() for key in field.annotation.model_fields}
    # Unknown keys at deeper levels are rejected by their section.
    free = tuple(f"{name}__" for name in known if "__" in name) + tuple(
        f"{PREFIX}{name}__"
        for name in ("PERMISSIONS", "RATE_LIMITS__POLICIES", "BRUTE_FORCE", "SECRETS", "OAUTH")
    )
    return sorted(
        name
        for name in os.environ
        if name.upper().startswith(PREFIX)
        and name not in _NOT_SETTINGS
        and name.upper() not in known
        and not name.upper().startswith(free)
    )


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "settings"
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"{key}: no such setting"
    if kind == "missing":
        return f"{key}: missing, and it has no default"
    message = item["msg"].removeprefix("Value error, ")
    given = item["input"]
    if kind in {"value_error", "assertion_error"} and isinstance(given, dict | Section | SecretStr):
        return f"{key}: {message}"
    return f"{key}: got {_kind(given)}: {message[0].lower()}{message[1:]}"


def _kind(value: object) -> str:
    # Only the type: the value may be a misplaced secret.
    names = {str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    names |= {dict: "a table", list: "a list", tuple: "a list", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")
