"""A TURN client (RFC 8656) over UDP: it allocates an address, and relays through it."""

import hashlib
import hmac
import secrets
import socket
import struct
from types import TracebackType
from typing import Self

_COOKIE = 0x2112A442
_REQUEST, _INDICATION, _SUCCESS = 0x000, 0x010, 0x100
_BINDING, _ALLOCATE, _REFRESH, _SEND, _DATA, _PERMIT = 0x001, 0x003, 0x004, 0x006, 0x007, 0x008
_USERNAME, _INTEGRITY, _ERROR, _LIFETIME = 0x0006, 0x0008, 0x0009, 0x000D
_PEER, _PAYLOAD, _REALM, _NONCE = 0x0012, 0x0013, 0x0014, 0x0015
_RELAYED, _TRANSPORT = 0x0016, 0x0019
_UDP = bytes([17, 0, 0, 0])
_PATIENCE, _TRIES = 0.2, 100

_Attributes = dict[int, bytes]


class TurnRefused(Exception):
    """The server refused a request; `code` is the error's."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class TurnClient:
    """One client of the server at `port` of this machine."""

    def __init__(self, port: int, username: str = "", password: str = "") -> None:
        self._server = ("127.0.0.1", port)
        self._username = username
        self._password = password
        self._challenge: _Attributes = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def wait(self) -> None:
        """Return once the server answers."""
        self._request(_BINDING, {})

    def allocate(self) -> tuple[str, int]:
        """Return the address that the server relays for this client; raises TurnRefused."""
        try:
            self._request(_ALLOCATE, {_TRANSPORT: _UDP})
        except TurnRefused as refused:
            if refused.code != 401:
                raise
        answer = self._request(_ALLOCATE, {_TRANSPORT: _UDP})
        return _address(answer[_RELAYED])

    def refresh(self) -> None:
        """Keep the allocation; raises TurnRefused."""
        self._request(_REFRESH, {_LIFETIME: struct.pack("!I", 600)})

    def echo(self, payload: bytes) -> bytes:
        """Return what a peer got through the relay, after the way back through the relay."""
        relayed = self.allocate()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(_PATIENCE)
            address = _xor(peer.getsockname())
            self._request(_PERMIT, {_PEER: address})
            message = _encode(
                _SEND | _INDICATION, secrets.token_bytes(12), {_PEER: address, _PAYLOAD: payload}
            )
            for _ in range(_TRIES):
                self._socket.sendto(message, self._server)
                try:
                    got, sender = peer.recvfrom(2_048)
                    assert sender == relayed
                    peer.sendto(got, relayed)
                    kind, _, attributes = _decode(self._socket.recv(2_048))
                except TimeoutError:
                    continue
                if kind == _DATA | _INDICATION:
                    return attributes[_PAYLOAD]
        raise TimeoutError("nothing was relayed")

    def _request(self, method: int, attributes: _Attributes) -> _Attributes:
        """Return the attributes of the answer; a request may be lost, and is sent again."""
        number = secrets.token_bytes(12)
        message = _encode(method | _REQUEST, number, attributes)
        if self._challenge:
            message = self._signed(method, number, attributes)
        for _ in range(_TRIES):
            self._socket.sendto(message, self._server)
            try:
                kind, answered, answer = _decode(self._socket.recv(2_048))
            except (TimeoutError, ConnectionRefusedError):
                continue
            if answered != number:
                continue
            if kind == method | _SUCCESS:
                return answer
            self._challenge = {name: answer[name] for name in (_REALM, _NONCE) if name in answer}
            raise TurnRefused(answer[_ERROR][2] * 100 + answer[_ERROR][3])
        raise TimeoutError("the server does not answer")

    def _signed(self, method: int, number: bytes, attributes: _Attributes) -> bytes:
        """Return a request with long-term credentials (RFC 8489 section 9.2)."""
        realm = self._challenge[_REALM].decode()
        # The algorithm of the protocol.
        text = f"{self._username}:{realm}:{self._password}".encode()
        key = hashlib.md5(text, usedforsecurity=False).digest()
        credentials = {_USERNAME: self._username.encode(), **self._challenge}
        unsigned = _encode(method, number, attributes | credentials, more=24)
        mac = hmac.digest(key, unsigned, "sha1")
        return unsigned + struct.pack("!HH", _INTEGRITY, len(mac)) + mac


def _encode(kind: int, number: bytes, attributes: _Attributes, more: int = 0) -> bytes:
    body = b"".join(
        struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4)
        for name, value in attributes.items()
    )
    return struct.pack("!HHI", kind, len(body) + more, _COOKIE) + number + body


def _decode(message: bytes) -> tuple[int, bytes, _Attributes]:
    kind, length, _ = struct.unpack("!HHI", message[:8])
    attributes: _Attributes = {}
    at = 20
    while at < 20 + length:
        name, size = struct.unpack("!HH", message[at : at + 4])
        attributes[name] = message[at + 4 : at + 4 + size]
        at += 4 + size + (-size % 4)
    return kind, message[8:20], attributes


def _xor(address: tuple[str, int]) -> bytes:
    host = int.from_bytes(socket.inet_aton(address[0])) ^ _COOKIE
    return struct.pack("!xBHI", 1, address[1] ^ (_COOKIE >> 16), host)


def _address(value: bytes) -> tuple[str, int]:
    port, host = struct.unpack("!2xHI", value)
    return socket.inet_ntoa((host ^ _COOKIE).to_bytes(4)), port ^ (_COOKIE >> 16)
