"""Tokens of SoftHSM, which keeps the keys of an HSM in files."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, ObjectClass

from authsvc.config import Settings, TokenSettings
from tests.world.install import SOFTHSM

_PIN = "pin-of-the-user"


class SoftHsm:
    """One token in `folder`; `setenv` sets a variable of the environment for the module."""

    def __init__(self, folder: Path, setenv: Callable[[str, str], None]) -> None:
        self._tokens = folder / "tokens"
        self._tokens.mkdir(parents=True)
        self.module = SOFTHSM.folder / "usr/lib/softhsm/libsofthsm2.so"
        configuration = folder / "softhsm2.conf"
        configuration.write_text(f"directories.tokendir = {self._tokens}\nlog.level = ERROR\n")
        setenv("SOFTHSM2_CONF", str(configuration))
        self.label = f"authsvc-{folder.name}"[-32:]
        action = ("--module", str(self.module), "--init-token", "--free", "--label", self.label)
        pins = ("--pin", _PIN, "--so-pin", "pin-of-the-officer")
        subprocess.run([*SOFTHSM.command(), *action, *pins], check=True, capture_output=True)

    def settings(self, settings: Settings, **changes: object) -> Settings:
        """Return `settings` with keys that are made in this token."""
        hsm = {"module": str(self.module), "token": self.label, "pin": _PIN}
        values = {
            **settings.tokens.model_dump(exclude_unset=True),
            "signer": "pkcs11",
            "pkcs11": hsm,
            **changes,
        }
        tokens = TokenSettings.model_validate(values)
        return settings.model_copy(update={"tokens": tokens})

    def vanish(self) -> None:
        """Let the HSM fail from now on."""
        self._tokens.rename(self._tokens.with_name("gone"))

    def return_(self) -> None:
        """Let the HSM answer again."""
        self._tokens.with_name("gone").rename(self._tokens)

    def private_keys(self) -> list[dict[Attribute, Any]]:
        """Return of each private key whether it is hidden, seen by a session of its own."""
        library = pkcs11.lib(str(self.module))
        library.reinitialize()
        token = library.get_token(token_label=self.label)
        with token.open(user_pin=_PIN) as session:
            wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
            hidden = [Attribute.SENSITIVE, Attribute.EXTRACTABLE]
            return [found.get_attributes(hidden) for found in session.get_objects(wanted)]
