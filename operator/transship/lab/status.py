"""Which components of a lab run, as the machine's kernel sees it. No component is queried."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from transship.lab import services
from transship.lab.daemons import daemon_alive, daemon_names, log_path
from transship.lab.nodes import namespace_nodes
from transship.lab.state import OPERATOR, Cut, LabState


class HostStatus(BaseModel):
    """A node or the operator's host, and the service on it."""

    model_config = ConfigDict(frozen=True)

    name: str
    address: IPv4Address
    running: bool
    service: str
    service_running: bool
    log: Path


class ServerStatus(BaseModel):
    """A component of the lab that runs on the machine itself."""

    model_config = ConfigDict(frozen=True)

    name: str
    running: bool
    log: Path


class LabStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    network: str
    registry: str | None
    kubeconfig: Path | None
    link_rate: int | None
    cuts: tuple[Cut, ...]
    hosts: tuple[HostStatus, ...]
    servers: tuple[ServerStatus, ...]

    @property
    def complete(self) -> bool:
        """Whether every component that was ever started runs."""
        hosts = all(host.running and host.service_running for host in self.hosts)
        return hosts and all(server.running for server in self.servers)


def lab_status(directory: Path, state: LabState) -> LabStatus:
    hosts = tuple(_host(directory, state, host) for host in (*state.nodes, OPERATOR))
    inside = {host.service for host in hosts} | {
        namespace_nodes.init_daemon(host.name) for host in hosts
    }
    servers = [name for name in daemon_names(directory) if name not in inside]
    return LabStatus(
        name=state.name,
        network=str(state.network),
        registry=state.registry,
        kubeconfig=state.kubeconfig,
        link_rate=state.link_rate,
        cuts=state.cuts,
        hosts=hosts,
        servers=tuple(
            ServerStatus(
                name=name, running=daemon_alive(directory, name), log=log_path(directory, name)
            )
            for name in servers
        ),
    )


def _host(directory: Path, state: LabState, host: str) -> HostStatus:
    service = OPERATOR if host == OPERATOR else services.agent_daemon(host)
    return HostStatus(
        name=host,
        address=state.address(host),
        running=namespace_nodes.node_alive(directory, host),
        service=service,
        service_running=daemon_alive(directory, service),
        log=log_path(directory, service),
    )
