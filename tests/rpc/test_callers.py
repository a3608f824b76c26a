"""Callers' identities: which certificates have one, and which have none."""

from datetime import timedelta
from ipaddress import IPv4Address

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from authsvc.config import CallerSettings, Settings
from authsvc.errors import CallerNotAllowed
from authsvc.models.calls import Role
from authsvc.rpc.callers import Callers
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.certificates import Authority, Certificate, key_usage
from tests.support.clock import FakeClock
from tests.support.probe import ProbeServer, StartProbe, identity_of, outcome, with_callers

APP = identity_of("app")
URI = x509.UniformResourceIdentifier
DNS = x509.DNSName


def callers_of(clock: FakeClock, *identities: str) -> Callers:
    return Callers([CallerSettings(identity=name, roles={Role.APP}) for name in identities], clock)


def test_spiffe_id_is_identity(clock: FakeClock, authority: Authority) -> None:
    certificate = authority.caller(APP)
    caller = callers_of(clock, APP).identify(certificate.certificate).caller
    assert caller.identity == APP
    assert caller.roles == {Role.APP}
    assert caller.thumbprint == certificate.parsed.fingerprint(SHA256())


def test_dns_name_is_identity_without_uri(clock: FakeClock, authority: Authority) -> None:
    certificate = authority.issue(DNS("Billing.Internal"))
    caller = callers_of(clock, "dns:billing.internal").identify(certificate.certificate).caller
    assert caller.identity == "dns:billing.internal"
    assert caller.roles == {Role.APP}


def test_uri_takes_precedence_over_dns_names(clock: FakeClock, authority: Authority) -> None:
    certificate = authority.issue(URI(APP), DNS("one.internal"), DNS("two.internal"))
    assert callers_of(clock, APP).identify(certificate.certificate).caller.identity == APP


def test_unknown_identity_has_no_roles(clock: FakeClock, authority: Authority) -> None:
    certificate = authority.caller("spiffe://authsvc.test/unheard-of")
    caller = callers_of(clock, APP).identify(certificate.certificate).caller
    assert caller.identity == "spiffe://authsvc.test/unheard-of"
    assert not caller.roles


