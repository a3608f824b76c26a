"""A syslog server over real TLS, which tests may stop in the middle of a batch."""

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

import trustme


class SyslogServer:
    """Receives frames (RFC 5425) in a thread; `messages` are those of sessions that ended in order.

    The next connections meet one behaviour of `plan` each: "kill" resets the connection after some
    bytes, "hang up" ends it in order but without close_notify, and "silent" never reads.
    """

    def __init__(self, folder: Path, *, wants_certificate: bool = False) -> None:
        authority = trustme.CA()
        self.ca_file = folder / "syslog_ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        client = authority.issue_cert("authsvc")
        self.cert_file, self.key_file = folder / "client.crt", folder / "client.key"
        client.cert_chain_pems[0].write_to_path(str(self.cert_file))
        client.private_key_pem.write_to_path(str(self.key_file))
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(self._context)
        if wants_certificate:
            authority.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self.plan: list[str] = []
        self.messages: list[bytes] = []
        self.connections = 0
        self._ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await asyncio.to_thread(self._thread.join)
        self._listener.close()

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                plain, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            plain.settimeout(10)
            way = self.plan.pop(0) if self.plan else ""
            try:
                self._receive(plain, way)
            except OSError:
                plain.close()

    def _receive(self, plain: socket.socket, way: str) -> None:
        with self._context.wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False
        ) as secure:
            try:
                secure.do_handshake()
            except ssl.SSLError:
                # Unread bytes would reset the connection, and the alert could get lost.
                with socket.socket(fileno=secure.detach()) as refused:
                    while refused.recv(65_536):
                        pass
                return
            if way == "silent":
                self._ending.wait(5)
                return
            content = b""
            while part := secure.recv(65_536):
                content += part
                if way == "kill":
                    # With bytes unread, or by this option, the kernel resets the connection.
                    reset = b"\x01\0\0\0\0\0\0\0"
                    secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    return
            if way == "hang up":
                secure.shutdown(socket.SHUT_RDWR)
                return
            self.messages += unframed(content)
            secure.unwrap()


def unframed(content: bytes) -> list[bytes]:
    """Return the messages of frames."""
    found = []
    while content:
        length, _, rest = content.partition(b" ")
        assert length.isdigit()
        found.append(rest[: int(length)])
        assert len(found[-1]) == int(length)
        content = rest[int(length) :]
    return found
