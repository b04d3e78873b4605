"""The objects that a lab creates in its Kubernetes: CRDs, roles, an AddressPool and a Secret."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from transship.api.address_pool import AddressPool, AddressPoolSpec
from transship.api.base import ObjectMeta
from transship.api.conditions import find, is_true
from transship.api.node_agent import NodeAgent
from transship.common.certificates import Authority
from transship.common.errors import DeadlineExceeded
from transship.common.processes import run_blocking
from transship.kube.client import KubeClient
from transship.kube.leases import SYSTEM_NAMESPACE
from transship.lab.images.package_sources import REPOSITORY
from transship.lab.nodes.network import has_ipv6
from transship.lab.state import LabState

# CRDs, roles and a namespace
MANIFESTS = REPOSITORY / "manifests" / "overlays" / "lab"
POOL = "default"
OPERATOR_SECRET = "transship-operator-tls"  # noqa: S105 - the name of it
KUBECTL_TIMEOUT_SECONDS = 60.0
# an agent becomes Ready after a self-test with a real dump and restore
AGENTS_TIMEOUT_SECONDS = 90.0
# emulation is ten times slower
MACHINES_TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 0.1


def install_definitions(kubectl: Path, kubeconfig: Path) -> None:
    """Apply CRDs and roles, and wait until the CRDs are established."""

    def run(*words: str | Path) -> None:
        command = [kubectl, f"--kubeconfig={kubeconfig}", *words]
        run_blocking(command, timeout_seconds=KUBECTL_TIMEOUT_SECONDS)

    run("apply", "--server-side", "--force-conflicts", "-k", MANIFESTS)
    run("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")


def create_pool(kubeconfig: Path, state: LabState) -> None:
    cidrs = [str(state.containers)] + ([str(state.containers_v6)] if has_ipv6() else [])
    pool = AddressPool(metadata=ObjectMeta(name=POOL), spec=AddressPoolSpec(cidrs=tuple(cidrs)))

    async def create() -> None:
        async with await KubeClient.connect(kubeconfig) as client:
            await client.create(pool)

    asyncio.run(create())


def create_operator_secret(kubectl: Path, kubeconfig: Path, authority: Authority) -> None:
    """Create the Secret with the operator's certificate, which the command line reads."""
    credentials = authority.issue_operator()
    contents = {
        "ca.crt": authority.credentials.certificate,
        "tls.crt": credentials.certificate,
        "tls.key": credentials.key,
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": OPERATOR_SECRET, "namespace": SYSTEM_NAMESPACE},
        "data": {name: b64encode(content).decode() for name, content in contents.items()},
    }
    command: list[str | Path] = [kubectl, f"--kubeconfig={kubeconfig}", "apply", "-f", "-"]
    run_blocking(command, stdin=json.dumps(secret).encode())


def await_agents(kubeconfig: Path, state: LabState, *, check: Callable[[], None]) -> None:
    """Return once every NodeAgent is Ready. `check` raises an error if an agent has ended."""

    async def wait() -> None:
        limit = MACHINES_TIMEOUT_SECONDS if state.machines else AGENTS_TIMEOUT_SECONDS
        deadline = time.monotonic() + limit
        async with await KubeClient.connect(kubeconfig) as client:
            while missing := await _not_ready(client, state):
                check()
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"waiting for the agents: {'; '.join(missing)}")
                await asyncio.sleep(POLL_SECONDS)

    asyncio.run(wait())


async def _not_ready(client: KubeClient, state: LabState) -> list[str]:
    """For each node that is not Ready, the message of its condition."""
    agents = {agent.metadata.name: agent for agent in await client.list(NodeAgent)}
    missing: list[str] = []
    for node in state.nodes:
        conditions = agents[node].status.conditions if node in agents else ()
        if not is_true(conditions, "Ready"):
            ready = find(conditions, "Ready")
            missing.append(f"{node}: {ready.message if ready else 'not registered'}")
    return missing
