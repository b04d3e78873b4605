"""Certificates: an authority, and the certificates of agents, the operator and the lab's servers.

Agents and the API server authorise by the names in a certificate: the common name is the user, the
organizations are its groups. All keys are EC P-256. Private keys are written only to files that
their owner alone can read.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transship.common.errors import InvalidInput

OPERATOR_NAME = "transship:operator"
AGENT_NAME_PREFIX = "transship:agent:"
AGENTS_GROUP = "transship:agents"

AUTHORITY_DAYS = 3650
LEAF_DAYS = 365
# two nodes' clocks may differ by this much
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Credentials:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class CredentialFiles:
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates. `credentials` is its own certificate, which is self-signed."""

    credentials: Credentials

    def issue(
        self,
        common_name: str,
        *,
        groups: Iterable[str] = (),
        hosts: Iterable[str] = (),
        days: int = LEAF_DAYS,
    ) -> Credentials:
        """Issue a certificate for a client. With hosts (names, addresses) it is also for a server.

        A server is always a client too: agents connect to each other.
        """
        hosts = list(hosts)
        issuer = x509.load_pem_x509_certificate(self.credentials.certificate)
        signer = _signing_key(self.credentials.key)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common_name, groups), issuer.subject, key.public_key(), days)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            # Python >= 3.13 verifies strictly and refuses a certificate without this one
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        return Credentials(_pem(builder.sign(signer, hashes.SHA256())), _key_pem(key))

    def issue_agent(
        self, node: str, *, addresses: Iterable[str], days: int = LEAF_DAYS
    ) -> Credentials:
        """Issue an agent's certificate, as a server at its node's name and addresses too."""
        hosts = [node, *addresses]
        return self.issue(agent_name(node), groups=[AGENTS_GROUP], hosts=hosts, days=days)

    def issue_operator(self) -> Credentials:
        return self.issue(OPERATOR_NAME)


def new_authority(common_name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name, ())
    certificate = (
        _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(Credentials(_pem(certificate), _key_pem(key)))


def ensure_authority(directory: Path, name: str, *, common_name: str) -> Authority:
    """Return the authority that is stored there, and create it if there is none.

    Callers at the same time, in this process or another, get the same one.
    """
    files = credential_files(directory, name)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # the certificate is written last: if it exists, the key exists
        if files.certificate.exists():
            return Authority(Credentials(files.certificate.read_bytes(), files.key.read_bytes()))
        authority = new_authority(common_name)
        write_credentials(authority.credentials, directory, name)
        return authority


def credential_files(directory: Path, name: str) -> CredentialFiles:
    return CredentialFiles(directory / f"{name}.crt", directory / f"{name}.key")


def write_credentials(credentials: Credentials, directory: Path, name: str) -> CredentialFiles:
    """Write NAME.key and NAME.crt, each atomically and with mode 0600."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = credential_files(directory, name)
    write_private(files.key, credentials.key)
    write_private(files.certificate, credentials.certificate)
    return files


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically by one of mode 0600."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def new_key_pair() -> tuple[bytes, bytes]:
    """Return a private key and its public key in PEM, for service account tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return _key_pem(key), public


def agent_name(node: str) -> str:
    """Return the user name of a node's agent."""
    return AGENT_NAME_PREFIX + node


def agent_node(common_name: str) -> str | None:
    """Return the node whose agent has that user name, or None for any other user."""
    if not common_name.startswith(AGENT_NAME_PREFIX):
        return None
    return common_name.removeprefix(AGENT_NAME_PREFIX) or None


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str, groups: Iterable[str]) -> x509.Name:
    if not 0 < len(common_name) <= 64:  # ub-common-name of RFC 5280
        raise InvalidInput(f"naming a certificate {common_name!r}: 1 to 64 characters are accepted")
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signing_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput("reading the authority's key: it is not an elliptic curve key")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
