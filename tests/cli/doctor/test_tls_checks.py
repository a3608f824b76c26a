"""`authsvc doctor` finds certificates that end, don't fit, or are refused by callers."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509

from authsvc.cli.doctor.findings import Level
from authsvc.config import Settings
from tests.support.certificates import Authority, write_files
from tests.support.doctor import examine, levels, only
from tests.support.probe import with_changes


def ending(settings: Settings, authority: Authority, left: timedelta) -> Settings:
    """Return the settings with a server certificate that ends so soon."""
    now = datetime.now(UTC)
    names = (x509.DNSName("localhost"),)
    server = authority.issue(*names, not_before=now - timedelta(days=365), not_after=now + left)
    folder = settings.tls.key_file.parent
    tls = write_files(folder, authority.certificate, server)
    return settings.model_copy(update={"tls": tls})


async def test_key_of_another_certificate_is_an_error(
    settings: Settings, authority: Authority
) -> None:
    assert await levels("tls.certificates", settings) == [Level.OK]
    settings.tls.key_file.write_bytes(authority.server().key)
    text = await only(Level.ERROR, "tls.certificates", settings)
    assert "is not the key of" in text


async def test_certificate_of_the_http_port_is_checked_too(
    settings: Settings, authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "http"
    folder.mkdir()
    tls = write_files(folder, authority.certificate, authority.server())
    secured = with_changes(settings, "http", tls=tls)
    assert await levels("tls.certificates", secured) == [Level.OK, Level.OK]
    tls.certificate_file.write_text("no certificate")
    text = await only(Level.ERROR, "tls.certificates", secured)
    assert text.startswith("http.tls: ")


@pytest.mark.parametrize(
    ("left", "level", "said"),
    [
        (timedelta(days=100), Level.OK, "expires in 99 days"),
        (timedelta(days=20), Level.WARNING, "expires in 19 days"),
        (timedelta(hours=3), Level.WARNING, "hours"),
        (timedelta(days=-1), Level.ERROR, "has expired"),
    ],
)
async def test_end_of_a_certificate_is_told_in_time(
    settings: Settings, authority: Authority, left: timedelta, level: Level, said: str
) -> None:
    found = await examine("tls.expiry", ending(settings, authority, left))
    [text] = [each.text for each in found if "server.crt" in each.text]
    [found_level] = [each.level for each in found if "server.crt" in each.text]
    assert (found_level, said in text) == (level, True), text


async def test_certificate_of_a_day_is_not_late_from_its_beginning(
    settings: Settings, authority: Authority
) -> None:
    now = datetime.now(UTC)
    names = (x509.DNSName("localhost"),)
    server = authority.issue(*names, not_before=now, not_after=now + timedelta(days=1))
    settings.tls.certificate_file.write_bytes(server.certificate)
    assert await levels("tls.expiry", settings) == [Level.OK, Level.OK]


async def test_expired_authority_of_callers_is_an_error(
    settings: Settings, authority: Authority
) -> None:
    expired = authority.renewed(datetime(2021, 1, 1, tzinfo=UTC))
    settings.tls.client_ca_file.write_bytes(expired + authority.certificate)
    text = await only(Level.ERROR, "tls.expiry", settings)
    assert "Test authority has expired on 2021-01-01" in text


async def test_certificate_from_the_future_is_an_error(
    settings: Settings, authority: Authority
) -> None:
    early = authority.issue(
        x509.DNSName("localhost"), not_before=datetime.now(UTC) + timedelta(hours=1)
    )
    settings.tls.certificate_file.write_bytes(early.certificate)
    assert "is not valid before" in await only(Level.ERROR, "tls.expiry", settings)


async def test_authorities_of_callers_judge_the_chain(settings: Settings, tmp_path: Path) -> None:
    assert await levels("tls.chain", settings) == [Level.OK]
    # Callers may trust other authorities than those that signed their own certificates.
    settings.tls.client_ca_file.write_bytes(Authority("Callers").certificate)
    assert "--ca" in await only(Level.SKIPPED, "tls.chain", settings)
    theirs = tmp_path / "theirs.crt"
    theirs.write_bytes(Authority("Others").certificate)
    text = await only(Level.ERROR, "tls.chain", settings, ca=theirs)
    assert "refuses the certificate: unable to get local issuer certificate" in text


async def test_certificate_of_an_old_authority_with_the_same_name_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    renewed = tmp_path / "renewed.crt"
    renewed.write_bytes(Authority().certificate)
    assert await levels("tls.chain", settings, ca=renewed) == [Level.ERROR]


async def test_bundle_that_is_no_certificate_is_an_error(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "empty.crt").write_text("")
    text = await only(Level.ERROR, "tls.chain", settings, ca=tmp_path / "empty.crt")
    assert "contains no certificate" in text
    text = await only(Level.ERROR, "tls.chain", settings, ca=tmp_path / "none.crt")
    assert "can't be read" in text


async def test_names_that_callers_use_are_compared(
    settings: Settings, authority: Authority
) -> None:
    assert "localhost, 127.0.0.1" in await only(Level.OK, "tls.names", settings)
    good = ("localhost:8443", "127.0.0.1:8443", "dns:///localhost:8443", "unix:/run/authsvc")
    assert await levels("tls.names", settings, targets=good) == [Level.OK]
    bad = (*good, "authsvc.shop.svc.cluster.local:8443")
    text = await only(Level.ERROR, "tls.names", settings, targets=bad)
    assert text.startswith("callers that use authsvc.shop.svc.cluster.local refuse")
    wild = authority.issue(x509.DNSName("*.shop.svc.cluster.local"))
    write_files(settings.tls.key_file.parent, authority.certificate, wild)
    targets = ("authsvc.shop.svc.cluster.local:8443",)
    assert await levels("tls.names", settings, targets=targets) == [Level.OK]


async def test_common_name_is_not_a_name(settings: Settings, authority: Authority) -> None:
    write_files(
        settings.tls.key_file.parent,
        authority.certificate,
        authority.issue(common_name="localhost"),
    )
    assert "no alternative name" in await only(Level.ERROR, "tls.names", settings)
    address = x509.IPAddress(IPv4Address("10.0.0.1"))
    server = authority.issue(address, common_name="authsvc")
    write_files(settings.tls.key_file.parent, authority.certificate, server)
    targets = ("authsvc:8443",)
    assert await levels("tls.names", settings, targets=targets) == [Level.ERROR]


async def test_what_is_no_authority_is_named(settings: Settings, authority: Authority) -> None:
    assert await levels("tls.authorities", settings) == [Level.OK]
    leaf = authority.issue(x509.DNSName("shop"), common_name="shop").certificate
    settings.tls.client_ca_file.write_bytes(authority.certificate + leaf)
    assert "CN=shop is not an authority" in await only(Level.WARNING, "tls.authorities", settings)


async def test_authority_that_hides_another_is_named(
    settings: Settings, authority: Authority
) -> None:
    settings.tls.client_ca_file.write_bytes(authority.certificate + Authority().certificate)
    text = await only(Level.WARNING, "tls.authorities", settings)
    assert "has 2 certificates named CN=Test authority" in text
    # A renewed certificate of the same key hides nobody.
    renewed = authority.renewed(datetime(2040, 1, 1, tzinfo=UTC))
    settings.tls.client_ca_file.write_bytes(authority.certificate + renewed)
    assert await levels("tls.authorities", settings) == [Level.OK]


@pytest.mark.parametrize("name", ["tls.chain", "tls.names"])
async def test_certificate_that_cannot_be_served_is_reported_once(
    settings: Settings, name: str
) -> None:
    settings.tls.certificate_file.write_text("")
    assert await levels(name, settings) == [Level.SKIPPED]
    assert await levels("tls.certificates", settings) == [Level.ERROR]


async def test_authorities_that_cannot_be_read_are_reported_once(settings: Settings) -> None:
    settings.tls.client_ca_file.unlink()
    assert await levels("tls.authorities", settings) == [Level.SKIPPED]
    assert await levels("tls.certificates", settings) == [Level.ERROR]
