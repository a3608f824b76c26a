"""Handshakes and verification with the certificates of a folder."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def policy(folder: Path) -> PolicyBuilder:
    return PolicyBuilder().store(Store([load(folder / "ca.crt")]))


def shake_hands(client: ssl.SSLObject, server: ssl.SSLObject, wires: list[ssl.MemoryBIO]) -> None:
    to_server, to_client, from_client, from_server = wires
    pending = [client, server]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                pass
            to_server.write(from_client.read())
            to_client.write(from_server.read())
        if not pending:
            return
    pytest.fail("the handshake did not end")


def connect(folder: Path, client: str, *, host: str, authority: Path | None = None) -> set[str]:
    """Connect as `client` to the server called `host` and return the names the server sees."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "server.crt", folder / "server.key")
    serving.load_verify_locations((authority or folder) / "ca.crt")
    serving.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.create_default_context(cafile=folder / "ca.crt")
    calling.load_cert_chain(f"{folder}/clients/{client}.crt", f"{folder}/clients/{client}.key")
    to_server, to_client, from_client, from_server = wires = [ssl.MemoryBIO() for _ in range(4)]
    caller = calling.wrap_bio(to_client, from_client, server_hostname=host)
    server = serving.wrap_bio(to_server, from_server, server_side=True)
    shake_hands(caller, server, wires)
    seen = server.getpeercert()
    assert seen
    return {str(kind_and_name[1]) for kind_and_name in seen["subjectAltName"]}
