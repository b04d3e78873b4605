from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from transship.agent.node.credentials import Credentials
from transship.common.certificates import Authority, new_authority, write_credentials
from transship.common.tls import TlsFiles


@pytest.fixture
def authority() -> Authority:
    return new_authority("test")


def issued(authority: Authority, folder: Path, *, at: int) -> TlsFiles:
    """A certificate for node-a; `at` is when its files were written."""
    ca = folder / "ca.crt"
    ca.write_bytes(authority.credentials.certificate)
    own = write_credentials(
        authority.issue_agent("node-a", addresses=["10.0.0.1"]), folder, "agent"
    )
    for file in (ca, own.certificate, own.key):
        os.utime(file, (at, at))
    return TlsFiles(ca, own.certificate, own.key)


def serial_shown(credentials: Credentials) -> int:
    """Of the certificate that a new connection is answered with."""
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = credentials.client.wrap_bio(client_in, client_out, server_hostname="node-a")
    server = credentials.server.wrap_bio(client_out, client_in, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def serial_in(paths: TlsFiles) -> int:
    return x509.load_pem_x509_certificate(paths.certificate.read_bytes()).serial_number


def test_a_renewed_certificate_is_used_without_a_restart(
    tmp_path: Path, authority: Authority
) -> None:
    paths = issued(authority, tmp_path, at=1)
    credentials, first = Credentials(paths), serial_in(paths)
    assert serial_shown(credentials) == first
    assert not credentials.refresh()

    issued(authority, tmp_path, at=2)
    assert credentials.refresh()
    assert serial_shown(credentials) == serial_in(paths) != first


def test_an_incomplete_renewal_changes_nothing_until_it_is_complete(
    tmp_path: Path, authority: Authority
) -> None:
    paths = issued(authority, tmp_path, at=1)
    credentials, first, key = Credentials(paths), serial_in(paths), paths.key.read_bytes()
    issued(authority, tmp_path, at=2)
    renewed = paths.key.read_bytes()
    paths.key.write_bytes(key)
    assert not credentials.refresh()
    assert serial_shown(credentials) == first
    paths.key.write_bytes(renewed)
    assert credentials.refresh()
    assert serial_shown(credentials) != first
