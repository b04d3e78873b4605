"""The lab's Kubernetes: etcd, kube-apiserver and kube-controller-manager, each a process.

Authorization and admission are those of a real cluster (RBAC, the default admission plugins). The
controllers that need kubelets are left out. All files are in the lab's folder, so a server that is
started again has the same certificates, ports and data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from transship.common.certificates import ensure_authority, write_private
from transship.lab.control_plane.assets import Assets
from transship.lab.control_plane.credentials import (
    FRONT_PROXY,
    SERVICE_RANGE,
    Keys,
    Kubeconfigs,
    client_tls,
    ensure_keys,
    write_kubeconfigs,
)
from transship.lab.control_plane.ports import free_port
from transship.lab.control_plane.readiness import LOCALHOST, answers, wait_until_ready
from transship.lab.daemons import daemon_alive, start_daemon

ETCD, API_SERVER, CONTROLLER_MANAGER = "etcd", "kube-apiserver", "kube-controller-manager"

ISSUER = "https://kubernetes.default.svc"
# all others need kubelets or a cloud
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)


class Ports(BaseModel):
    model_config = ConfigDict(frozen=True)

    etcd: int
    etcd_peer: int
    api_server: int
    controller_manager: int


def start_control_plane(
    state_dir: Path, assets: Assets, *, address: str, nodes: Sequence[str]
) -> Kubeconfigs:
    """Start the servers that do not run. Return once all of them are ready (about 4 s)."""
    home = state_dir / "control-plane"
    ports = _ports(home)
    authority = ensure_authority(home / "pki", "authority", common_name="kubernetes")
    keys = ensure_keys(home / "pki", authority, address=address)
    kubeconfigs = write_kubeconfigs(
        home / "kubeconfig", authority, address=address, port=ports.api_server, nodes=nodes
    )
    tls = client_tls(keys)
    start = partial(_start, state_dir)
    start(ETCD, _etcd(assets, home, ports), partial(answers, "/health", port=ports.etcd))
    start(
        API_SERVER,
        _api_server(assets, keys, ports, address),
        partial(answers, "/readyz", port=ports.api_server, tls=tls),
    )
    start(
        CONTROLLER_MANAGER,
        _controller_manager(assets, keys, ports, kubeconfigs.admin),
        partial(answers, "/healthz", port=ports.controller_manager, tls=tls),
    )
    return kubeconfigs


def _start(state_dir: Path, name: str, argv: list[str | Path], ready: partial[bool]) -> None:
    if not daemon_alive(state_dir, name):
        start_daemon(state_dir, name, argv)
    wait_until_ready(state_dir, name, ready)


def _ports(home: Path) -> Ports:
    """Chosen once per lab and recorded, because kubeconfigs contain them."""
    record = home / "ports.json"
    if record.exists():
        return Ports.model_validate_json(record.read_text())
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    ports = Ports(**{name: free_port() for name in Ports.model_fields})
    write_private(record, ports.model_dump_json().encode())
    return ports


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
        # a lab need not survive a power cut of its machine
        "--unsafe-no-fsync",
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
    """An Endpoints object may not contain a loopback address, so then nothing reconciles it."""
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
        # the default, 20, delays the garbage collector by 1 s at its start
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--leader-elect=false",
        "--profiling=false",
    ]
