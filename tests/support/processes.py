"""The service and its commands as processes of their own."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import grpc
import pytest

from authsvc.dev.workspace import Workspace

_PATIENCE = 180.0


class Program:
    """A running program; `output` collects what it prints.

    The output is read continuously, as a service whose log is not read blocks when the pipe fills.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], keep: Sequence[int] = ()
    ) -> None:
        self.output = ""
        self._ended = False
        self._more = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            pass_fds=keep,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait until the output from `after` on matches, or fail and show the output."""
        expression = re.compile(pattern)
        with self._more:
            self._more.wait_for(
                lambda: self._ended or expression.search(self.output, after),
                _PATIENCE,
            )
        match = expression.search(self.output, after)
        assert match, f"{pattern!r} never came: {self.output}"
        return match

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop it with SIGSTOP; return when it runs no more."""
        self.send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        self._process.wait(_PATIENCE)
        self._reader.join()
        return self._process.returncode

    def kill(self) -> None:
        """Kill the command, unless it has ended."""
        self._process.kill()
        self.end()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._more:
                    self.output += line
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()


class Process(Program):
    """A running command of the service's, without the settings of this process's environment.

    `module` may be another than the service's, to which it leads.
    """

    def __init__(
        self,
        *arguments: str,
        python: str = sys.executable,
        module: str = "authsvc",
        **environment: str,
    ) -> None:
        clean = {name: value for name, value in os.environ.items() if "AUTHSVC" not in name}
        ports = {} if "--http" in arguments else {"AUTHSVC_HTTP__ADDRESS": "127.0.0.1:0"}
        super().__init__(
            [python, "-m", module, *arguments],
            clean | {"COLUMNS": "200"} | ports | environment,
        )


class Replica:
    """A replica of the service, started with the settings and certificates of a workspace."""

    def __init__(self, workspace: Workspace, database_url: str) -> None:
        self.process = Process(
            "serve",
            *("-c", str(workspace.config), "--secrets", str(workspace.secrets)),
            AUTHSVC_GRPC__ADDRESS="127.0.0.1:0",
            AUTHSVC_DATABASE__URL=database_url,
        )
        self._certificates = workspace.certificates

    @property
    def port(self) -> int:
        """The port of gRPC, once the replica serves."""
        return int(self.process.wait_for(r'serving.*"grpc": ?"127.0.0.1:(\d+)"')[1])

    def channel(self, role: str) -> grpc.aio.Channel:
        """Return a channel of the client that holds `role`, once the replica serves."""
        client = self._certificates / "clients" / role
        credentials = grpc.ssl_channel_credentials(
            (self._certificates / "ca.crt").read_bytes(),
            client.with_suffix(".key").read_bytes(),
            client.with_suffix(".crt").read_bytes(),
        )
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts commands; those still running when the test ends are killed."""
    started: list[Process] = []

    def run(*arguments: str, **environment: str) -> Process:
        started.append(Process(*arguments, **environment))
        return started[-1]

    yield run
    for process in started:
        process.kill()
