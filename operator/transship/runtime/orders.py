"""Writes the bundle and the directories of a container from an order: all but its processes.

The same order gives the same bundle on every node. The target of a migration prepares it while the
container still runs on the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from transship.api.container import Container
from transship.common.errors import InvalidInput, NotFound
from transship.common.threads import may_hang
from transship.linux import mounts, pidfds
from transship.runtime import bundle, host, oci, rootfs, users, volumes
from transship.runtime.conmon import Console
from transship.runtime.image_store import Image
from transship.runtime.layout import Layout
from transship.runtime.rootfs import Overlay
from transship.runtime.users import Accounts
from transship.runtime.volumes import Bind, OrderedVolume

DEFAULT_STOP_SIGNAL = "SIGTERM"


@dataclass(frozen=True)
class Order:
    """A container to run, with variables resolved and the files of configMaps and secrets.

    `digest` pins the image to what its tag meant at the container's first start.
    """

    id: str
    name: str
    container: Container
    volumes: tuple[OrderedVolume, ...] = ()
    addresses: tuple[str, ...] = ()
    digest: str | None = None

    @property
    def hostname(self) -> str:
        return self.container.hostname or self.name[:63].rstrip(".-")


class Prepared(BaseModel):
    """What is stored beside the bundle, to start and stop the container without the order."""

    model_config = ConfigDict(frozen=True)

    digest: str
    stop_signal: str
    terminal: bool
    stdin: bool

    @property
    def console(self) -> Console:
        return Console(terminal=self.terminal, stdin=self.stdin)


def overlay(layout: Layout, *, container_id: str, image_rootfs: Path) -> Overlay:
    return Overlay(
        lower=image_rootfs,
        upper=layout.upper(container_id),
        work=layout.work(container_id),
        merged=layout.rootfs(container_id),
    )


def load(layout: Layout, container_id: str) -> Prepared:
    """Load prepared.json. Raises NotFound for a container that was not prepared."""
    try:
        return Prepared.model_validate_json(_prepared(layout, container_id).read_bytes())
    except FileNotFoundError as e:
        raise NotFound(f"the container {container_id} is not prepared on this node") from e


async def write(order: Order, *, image: Image, layout: Layout) -> Prepared:
    """Write directories, volumes and bundle. A repetition keeps what the container has written."""
    overlay(layout, container_id=order.id, image_rootfs=image.rootfs).make_directories()
    layout.volumes(order.id).mkdir(exist_ok=True)
    rootfs.make_devices(layout.devices(order.id))
    _write_etc(order, layout=layout)
    stop_signal = _stop_signal(order, image=image)
    paths = await volumes.provide(order.volumes, container_id=order.id, layout=layout)
    # a subPath may lie on a share whose server is away
    spec = await may_hang(
        partial(_spec, order, image, paths, layout),
        doing=f"describing container {order.id} to runc",
        timeout_seconds=volumes.SHARE_TIMEOUT_SECONDS,
    )
    _replace(layout.bundle(order.id) / "config.json", spec.text())
    prepared = Prepared(
        digest=image.digest,
        stop_signal=stop_signal,
        terminal=order.container.tty,
        stdin=order.container.stdin,
    )
    _replace(_prepared(layout, order.id), prepared.model_dump_json())
    return prepared


def _stop_signal(order: Order, *, image: Image) -> str:
    name = order.container.stop_signal or image.config.stop_signal or DEFAULT_STOP_SIGNAL
    try:
        pidfds.signal_number(name)
    except ValueError as e:
        raise InvalidInput(
            f"stopSignal: {e}", hint="write one such as SIGTERM in spec.container.stopSignal"
        ) from e
    return name


def _prepared(layout: Layout, container_id: str) -> Path:
    return layout.container(container_id) / "prepared.json"


def _spec(order: Order, image: Image, paths: dict[str, Path], layout: Layout) -> oci.Spec:
    container = order.container
    accounts = Accounts(
        passwd=_text(image.rootfs, "etc/passwd"), group=_text(image.rootfs, "etc/group")
    )
    return bundle.runtime_spec(
        container,
        image.config,
        container_id=order.id,
        hostname=order.hostname,
        env={entry.name: entry.value or "" for entry in container.env},
        identity=users.resolve(
            image.config.user, context=container.security_context, accounts=accounts
        ),
        binds=_binds(order, paths, layout=layout),
        layout=layout,
        host=host.this_host(),
    )


def _binds(order: Order, paths: dict[str, Path], *, layout: Layout) -> tuple[Bind, ...]:
    by_name = {ordered.volume.name: ordered.volume for ordered in order.volumes}
    writable = frozenset(
        name for name, volume in by_name.items() if not (volume.config_map or volume.secret)
    )
    for mount in order.container.volume_mounts:
        volume = by_name.get(mount.name)
        if volume is not None and volume.host_path is not None and mount.sub_path:
            path = mounts.inside(paths[mount.name], mount.sub_path)
            named = f"{volume.host_path.path} with the subPath {mount.sub_path}"
            volumes.refuse_agent_paths(path, layout=layout, named=named)
    return volumes.binds(order.container.volume_mounts, volumes=paths, writable=writable)


def _text(root: Path, name: str) -> str:
    path = mounts.inside(root, name)
    return path.read_text(errors="replace") if path.is_file() else ""


def _write_etc(order: Order, *, layout: Layout) -> None:
    """Write the missing files of /etc; the container may have changed the others."""
    path = layout.etc(order.id)
    path.mkdir(exist_ok=True)
    contents = {
        "hostname": f"{order.hostname}\n".encode(),
        "hosts": hosts(order).encode(),
        "resolv.conf": host.name_servers(layout.host_root),
    }
    for name, content in contents.items():
        if not (path / name).exists():
            (path / name).write_bytes(content)


def hosts(order: Order) -> str:
    """Return the text of the container's /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {order.hostname}" for address in order.addresses]
    return "\n".join([*lines, ""])


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.replace(path)
