"""The credentials of the lab's Kubernetes: the servers' keys and certificates, and kubeconfigs.

A kubeconfig carries its certificates inside, so that the file works in any place.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from transship.common.certificates import (
    AGENTS_GROUP,
    OPERATOR_NAME,
    Authority,
    CredentialFiles,
    Credentials,
    agent_name,
    credential_files,
    ensure_authority,
    new_key_pair,
    write_credentials,
    write_private,
)
from transship.lab.control_plane.readiness import LOCALHOST

CLUSTER = "lab"
SERVICE_RANGE, SERVICE_ADDRESS = "10.0.0.0/24", "10.0.0.1"
FRONT_PROXY = "front-proxy-client"


@dataclass(frozen=True)
class Keys:
    """The servers' certificates and keys, as files."""

    authority: Path
    server: CredentialFiles
    admin: CredentialFiles
    front_proxy_authority: Path
    front_proxy: CredentialFiles
    token_key: Path
    token_public_key: Path


@dataclass(frozen=True)
class Kubeconfigs:
    """A kubeconfig file for each user."""

    admin: Path
    operator: Path
    agents: Mapping[str, Path]


def ensure_keys(directory: Path, authority: Authority, *, address: str) -> Keys:
    """Create what is missing. Existing keys stay: service account tokens need the same key."""
    front_proxy_authority = ensure_authority(
        directory, "front-proxy-authority", common_name="front-proxy"
    )
    names = [address, LOCALHOST, SERVICE_ADDRESS, "localhost"]
    names += ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    keys = Keys(
        authority=credential_files(directory, "authority").certificate,
        server=credential_files(directory, "server"),
        admin=credential_files(directory, "admin"),
        front_proxy_authority=credential_files(directory, "front-proxy-authority").certificate,
        front_proxy=credential_files(directory, "front-proxy"),
        token_key=directory / "service-accounts.key",
        token_public_key=directory / "service-accounts.pub",
    )
    # this file is written last
    if keys.token_public_key.exists():
        return keys
    write_credentials(authority.issue("kube-apiserver", hosts=names), directory, "server")
    write_credentials(authority.issue("admin", groups=["system:masters"]), directory, "admin")
    write_credentials(front_proxy_authority.issue(FRONT_PROXY), directory, "front-proxy")
    private, public = new_key_pair()
    write_private(keys.token_key, private)
    write_private(keys.token_public_key, public)
    return keys


def write_kubeconfigs(
    directory: Path, authority: Authority, *, address: str, port: int, nodes: Sequence[str]
) -> Kubeconfigs:
    server = f"https://{address}:{port}"
    kubeconfigs = Kubeconfigs(
        admin=directory / "admin.yaml",
        operator=directory / "operator.yaml",
        agents={node: directory / f"agent-{node}.yaml" for node in nodes},
    )

    def write(path: Path, url: str, user: str, *groups: str) -> None:
        write_kubeconfig(
            path,
            server=url,
            authority=authority.credentials.certificate,
            user=user,
            credentials=authority.issue(user, groups=groups),
        )

    # the administrator uses loopback: partitions of the lab's network do not cut it off
    write(kubeconfigs.admin, f"https://{LOCALHOST}:{port}", "admin", "system:masters")
    write(kubeconfigs.operator, server, OPERATOR_NAME)
    for node, path in kubeconfigs.agents.items():
        write(path, server, agent_name(node), AGENTS_GROUP)
    return kubeconfigs


def client_tls(keys: Keys) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=keys.authority)
    tls.load_cert_chain(keys.admin.certificate, keys.admin.key)
    return tls


def write_kubeconfig(
    path: Path, *, server: str, authority: bytes, user: str, credentials: Credentials
) -> None:
    """Write one cluster, one user, one context; `authority` is the PEM that signed the server."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster = {"server": server, "certificate-authority-data": _base64(authority)}
    identity = {
        "client-certificate-data": _base64(credentials.certificate),
        "client-key-data": _base64(credentials.key),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CLUSTER, "cluster": cluster}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": CLUSTER, "context": {"cluster": CLUSTER, "user": user}}],
        "current-context": CLUSTER,
    }
    write_private(path, yaml.safe_dump(config, sort_keys=False).encode())


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
