"""coturn on this machine, with shared secrets, as operators run it."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from authsvc.dev.process import Launcher, User
from tests.support.turn import TurnClient
from tests.world.install import COTURN


class Coturn:
    """Relays on loopback for whoever has credentials made with one of `secrets`."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets
        user = None
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            user = User(nobody.pw_uid, nobody.pw_gid)
        self._launcher = Launcher(user)
        self._folder = Path(tempfile.mkdtemp(prefix="authsvc-coturn-"))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def __enter__(self) -> Self:
        folder = self._folder
        folder.chmod(0o755)
        settings = folder / "turnserver.conf"
        settings.write_text(
            f"listening-port={self.port}\nlistening-ip=127.0.0.1\nrelay-ip=127.0.0.1\n"
            "realm=example.test\nuse-auth-secret\n"
            + "".join(f"static-auth-secret={secret}\n" for secret in self._secrets)
            + "no-cli\nno-tls\nno-dtls\nallow-loopback-peers\nno-multicast-peers\n"
            f"log-file=stdout\nuserdb={folder / 'turndb'}\npidfile={folder / 'pid'}\n"
        )
        with (folder / "output.txt").open("wb") as output:
            command = [*COTURN.command(), "-c", str(settings)]
            self._process = self._launcher.start(command, keep=(), output=output)
        try:
            with TurnClient(self.port) as client:
                client.wait()
        except TimeoutError:
            said = (folder / "output.txt").read_text()
            self.__exit__(None, None, None)
            raise AssertionError(f"coturn does not answer:\n{said}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._launcher.close()
        shutil.rmtree(self._folder)
