"""Owns the file in which `authsvc dev` says where it serves, for programs that started it."""

import json
import os
from pathlib import Path

from authsvc.app.application import Application
from authsvc.cli.output import fail
from authsvc.dev.ports import dialled
from authsvc.dev.workspace import Workspace, write_private


class PortFile:
    """A JSON file that exists, whole, only while the service serves.

    A service that was killed leaves it behind: its `pid` then names no process of this service.
    """

    def __init__(self, path: Path) -> None:
        """Remove what an earlier service left, so that nobody takes it for this one's."""
        if not path.absolute().parent.is_dir():
            fail(f"--port-file: there is no folder {path.absolute().parent}")
        if path.is_dir():
            fail(f"--port-file: {path} is a folder")
        path.unlink(missing_ok=True)
        self._path = path.absolute()
        self._text = ""

    def write(self, workspace: Workspace, app: Application) -> None:
        """Write the file."""
        certs = workspace.certificates.absolute()
        clients = {
            file.stem: {"cert": str(file), "key": str(file.with_suffix(".key"))}
            for file in sorted((certs / "clients").glob("*.crt"))
        }
        self._text = json.dumps(
            {
                "pid": os.getpid(),
                "grpc": dialled(app.grpc_address),
                "http": f"http://{dialled(app.http_address)}",
                "ca": str(certs / "ca.crt"),
                "clients": clients,
                "messages": str(workspace.folder.absolute() / "messages"),
            },
            indent=2,
        )
        write_private(self._path, f"{self._text}\n")

    def remove(self) -> None:
        """Remove the file, unless another service has written it since."""
        try:
            if self._path.read_text() == f"{self._text}\n":
                self._path.unlink()
        except FileNotFoundError:
            # Its reader has removed it.
            return
