import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transship.common.certificates import (
    Authority,
    Credentials,
    agent_name,
    agent_node,
    credential_files,
    ensure_authority,
    new_authority,
    new_key_pair,
    write_credentials,
)
from transship.common.errors import InvalidInput


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority("transship")


def parsed(credentials: Credentials) -> x509.Certificate:
    return x509.load_pem_x509_certificate(credentials.certificate)


def usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_an_agents_certificate_names_its_node_its_addresses_and_its_group(
    authority: Authority,
) -> None:
    certificate = parsed(authority.issue_agent("node-a", addresses=["10.1.2.3", "fd00::1"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-a"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "fd00::1"]
    subject = certificate.subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "transship:agent:node-a"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "transship:agents"


def test_an_agent_is_server_and_client(authority: Authority) -> None:
    certificate = parsed(authority.issue_agent("node-a", addresses=["10.1.2.3"]))
    assert usages(certificate) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_the_operator_is_only_a_client(authority: Authority) -> None:
    certificate = parsed(authority.issue_operator())
    assert usages(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_two_agents_accept_each_other_under_the_strictest_checks(
    authority: Authority, tmp_path: Path
) -> None:
    dialled = authority.issue_agent("node-b", addresses=["10.0.0.2"])
    dialling = authority.issue_agent("node-a", addresses=["10.0.0.1"])
    server, client = handshake(tmp_path, authority, authority, dialled, dialling, host="10.0.0.2")
    assert server.version() == client.version() == "TLSv1.3"


def test_an_agent_is_not_accepted_under_another_address(
    authority: Authority, tmp_path: Path
) -> None:
    dialled = authority.issue_agent("node-b", addresses=["10.0.0.2"])
    operator = authority.issue_operator()
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(tmp_path, authority, authority, dialled, operator, host="10.0.0.3")


def test_a_client_of_another_authority_is_not_accepted(
    authority: Authority, tmp_path: Path
) -> None:
    dialled = authority.issue_agent("node-b", addresses=["10.0.0.2"])
    stranger = new_authority("transship").issue_operator()
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, authority, authority, dialled, stranger, host="10.0.0.2")


def test_files_can_be_read_by_their_owner_alone(authority: Authority, tmp_path: Path) -> None:
    files = write_credentials(authority.issue_operator(), tmp_path / "pki", "operator")
    assert files == credential_files(tmp_path / "pki", "operator")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (files.certificate, files.key)} == {0o600}
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


def test_an_authority_that_exists_is_kept(tmp_path: Path) -> None:
    first = ensure_authority(tmp_path, "ca", common_name="transship")
    assert ensure_authority(tmp_path, "ca", common_name="transship") == first


def test_a_name_that_no_certificate_can_hold_is_refused(authority: Authority) -> None:
    with pytest.raises(InvalidInput, match="1 to 64 characters"):
        authority.issue_agent("n" * 60, addresses=["10.0.0.1"])


@pytest.mark.parametrize(
    ("name", "node"),
    [
        (agent_name("node-a"), "node-a"),
        ("transship:agent:", None),
        ("transship:operator", None),
        ("xtransship:agent:node-a", None),
    ],
)
def test_only_an_agents_name_names_a_node(name: str, node: str | None) -> None:
    assert agent_node(name) == node


def test_a_key_pair_is_two_pem_blocks() -> None:
    private, public = new_key_pair()
    assert private.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public.startswith(b"-----BEGIN PUBLIC KEY-----")


def handshake(
    folder: Path,
    client_trusts: Authority,
    server_trusts: Authority,
    server: Credentials,
    client: Credentials,
    *,
    host: str,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of one connection, talking through memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_tls = context(folder, "server", ssl.PROTOCOL_TLS_SERVER, server_trusts, server)
    client_tls = context(folder, "client", ssl.PROTOCOL_TLS_CLIENT, client_trusts, client)
    ends = (
        server_tls.wrap_bio(to_server, to_client, server_side=True),
        client_tls.wrap_bio(to_client, to_server, server_hostname=host),
    )
    pending = set(ends)
    while pending:
        for end in list(pending):
            try:
                end.do_handshake()
                pending.discard(end)
            except ssl.SSLWantReadError:
                continue
    ends[1].write(b"x")
    assert ends[0].read() == b"x"  # in TLS 1.3 the server refuses a client only here
    return ends


def context(
    folder: Path, name: str, protocol: int, trusts: Authority, own: Credentials
) -> ssl.SSLContext:
    files = write_credentials(own, folder, name)
    tls = ssl.SSLContext(protocol)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    tls.load_verify_locations(cadata=trusts.credentials.certificate.decode())
    tls.load_cert_chain(files.certificate, files.key)
    return tls
