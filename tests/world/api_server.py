"""Owns a real API server of Kubernetes, on a real etcd, without the rest of a cluster.

It stores objects, checks them as a cluster does, and runs nothing: no Deployment gets pods and no
Job ends, unless a test says so.
"""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.world.helm import helm
from tests.world.install import ETCD, KUBECTL
from tests.world.place import WorldError
from tests.world.tools import HELM, KUBE_APISERVER, Tool

# For the whole start, on a busy machine.
_PATIENCE = 120.0
_PAUSE = 0.2


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


class ApiServer:
    """The server while the context lasts; `kubectl` and `helm`, of which `program` is one, are
    those of its administrator.
    """

    def __init__(self, folder: Path, program: Tool = HELM) -> None:
        self._folder = folder
        self.program = program
        self._processes: list[subprocess.Popen[bytes]] = []
        self._config = folder / "kubeconfig"

    def __enter__(self) -> Self:
        if not KUBE_APISERVER.is_installed():
            raise WorldError("kube-apiserver is missing: run `python -m tests.world.install`")
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        clients, peers, port = (_free_port() for _ in range(3))
        etcd = f"http://127.0.0.1:{clients}"
        self._run(
            "etcd",
            *ETCD.command(),
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            "--unsafe-no-fsync",
        )
        key = self._folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self._folder / "tokens.csv").write_text('admin,admin,admin,"system:masters"\n')
        self._run(
            "kube-apiserver",
            KUBE_APISERVER.bin / "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self._folder / 'certs'}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.example.com",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            # Nobody makes the ServiceAccount that it would wait for.
            "--disable-admission-plugins=ServiceAccount",
        )
        cluster = {
            "server": f"https://127.0.0.1:{port}",
            "insecure-skip-tls-verify": True,
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": "admin"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self._config.write_text(yaml.safe_dump(config))
        self._until(lambda: self._try("get", "--raw", "/readyz") is not None)

    def kubectl(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run kubectl and return what it prints."""
        done = self._kubectl(arguments, stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusal(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run kubectl, which has to fail, and return why."""
        done = self._kubectl(arguments, stdin)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        """Return an object, or None if it isn't there."""
        text = self._try("get", kind, name, "--namespace", namespace, "--output=json")
        return None if text is None else json.loads(text)

    def names(self, namespace: str, *kinds: str) -> set[str]:
        """Return the objects of these kinds, such as `job.batch/authsvc-migration`."""
        text = self.kubectl("get", ",".join(kinds), "--namespace", namespace, "--output=name")
        return set(text.split())

    def helm(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run Helm on this server; raises HelmError."""
        return helm("--kubeconfig", self._config, *arguments, stdin=stdin, program=self.program)

    def end_job(self, name: str, namespace: str, outcome: str) -> "JobEnd":
        """Have the next Job of this name end as `outcome` says: Complete, or Failed."""
        return JobEnd(self, name, namespace, outcome)

    def _kubectl(
        self, arguments: Sequence[str | Path], stdin: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*KUBECTL.command(), "--kubeconfig", self._config, *arguments],
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
        )

    def _try(self, *arguments: str) -> str | None:
        done = self._kubectl(arguments, "")
        return done.stdout if done.returncode == 0 else None

    def _run(self, name: str, *command: str | Path) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not condition():
            for process in self._processes:
                assert process.poll() is None, self._log()
            assert time.monotonic() < end, self._log()
            time.sleep(_PAUSE)

    def _log(self) -> str:
        return "".join(path.read_text()[-2_000:] for path in self._folder.glob("*.log"))

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        shutil.rmtree(self._folder / "etcd", ignore_errors=True)


class JobEnd:
    """Ends a Job as the controllers of a cluster would; `seen` has what was there at that time."""

    def __init__(self, server: ApiServer, name: str, namespace: str, outcome: str) -> None:
        self._server = server
        self._job = (name, namespace)
        self._outcome = outcome
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._end)
        self.seen: set[str] = set()

    def __enter__(self) -> Self:
        self._before = self._uid()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _uid(self) -> str | None:
        found = self._server.get("job", *self._job)
        return None if found is None else found["metadata"]["uid"]

    def _end(self) -> None:
        name, namespace = self._job
        while self._uid() in {None, self._before}:
            if self._over.wait(_PAUSE):
                return
        kinds = ("configmap", "deployment", "service", "serviceaccount", "networkpolicy")
        self.seen = self._server.names(namespace, *kinds)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        before = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[self._outcome]
        status: dict[str, Any] = {
            "startTime": now,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": now}
                for kind in (before, self._outcome)
            ],
        }
        if self._outcome == "Complete":
            status |= {"completionTime": now, "succeeded": 1}
        patch = json.dumps({"status": status})
        self._server.kubectl(
            *("patch", "job", name, "--namespace", namespace),
            *("--subresource=status", "--type=merge", "--patch", patch),
        )
