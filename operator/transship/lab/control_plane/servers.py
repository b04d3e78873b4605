"""The lab's Kubernetes: etcd, kube-apiserver and kube-controller-manager, each a process.

What it authorises and admits is what a real cluster does (RBAC, the default admission plugins);
what it leaves out is what would wait for kubelets that do not exist. Everything lies in the lab's
folder; starting again what stopped reuses the certificates, the ports and the data.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from transship.common.certificates import (
    AGENTS_GROUP,
    OPERATOR_NAME,
    Authority,
    CredentialFiles,
    agent_name,
    credential_files,
    ensure_authority,
    new_key_pair,
    write_credentials,
    write_private,
)
from transship.lab.control_plane.assets import Assets
from transship.lab.control_plane.kubeconfig import write_kubeconfig
from transship.lab.control_plane.ports import free_port
from transship.lab.control_plane.readiness import LOCALHOST, answers, wait_until_ready
from transship.lab.daemons import daemon_alive, start_daemon

ETCD, API_SERVER, CONTROLLER_MANAGER = "etcd", "kube-apiserver", "kube-controller-manager"

SERVICE_RANGE, SERVICE_ADDRESS = "10.0.0.0/24", "10.0.0.1"
ISSUER = "https://kubernetes.default.svc"
FRONT_PROXY = "front-proxy-client"
# the rest waits for kubelets, or for clouds
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)


@dataclass(frozen=True)
class ControlPlane:
    """How to reach it: its address for all members of the lab, and a kubeconfig for each user."""

    admin: Path
    operator: Path
    agents: Mapping[str, Path]


class Ports(BaseModel):
    model_config = ConfigDict(frozen=True)

    etcd: int
    etcd_peer: int
    api_server: int
    controller_manager: int


@dataclass(frozen=True)
class Keys:
    """What the servers need of certificates and keys, as files."""

    authority: Path
    server: CredentialFiles
    admin: CredentialFiles
    front_proxy_authority: Path
    front_proxy: CredentialFiles
    token_key: Path
    token_public_key: Path


def start_control_plane(
    state_dir: Path, assets: Assets, *, address: str, nodes: Sequence[str]
) -> ControlPlane:
    """Start what does not run yet and return once all of it is ready (about 4 s)."""
    home = state_dir / "control-plane"
    ports = _ports(home)
    authority = ensure_authority(home / "pki", "authority", common_name="kubernetes")
    keys = _keys(home / "pki", authority, address=address)
    control_plane = _kubeconfigs(
        home / "kubeconfig", authority, address=address, port=ports.api_server, nodes=nodes
    )
    tls = _client_tls(keys)
    start = partial(_start, state_dir)
    start(ETCD, _etcd(assets, home, ports), partial(answers, "/health", port=ports.etcd))
    start(
        API_SERVER,
        _api_server(assets, keys, ports, address),
        partial(answers, "/readyz", port=ports.api_server, tls=tls),
    )
    start(
        CONTROLLER_MANAGER,
        _controller_manager(assets, keys, ports, control_plane.admin),
        partial(answers, "/healthz", port=ports.controller_manager, tls=tls),
    )
    return control_plane


def _start(state_dir: Path, name: str, argv: list[str | Path], ready: partial[bool]) -> None:
    if not daemon_alive(state_dir, name):
        start_daemon(state_dir, name, argv)
    wait_until_ready(state_dir, name, ready)


def _ports(home: Path) -> Ports:
    """Chosen once for each lab, and kept, since kubeconfigs name them."""
    record = home / "ports.json"
    if record.exists():
        return Ports.model_validate_json(record.read_text())
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    ports = Ports(**{name: free_port() for name in Ports.model_fields})
    write_private(record, ports.model_dump_json().encode())
    return ports


def _keys(directory: Path, authority: Authority, *, address: str) -> Keys:
    """All key material; what exists is kept (a token outlives a restart only with its key)."""
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
    if keys.token_public_key.exists():  # written last
        return keys
    write_credentials(authority.issue("kube-apiserver", hosts=names), directory, "server")
    write_credentials(authority.issue("admin", groups=["system:masters"]), directory, "admin")
    write_credentials(front_proxy_authority.issue(FRONT_PROXY), directory, "front-proxy")
    private, public = new_key_pair()
    write_private(keys.token_key, private)
    write_private(keys.token_public_key, public)
    return keys


def _kubeconfigs(
    directory: Path, authority: Authority, *, address: str, port: int, nodes: Sequence[str]
) -> ControlPlane:
    server = f"https://{address}:{port}"
    control_plane = ControlPlane(
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

    # the administrator sits on the machine, and reaches it whatever happens to the lab's network
    write(control_plane.admin, f"https://{LOCALHOST}:{port}", "admin", "system:masters")
    write(control_plane.operator, server, OPERATOR_NAME)
    for node, path in control_plane.agents.items():
        write(path, server, agent_name(node), AGENTS_GROUP)
    return control_plane


def _client_tls(keys: Keys) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=keys.authority)
    tls.load_cert_chain(keys.admin.certificate, keys.admin.key)
    return tls


def _etcd(assets: Assets, home: Path, ports: Ports) -> list[str | Path]:
    client, peer = f"http://{LOCALHOST}:{ports.etcd}", f"http://{LOCALHOST}:{ports.etcd_peer}"
    return [
        assets.etcd,
        "--name=lab",
        f"--data-dir={home / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=lab={peer}",
        "--unsafe-no-fsync",  # a lab need not survive a power cut of its machine
        "--logger=zap",
        "--log-level=warn",
    ]


def _api_server(assets: Assets, keys: Keys, ports: Ports, address: str) -> list[str | Path]:
    return [
        assets.kube_apiserver,
        f"--etcd-servers=http://{LOCALHOST}:{ports.etcd}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={address}",
        f"--secure-port={ports.api_server}",
        *_api_server_loopback(address),
        f"--tls-cert-file={keys.server.certificate}",
        f"--tls-private-key-file={keys.server.key}",
        f"--client-ca-file={keys.authority}",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-signing-key-file={keys.token_key}",
        f"--service-account-key-file={keys.token_public_key}",
        f"--requestheader-client-ca-file={keys.front_proxy_authority}",
        f"--requestheader-allowed-names={FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys.front_proxy.certificate}",
        f"--proxy-client-key-file={keys.front_proxy.key}",
        "--profiling=false",
    ]


def _api_server_loopback(address: str) -> list[str]:
    """Endpoints may not hold a loopback address, so with one nothing keeps those of the service."""
    return ["--endpoint-reconciler-type=none"] if address.startswith("127.") else []


def _controller_manager(
    assets: Assets, keys: Keys, ports: Ports, kubeconfig: Path
) -> list[str | Path]:
    return [
        assets.kube_controller_manager,
        f"--kubeconfig={kubeconfig}",
        f"--bind-address={LOCALHOST}",
        f"--secure-port={ports.controller_manager}",
        f"--tls-cert-file={keys.server.certificate}",
        f"--tls-private-key-file={keys.server.key}",
        f"--client-ca-file={keys.authority}",
        f"--requestheader-client-ca-file={keys.front_proxy_authority}",
        f"--root-ca-file={keys.authority}",
        f"--service-account-private-key-file={keys.token_key}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--kube-api-qps=200",  # the default, 20, costs the garbage collector 1 s at its start
        "--kube-api-burst=400",
        "--leader-elect=false",
        "--profiling=false",
    ]
