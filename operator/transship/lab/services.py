"""The services of a lab: an agent on every node, and the operator; and their configuration.

Both are programs of the node image. They are started as a service manager would: with a kubeconfig
and certificates of the lab's authority, and without anything of the machine.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transship.common.certificates import Authority, Credentials, ensure_authority
from transship.common.errors import TransshipError
from transship.common.failpoints import VARIABLE as FAILPOINTS_VARIABLE
from transship.lab.control_plane.readiness import answers, wait_until_ready
from transship.lab.nodes import namespace_nodes
from transship.lab.nodes.network import UNDERLAY
from transship.lab.state import OPERATOR, LabState

AGENT_PORT = 7443
HEALTH_PORT = 8080
FOLDER = Path("/", namespace_nodes.CONFIGURATION)
PYTHON = "/opt/transship/bin/python"
CONNECT_TIMEOUT_SECONDS = 1.0
# the folder with which tests stop agents at failpoints
FAILPOINTS = Path("/run/failpoints")


@dataclass(frozen=True)
class Files:
    """Where a service finds its configuration on its host."""

    kubeconfig: Path = FOLDER / "kubeconfig"
    authority: Path = FOLDER / "ca.crt"
    certificate: Path = FOLDER / "tls.crt"
    key: Path = FOLDER / "tls.key"

    def flags(self) -> list[str]:
        pairs = {
            "--kubeconfig": self.kubeconfig,
            "--ca": self.authority,
            "--cert": self.certificate,
            "--key": self.key,
        }
        return [word for flag, path in pairs.items() for word in (flag, str(path))]


FILES = Files()


def lab_authority(state_dir: Path) -> Authority:
    """The authority that agents and operator trust. The first call creates it, in one thread."""
    return ensure_authority(state_dir / "pki", "transship", common_name="transship")


def agent_configuration(
    state: LabState, node: str, *, authority: Authority, kubeconfig: Path
) -> dict[str, bytes]:
    """The agent's configuration files, by name. A node keeps them across restarts."""
    credentials = authority.issue_agent(node, addresses=[str(state.address(node))])
    return _files(kubeconfig, authority=authority, credentials=credentials)


def configure_operator(state_dir: Path, *, authority: Authority, kubeconfig: Path) -> None:
    credentials = authority.issue_operator()
    files = _files(kubeconfig, authority=authority, credentials=credentials)
    namespace_nodes.configure_node(state_dir, OPERATOR, files)


def start_agent(state_dir: Path, state: LabState, node: str) -> None:
    namespace_nodes.start_in_node(
        state_dir,
        state,
        node,
        name=agent_daemon(node),
        argv=agent_argv(state, node),
        env={FAILPOINTS_VARIABLE: str(FAILPOINTS)},
    )


def start_operator(state_dir: Path, state: LabState) -> None:
    health = ["--health-port", str(HEALTH_PORT)]
    argv = [PYTHON, "-m", "transship.controller", *FILES.flags(), "--name", OPERATOR, *health]
    namespace_nodes.start_in_node(state_dir, state, OPERATOR, name=OPERATOR, argv=argv)


def agent_argv(state: LabState, node: str) -> list[str]:
    if state.registry is None:
        raise TransshipError(f"starting the agent on {node}: the lab has no registry yet")
    flags = {
        "--node": node,
        "--address": str(state.address(node)),
        "--port": str(AGENT_PORT),
        "--state-dir": "/var/lib/transship",
        "--runtime-dir": "/run/transship",
        "--cgroup-parent": state.cgroup_of(node),
        "--insecure-registry": state.registry,
        "--underlay": UNDERLAY,
    }
    words = [word for pair in flags.items() for word in pair]
    return [PYTHON, "-m", "transship.agent", *words, *FILES.flags()]


def await_agent(state_dir: Path, state: LabState, node: str) -> None:
    """Return once the agent accepts connections. Raises an error as soon as it ends."""
    address = (str(state.address(node)), AGENT_PORT)

    def connects() -> bool:
        try:
            socket.create_connection(address, timeout=CONNECT_TIMEOUT_SECONDS).close()
        except OSError:
            return False
        return True

    wait_until_ready(state_dir, agent_daemon(node), connects)


def await_operator(state_dir: Path, state: LabState) -> None:
    """Return once the operator is ready. Raises an error as soon as it ends."""
    healthy = partial(answers, "/readyz", port=HEALTH_PORT, address=str(state.address(OPERATOR)))
    wait_until_ready(state_dir, OPERATOR, healthy)


def agent_daemon(node: str) -> str:
    return f"agent-{node}"


def _files(kubeconfig: Path, *, authority: Authority, credentials: Credentials) -> dict[str, bytes]:
    return {
        FILES.kubeconfig.name: kubeconfig.read_bytes(),
        FILES.authority.name: authority.credentials.certificate,
        FILES.certificate.name: credentials.certificate,
        FILES.key.name: credentials.key,
    }
