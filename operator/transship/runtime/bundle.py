"""Builds the OCI bundle of a container from its spec and the image's configuration. Pure.

The same order and image give the same bundle on every node, which a restore relies on. The paths in
it are the same on every node too (layout.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transship.api.container import DEFAULT_CAPABILITIES, Container, SecurityContext
from transship.api.quantity import bytes_of, millicores_of
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput
from transship.runtime import oci, plain_process, seccomp
from transship.runtime.image_format import ImageConfig
from transship.runtime.layout import Layout
from transship.runtime.users import Identity
from transship.runtime.volumes import Bind

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD_MICROSECONDS = 100_000
MINIMUM_QUOTA_MICROSECONDS = 1_000
"""The kernel accepts no less."""
MINIMUM_SHARES = 2
"""The kernel accepts no less."""
MOST_OPEN_FILES = 1 << 20
"""systemd's limit is 2^30, and some programs close every descriptor number below their limit."""

ALL = "ALL"

MASKED_PATHS = (
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
)
"""Only files: runc mounts a tmpfs on a masked directory, and for each tmpfs CRIU runs tar, 7 ms."""
READONLY_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/scsi",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
"""/sys is read-only as a whole."""


@dataclass(frozen=True)
class Host:
    """The properties of the node that go into a bundle."""

    machine: str
    """As in `uname -m`."""
    capabilities: frozenset[str]
    """Those that the agent has and so can give."""
    rlimits: Mapping[str, tuple[int, int]]
    """The default limits, soft and hard."""
    oom_score_adj: int
    """The lowest value from 0 up that the agent can set."""


def runtime_spec(
    container: Container,
    image: ImageConfig,
    *,
    container_id: str,
    hostname: str,
    env: Mapping[str, str],
    identity: Identity,
    binds: tuple[Bind, ...],
    layout: Layout,
    host: Host,
) -> oci.Spec:
    """Build config.json.

    Nothing is expanded here: `env` and the container's command are expanded already, and those of
    the image are literal, as in a Pod.
    """
    names = capabilities(container.security_context, host=host)
    return oci.Spec(
        process=_process(
            container, image, hostname=hostname, env=env, identity=identity, names=names, host=host
        ),
        root=oci.Root(readonly=container.security_context.read_only_root_filesystem),
        hostname=hostname,
        mounts=(*_system_mounts(container_id, layout=layout), *map(_bind_mount, binds)),
        annotations={"org.criu.config": str(layout.criu_config(container_id))},
        linux=oci.Linux(
            namespaces=_namespaces(container_id, layout=layout),
            cgroups_path=layout.cgroup(container_id),
            resources=resources(container),
            seccomp=seccomp.profile(capabilities=names, machine=host.machine),
            masked_paths=MASKED_PATHS,
            readonly_paths=READONLY_PATHS,
        ),
    )


def _process(
    container: Container,
    image: ImageConfig,
    *,
    hostname: str,
    env: Mapping[str, str],
    identity: Identity,
    names: tuple[str, ...],
    host: Host,
) -> oci.Process:
    variables = environment(image, env=env, hostname=hostname, home=identity.home)
    prefixed = tuple(f"CAP_{name}" for name in names)
    return oci.Process(
        terminal=container.tty,
        user=oci.User(
            uid=identity.uid,
            gid=identity.gid,
            additional_gids=identity.additional_gids,
            umask=plain_process.UMASK,
        ),
        args=arguments(container, image),
        env=tuple(f"{name}={value}" for name, value in variables.items()),
        cwd=container.working_dir or image.working_dir or "/",
        capabilities=oci.CapabilitySets(bounding=prefixed, effective=prefixed, permitted=prefixed),
        rlimits=_rlimits(host),
        oom_score_adj=host.oom_score_adj,
    )


def _rlimits(host: Host) -> tuple[oci.Rlimit, ...]:
    """Set every limit: runc would leave the others as the agent has them."""
    # select(2) handles 1024 descriptors; a program that needs more raises its soft limit itself
    files = min(host.rlimits["NOFILE"][1], MOST_OPEN_FILES)
    limits = {**host.rlimits, "NOFILE": (min(1024, files), files)}
    return tuple(
        oci.Rlimit(type=f"RLIMIT_{name}", soft=soft, hard=hard)
        for name, (soft, hard) in sorted(limits.items())
    )


