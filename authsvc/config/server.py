"""Owns the settings of the two ports and of TLS."""

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from authsvc.config.types import Duration, Section


class GrpcSettings(Section):
    """The gRPC port and its limits."""

    address: str = "127.0.0.1:8443"
    max_message_bytes: int = Field(65_536, ge=1_024, le=16_777_216)
    max_batch_message_bytes: int = Field(1_048_576, ge=1_024, le=16_777_216)
    max_metadata_bytes: int = Field(16_384, ge=1_024, le=1_048_576)
    max_concurrent_rpcs: int = Field(1_000, ge=1)
    max_concurrent_rpcs_per_caller: int = Field(750, ge=1)
    max_concurrent_streams: int = Field(100, ge=1)
    max_connections: int = Field(1_000, ge=1)
    max_connections_per_caller: int = Field(500, ge=1)
    max_connections_per_stranger: int = Field(8, ge=1)
    max_connections_of_strangers: int = Field(32, ge=1)
    max_new_connections_per_network: int = Field(250, ge=1)
    first_call_timeout: Duration = timedelta(seconds=10)
    max_connection_age: Duration = timedelta(minutes=5)
    max_connection_idle: Duration = timedelta(minutes=2)
    min_ping_interval: Duration = timedelta(seconds=30)
    handshake_timeout: Duration = timedelta(seconds=5)
    call_timeout: Duration = timedelta(seconds=10)
    drain_timeout: Duration = timedelta(seconds=20)
    reflection: bool = True


class TlsSettings(Section):
    """The server's certificate and the CAs that must have issued client certificates."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path
    min_version: Literal["1.2", "1.3"] = "1.2"


class HttpSettings(Section):
    """The HTTP port: JWKS, discovery, metrics, livez, readyz."""

    address: str = "127.0.0.1:8081"
    max_connections: int = Field(256, ge=1)
    max_connections_per_network: int = Field(64, ge=1)
    tls: TlsSettings | None = None