HOSTILE = {
    "two URI names": ((URI(APP), URI("spiffe://authsvc.test/other")), ()),
    "the same URI name twice": ((URI(APP), URI(APP)), ()),
    "a common name only": ((), ()),
    "authority as leaf": ((URI(APP),), (x509.BasicConstraints(ca=True, path_length=None),)),
    "may sign certificates": ((URI(APP),), (key_usage(key_cert_sign=True),)),
    "may sign revocation lists": ((URI(APP),), (key_usage(crl_sign=True),)),
    "DNS name that reads as a URI": ((DNS(APP),), ()),
    "DNS name with a prefix of ours": ((DNS("dns:billing.internal"),), ()),
    "wildcard": ((DNS("*.internal"),), ()),
    "two DNS names": ((DNS("billing.internal"), DNS("other.internal")), ()),
    "DNS name with NUL": ((DNS("billing.internal\0.evil"),), ()),
    "DNS name that ends in a line break": ((DNS("billing.internal\n"),), ()),
    "ip address": ((x509.IPAddress(IPv4Address("127.0.0.1")),), ()),
    "e-mail address": ((x509.RFC822Name("app@authsvc.test"),), ()),
    "no path": ((URI("spiffe://authsvc.test"),), ()),
    "root path": ((URI("spiffe://authsvc.test/"),), ()),
    "slash at the end": ((URI(f"{APP}/"),), ()),
    "empty segment": ((URI("spiffe://authsvc.test//app"),), ()),
    "parent segment": ((URI("spiffe://authsvc.test/edge/../app"),), ()),
    "dot segment": ((URI("spiffe://authsvc.test/./app"),), ()),
    "another scheme": ((URI("https://authsvc.test/app"),), ()),
    "scheme in upper case": ((URI("SPIFFE://authsvc.test/app"),), ()),
    "trust domain in upper case": ((URI("spiffe://AUTHSVC.test/app"),), ()),
    "a port": ((URI("spiffe://authsvc.test:443/app"),), ()),
    "user information": ((URI("spiffe://x@authsvc.test/app"),), ()),
    "a query": ((URI(f"{APP}?x"),), ()),
    "percent-encoding": ((URI("spiffe://authsvc.test/%61pp"),), ()),
    "line break after the path": ((URI(f"{APP}\n"),), ()),
    "NUL in the path": ((URI(f"{APP}\0.evil"),), ()),
    "too long": ((URI(f"{APP}/{'a' * 2_048}"),), ()),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_certificate_without_identity_is_rejected(
    case: str, clock: FakeClock, authority: Authority
) -> None:
    names, extensions = HOSTILE[case]
    certificate = authority.issue(*names, common_name=APP, extensions=extensions)
    found = callers_of(clock, APP, "dns:billing.internal").identify(certificate.certificate)
    assert found.caller.identity == ""
    assert not found.caller.roles
    assert found.flaw


def test_validity_is_checked_on_each_call(clock: FakeClock, authority: Authority) -> None:
    expiry = clock.now() + timedelta(hours=1)
    certificate = authority.caller(APP, not_after=expiry).certificate
    callers = callers_of(clock, APP)
    assert callers.identify(certificate).caller.roles
    clock.advance(timedelta(hours=1) - timedelta(seconds=1))
    assert callers.identify(certificate).caller.roles
    clock.advance(1)
    with pytest.raises(CallerNotAllowed):
        callers.identify(certificate)


def test_certificate_is_rejected_before_its_start_time(
    clock: FakeClock, authority: Authority
) -> None:
    start = clock.now() + timedelta(seconds=1)
    certificate = authority.issue(URI(APP), not_before=start).certificate
    callers = callers_of(clock, APP)
    with pytest.raises(CallerNotAllowed):
        callers.identify(certificate)
    clock.advance(1)
    assert callers.identify(certificate).caller.roles


def test_malformed_certificate_is_rejected(clock: FakeClock) -> None:
    with pytest.raises(CallerNotAllowed):
        callers_of(clock, APP).identify(b"-----BEGIN CERTIFICATE-----\nAAAA\n")


def test_certificates_with_same_trailing_bytes_are_distinguished(
    clock: FakeClock, authority: Authority
) -> None:
    # A cached certificate is found by its end, and then compared as a whole.
    callers = callers_of(clock, APP)
    honest = authority.caller(APP)
    assert callers.identify(honest.certificate).caller.identity == APP
    altered = honest.parsed.public_bytes(Encoding.DER).replace(b"/app", b"/edg")
    other = x509.load_der_x509_certificate(altered).public_bytes(Encoding.PEM)
    assert other[-96:] == honest.certificate[-96:]
    assert callers.identify(other).caller.identity == "spiffe://authsvc.test/edg"
    assert callers.identify(honest.certificate).caller.identity == APP


def test_replaced_callers_take_effect_immediately(clock: FakeClock, authority: Authority) -> None:
    certificate = authority.caller(APP).certificate
    callers = callers_of(clock, APP)
    assert callers.identify(certificate).caller.roles == {Role.APP}
    callers.replace([CallerSettings(identity=APP, roles={Role.EDGE, Role.ISSUER})])
    assert callers.identify(certificate).caller.roles == {Role.EDGE, Role.ISSUER}
    callers.replace([])
    assert not callers.identify(certificate).caller.roles


async def login(probe: ProbeServer, certificate: Certificate) -> pb.LoginResponse:
    stub = AuthServiceStub(probe.clients.open(certificate))
    return await stub.Login(pb.LoginRequest())


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_certificate_is_rejected_on_the_wire(
    case: str, probe: ProbeServer, authority: Authority
) -> None:
    names, extensions = HOSTILE[case]
    certificate = authority.issue(*names, common_name=APP, extensions=extensions)
    assert await outcome(login(probe, certificate)) == "CALLER_NOT_ALLOWED"


async def test_common_name_with_nul_is_no_identity(
    start_probe: StartProbe, settings: Settings, authority: Authority
) -> None:
    # gRPC truncates the name at the NUL, which makes it another one.
    probe = await start_probe(with_callers(settings, {"dns:billing.internal": {Role.APP}}))
    certificate = authority.issue(common_name="billing.internal\0.evil")
    assert await outcome(login(probe, certificate)) == "CALLER_NOT_ALLOWED"


async def test_other_trust_domain_is_rejected(probe: ProbeServer, authority: Authority) -> None:
    certificate = authority.caller("spiffe://other.test/app")
    assert await outcome(login(probe, certificate)) == "CALLER_NOT_ALLOWED"


async def test_certificate_expiring_while_connected_is_rejected(
    probe: ProbeServer, authority: Authority, clock: FakeClock
) -> None:
    expiry = clock.now() + timedelta(hours=1)
    channel = probe.clients.open(authority.caller(APP, not_after=expiry))
    stub = AuthServiceStub(channel)
    assert await outcome(stub.Login(pb.LoginRequest())) == "OK"
    clock.advance(timedelta(hours=1))
    assert await outcome(stub.Login(pb.LoginRequest())) == "CALLER_NOT_ALLOWED"


async def test_rejection_does_not_reveal_allowed_callers(
    probe: ProbeServer, authority: Authority
) -> None:
    messages = set()
    for certificate in (
        authority.caller("spiffe://other.test/app"),
        authority.caller(identity_of("edge")),
        authority.issue(common_name=APP),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await login(probe, certificate)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        messages.add(caught.value.details())
    assert messages == {"The caller is not allowed to do this."}