def arguments(container: Container, image: ImageConfig) -> tuple[str, ...]:
    """Return the command line: as in a Pod, command replaces ENTRYPOINT and CMD, args only CMD."""
    if container.command:
        return (*container.command, *container.args)
    words = (*image.entrypoint, *(container.args or image.cmd))
    if not words:
        raise InvalidInput(
            "the image has neither ENTRYPOINT nor CMD",
            reason=Reason.INVALID_IMAGE,
            hint="set spec.container.command",
        )
    return words


def environment(
    image: ImageConfig, *, env: Mapping[str, str], hostname: str, home: str
) -> dict[str, str]:
    """Merge the variables: the container's override the image's, which override the defaults."""
    variables = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    variables |= dict(entry.partition("=")[::2] for entry in image.env)
    return variables | dict(env)


def capabilities(context: SecurityContext, *, host: Host) -> tuple[str, ...]:
    """Apply drop, then add, to the default capabilities. ALL means those that the agent has."""
    drop, add = set(context.capabilities.drop), set(context.capabilities.add)
    kept = set() if ALL in drop else set(DEFAULT_CAPABILITIES) - drop
    added = host.capabilities - drop if ALL in add else add
    return tuple(sorted(kept | added))


def resources(container: Container) -> oci.Resources:
    limits, requests = container.resources.limits, container.resources.requests
    return oci.Resources(
        # runc adds rules for null, zero, random, tty and the like
        devices=(oci.DeviceRule(allow=False),),
        memory=None if limits.memory is None else oci.Memory(limit=bytes_of(limits.memory)),
        cpu=_cpu(limits.cpu, request=requests.cpu),
        pids=None if limits.pids is None else oci.Pids(limit=bytes_of(limits.pids)),
    )


def _cpu(limit: str | int | None, *, request: str | int | None) -> oci.Cpu | None:
    wanted = limit if request is None else request
    if wanted is None:
        return None
    shares = max(MINIMUM_SHARES, millicores_of(wanted) * 1024 // 1000)
    if limit is None:
        return oci.Cpu(shares=shares)
    quota = max(MINIMUM_QUOTA_MICROSECONDS, millicores_of(limit) * CPU_PERIOD_MICROSECONDS // 1000)
    return oci.Cpu(shares=shares, quota=quota, period=CPU_PERIOD_MICROSECONDS)


def _namespaces(container_id: str, *, layout: Layout) -> tuple[oci.Namespace, ...]:
    """The agent creates the network namespace, so that no packet passes before a restore."""
    network = oci.Namespace(type="network", path=str(layout.netns(container_id)))
    return (*(oci.Namespace(type=kind) for kind in ("pid", "ipc", "uts", "mount")), network)


def _system_mounts(container_id: str, *, layout: Layout) -> tuple[oci.Mount, ...]:
    etc = layout.etc(container_id)
    plain = ("nosuid", "noexec", "nodev")
    files = (
        Bind(etc / name, destination=f"/etc/{name}")
        for name in ("hosts", "hostname", "resolv.conf")
    )
    return (
        oci.Mount(destination="/proc", type="proc", source="proc", options=plain),
        oci.Mount(
            destination="/dev", type="tmpfs", source="tmpfs",
            options=("nosuid", "strictatime", "mode=755", "size=65536k"),
        ),
        oci.Mount(
            destination="/dev/pts", type="devpts", source="devpts",
            options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _bind_mount(Bind(layout.shm(container_id), destination="/dev/shm")),  # noqa: S108
        oci.Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=plain),
        oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=(*plain, "ro")),
        *map(_bind_mount, files),
    )  # fmt: skip


def _bind_mount(bind: Bind) -> oci.Mount:
    options = ("bind", "rprivate", "ro" if bind.read_only else "rw")
    return oci.Mount(
        destination=bind.destination, type="bind", source=str(bind.source), options=options
    )
