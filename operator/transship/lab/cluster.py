"""Brings a whole lab up and down: the order of the steps, and what runs in parallel.

`up` first removes what is left of an earlier lab of the same name. Each step is recorded before it
is done, so `down` also works after a killed `up`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import TransshipError
from transship.lab import services
from transship.lab.cache import Say
from transship.lab.cleanup import remove_lab
from transship.lab.control_plane import objects
from transship.lab.control_plane.assets import Assets, ensure_assets
from transship.lab.control_plane.credentials import Kubeconfigs
from transship.lab.control_plane.kubernetes import start_control_plane
from transship.lab.control_plane.readiness import log_tail
from transship.lab.control_plane.registry import start_registry
from transship.lab.daemons import daemon_alive
from transship.lab.images import sample_images
from transship.lab.nodes import cgroups, namespace_nodes, network, virtual_machines
from transship.lab.nodes.image import ensure_node_image
from transship.lab.nodes.vm_kernel import Kernel, ensure_kernel
from transship.lab.state import (
    HOME,
    MACHINE,
    OPERATOR,
    LabState,
    free_index,
    lab_dir,
    load_state,
    locked,
    node_names,
    save_state,
)

UP_LOCK_TIMEOUT_SECONDS = 5.0
# they wait for child processes and servers; two cores are enough
THREADS = 8


@dataclass(frozen=True)
class Prerequisites:
    """What all labs share; built once, in the cache."""

    assets: Assets
    image: Path
    kernel: Kernel | None = None


def up(
    name: str,
    count: int,
    *,
    say: Say,
    link_rate: int | None = None,
    machines: bool = False,
    addition: str = "",
) -> LabState:
    """Create a lab and return once its agents are Ready.

    `link_rate` is in bits per second. With `machines`, the nodes are virtual machines. `addition`
    has further lines for the node image's Dockerfile.
    """
    directory, names = lab_dir(name), node_names(count)
    with locked(directory, timeout_seconds=UP_LOCK_TIMEOUT_SECONDS):
        remove_lab(directory)
        prerequisites = _ensure_prerequisites(say, machines=machines, addition=addition)
        state = reserve_network(directory, names, link_rate=link_rate, image=prerequisites.image)
        state = save_state(directory, state.model_copy(update={"machines": machines}))
        network.create_network(directory, state)
        return _LabBuilder(directory, prerequisites, say).run(state)


def down(name: str) -> None:
    """Remove a lab completely. It need not exist."""
    directory = lab_dir(name)
    with locked(directory):
        remove_lab(directory)


@contextmanager
def changing(name: str) -> Iterator[tuple[Path, LabState]]:
    """An existing lab, locked against other commands."""
    directory = lab_dir(name)
    load_state(directory)
    with locked(directory):
        yield directory, load_state(directory)


class _LabBuilder:
    """The steps of `up`, and what each of them waits for."""

    def __init__(self, directory: Path, prerequisites: Prerequisites, say: Say) -> None:
        self.directory, self.assets, self.say = directory, prerequisites.assets, say
        self.kernel = prerequisites.kernel
        self.authority = services.lab_authority(directory)

    def run(self, state: LabState) -> LabState:
        with ThreadPoolExecutor(THREADS) as pool:
            control_plane = pool.submit(self.start_kubernetes, state)
            registry = pool.submit(self.start_registry, state)
            # namespaces are for the main thread only: the netlink library forks to enter them
            self.boot_hosts(state)
            servers = {
                "registry": registry.result(),
                "kubeconfig": control_plane.result().admin,
                "kubectl": self.assets.kubectl,
            }
            state = save_state(self.directory, state.model_copy(update=servers))
            images = pool.submit(self.push_images, state)
            started = [
                pool.submit(self.start_agent, state, node, control_plane.result())
                for node in state.nodes
            ]
            started.append(pool.submit(self.start_operator, state, control_plane.result()))
            _first_failure([*started, images])
        self.await_ready(state)
        return state

    def start_kubernetes(self, state: LabState) -> Kubeconfigs:
        control_plane = start_control_plane(
            self.directory,
            self.assets,
            address=str(state.address(MACHINE)),
            nodes=state.nodes,
        )
        self.say("Kubernetes is up")
        objects.install_definitions(self.assets.kubectl, control_plane.admin)
        objects.create_pool(control_plane.admin, state)
        objects.create_operator_secret(self.assets.kubectl, control_plane.admin, self.authority)
        self.say("definitions and roles are installed")
        return control_plane

    def start_registry(self, state: LabState) -> str:
        address = str(state.address(MACHINE))
        registry = start_registry(self.directory, self.assets, address=address)
        self.say(f"the registry is up at {registry}")
        return registry

    def boot_hosts(self, state: LabState) -> None:
        booted = [] if self.kernel else state.nodes
        for host in (*booted, OPERATOR):
            namespace_nodes.boot_node(self.directory, state, host)
        if self.kernel:
            # the machines boot later, together with their agents
            virtual_machines.make_image(self.directory, state)
        self.say(f"{len(booted)} nodes are up")

    def push_images(self, state: LabState) -> None:
        if state.registry is not None:
            sample_images.push_sample_images(state.registry, say=self.say)

    def start_agent(self, state: LabState, node: str, control_plane: Kubeconfigs) -> None:
        configuration = services.agent_configuration(
            state, node, authority=self.authority, kubeconfig=control_plane.agents[node]
        )
        if self.kernel:
            virtual_machines.start_machine(
                *(self.directory, state, node),
                kernel=self.kernel,
                daemon=services.agent_daemon(node),
                argv=services.agent_argv(state, node),
                configuration=configuration,
            )
            return
        namespace_nodes.configure_node(self.directory, node, configuration)
        services.start_agent(self.directory, state, node)

    def start_operator(self, state: LabState, control_plane: Kubeconfigs) -> None:
        services.configure_operator(
            self.directory, authority=self.authority, kubeconfig=control_plane.operator
        )
        services.start_operator(self.directory, state)
        services.await_operator(self.directory, state)

    def await_ready(self, state: LabState) -> None:
        if state.kubeconfig is None:
            raise TransshipError("waiting for the agents: the lab has no kubeconfig")
        daemons = [OPERATOR, *(services.agent_daemon(node) for node in state.nodes)]

        def check() -> None:
            for daemon in daemons:
                if not daemon_alive(self.directory, daemon):
                    tail = log_tail(self.directory, daemon)
                    raise TransshipError(f"starting {daemon}: it ended:\n{tail}")

        objects.await_agents(state.kubeconfig, state, check=check)
        self.say("the agents are ready")


def _ensure_prerequisites(say: Say, *, machines: bool, addition: str) -> Prerequisites:
    with ThreadPoolExecutor(2) as pool:
        assets = pool.submit(ensure_assets, say)
        image = pool.submit(ensure_node_image, say, addition=addition)
        kernel = ensure_kernel(say) if machines else None
        return Prerequisites(assets.result(), image.result(), kernel)


def reserve_network(
    directory: Path, names: tuple[str, ...], *, link_rate: int | None, image: Path
) -> LabState:
    """Choose the lab's network and record the lab, before anything of it is created."""
    with locked(HOME / "index"):
        index = free_index(HOME, used=network.used_networks())
        state = LabState(
            name=directory.name, index=index, nodes=names, link_rate=link_rate, image=image
        )
        save_state(directory, state)
    cgroups.record_cgroup(directory, state.cgroup)
    return state


def _first_failure(futures: list[Future[None]]) -> None:
    for future in as_completed(futures):
        future.result()
