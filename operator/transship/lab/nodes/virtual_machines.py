"""Nodes that are virtual machines, emulated by qemu, with a kernel of their own.

They are for features that this machine's kernel lacks: Debian's kernel has soft-dirty tracking and
cgroup v2 only. A machine boots the node image and runs the agent alone. Its configuration is in an
archive beside the initramfs. Killing qemu works like a power cut; the disk stays.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from transship.common.errors import TransshipError
from transship.common.processes import run_blocking
from transship.lab.control_plane.readiness import wait_until_ready
from transship.lab.daemons import daemon_pid, program, start_daemon
from transship.lab.nodes import namespace_nodes, network, vm_kernel
from transship.lab.nodes.vm_kernel import Kernel
from transship.lab.state import MACHINE, LabState

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 1024
HUGE_PAGES = 8
"""Reserved on each machine, of 2 MiB each, for containers that use huge pages."""
IMAGE_TIMEOUT_SECONDS = 300.0
SPARE = 1.3
"""Factor for inodes and partly used blocks, from file sizes to the size of the file system."""
SPARE_BYTES = 64 << 20

START = """\
export PATH={path} HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1
{agent}
echo "the agent has ended: $?"
echo o >/proc/sysrq-trigger
sleep 60
"""


def make_image(state_dir: Path, state: LabState) -> Path:
    """Write the node image to a disk that all machines of the lab share, read-only."""
    if state.image is None:
        raise TransshipError("making the machines' disk: the lab has no node image yet")
    disk = state_dir / "machines.img"
    used = int(run_blocking(["du", "-sb", state.image]).stdout.split()[0])
    with disk.open("wb") as file:
        file.truncate(int(used * SPARE) + SPARE_BYTES)
    words: list[str | Path] = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-d",
        state.image,
        disk,
    ]
    run_blocking([program("mke2fs"), *words], timeout_seconds=IMAGE_TIMEOUT_SECONDS)
    return disk


def start_machine(
    state_dir: Path,
    state: LabState,
    node: str,
    *,
    kernel: Kernel,
    daemon: str,
    argv: list[str],
    configuration: Mapping[str, bytes],
) -> None:
    """Boot a node's machine. `argv` is the agent's command line."""
    folder = namespace_nodes.prepare_node(state_dir, state, node)
    _configure(folder, state, argv=argv, configuration=configuration)
    start(state_dir, state, node, kernel=kernel, daemon=daemon)


def start(state_dir: Path, state: LabState, node: str, *, kernel: Kernel, daemon: str) -> None:
    """Start a machine that is already configured."""
    folder = namespace_nodes.node_dir(state_dir, node)
    _join_kernel(kernel, folder)
    switch = f"--net=/proc/{daemon_pid(state_dir, network.SWITCH)}/ns/net"
    start_daemon(
        state_dir,
        daemon,
        _words(state, node, kernel=kernel, folder=folder, image=state_dir / "machines.img"),
        enter=[program("nsenter"), switch],
        cgroup=state.cgroup_of(node),
    )
    wait_until_ready(state_dir, daemon, partial(network.join_tap, state_dir, node))


def _words(
    state: LabState, node: str, *, kernel: Kernel, folder: Path, image: Path
) -> list[str | Path]:
    line = (
        f"console=ttyS0 quiet panic=-1 hugepages={HUGE_PAGES} node={node} {_addresses(state, node)}"
    )
    return [
        program(QEMU), "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-smp", "1",
        "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", kernel.image, "-initrd", folder / "initial",
        "-append", line,
        "-drive", f"file={image},format=raw,if=virtio,readonly=on",
        "-drive", f"file={folder / 'disk.img'},format=raw,if=virtio,cache=unsafe",
        "-netdev", f"tap,id=lab,ifname={node},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=lab,mac={state.mac(node)}",
    ]  # fmt: skip


def _addresses(state: LabState, node: str) -> str:
    """The part of the kernel command line that `machine/init` reads."""
    parameters = {
        "address": f"{state.address(node)}/{state.network.prefixlen}",
        "gateway": f"{state.address(MACHINE)}",
    }
    if network.has_ipv6():
        parameters["address6"] = f"{state.address_v6(node)}/{state.network_v6.prefixlen}"
        parameters["gateway6"] = f"{state.address_v6(MACHINE)}"
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def _configure(
    folder: Path, state: LabState, *, argv: list[str], configuration: Mapping[str, bytes]
) -> None:
    configuration_folder = folder / "initramfs" / "configuration"
    configuration_folder.mkdir(parents=True, exist_ok=True)
    for name, content in configuration.items():
        (configuration_folder / name).touch(mode=0o600)
        (configuration_folder / name).write_bytes(content)
    (configuration_folder / "hosts").write_text(namespace_nodes.hosts_file(state))
    start = START.format(path=namespace_nodes.ENVIRONMENT["PATH"], agent=shlex.join(argv))
    (configuration_folder / "start").write_text(start)


def _join_kernel(kernel: Kernel, folder: Path) -> None:
    """Join configuration and initramfs into one file: the kernel unpacks both archives."""
    archive = folder / "configuration.cpio"
    vm_kernel.pack(folder / "initramfs", archive)
    with (folder / "initial").open("wb") as joined:
        for part in (archive, kernel.initial):
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined)
            # an archive has to begin at a multiple of four bytes
            joined.write(bytes(-joined.tell() % 4))
