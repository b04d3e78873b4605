"""The kernel of the lab's virtual machines: Debian's, with an initramfs of our own.

The kernel package of the machine's Debian release is unpacked into the cache, not installed. The
initramfs has busybox, the modules that a node needs, and the script `machine/init`.
"""

from __future__ import annotations

import gzip
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import NotFound
from transship.common.processes import run_blocking
from transship.lab.cache import Say, digest, ensure_entry, new_log
from transship.lab.control_plane.assets import download
from transship.lab.daemons import program

META_PACKAGE = "linux-image-cloud-amd64"
INIT = Path(__file__).parent / "machine" / "init"
MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net"),
    *("overlay", "veth", "loop", "tun", "nf_tables"),
    # CRIU queries sockets with these
    *("tcp_diag", "udp_diag", "raw_diag", "unix_diag", "netlink_diag", "af_packet_diag"),
)


@dataclass(frozen=True)
class Kernel:
    """Kernel and initramfs, as files for qemu."""

    image: Path
    initial: Path


def ensure_kernel(say: Say) -> Kernel:
    """Return the kernel from the cache, or download it first."""
    package = _package()
    key = digest([package.encode(), " ".join(MODULES).encode(), INIT.read_bytes()])

    def make(draft: Path) -> None:
        log = new_log("kernel")
        say(f"fetching {package} (log: {log})")
        download([package], into=draft, log=log)
        (archive,) = draft.glob("*.deb")
        unpacked = draft / "unpacked"
        run_blocking(["dpkg-deb", "-x", archive, unpacked])
        archive.unlink()
        (image,) = (unpacked / "boot").glob("vmlinuz-*")
        shutil.copy(image, draft / "vmlinuz")
        _make_initial(unpacked, image.name.removeprefix("vmlinuz-"), draft / "initial.gz")
        shutil.rmtree(unpacked)

    folder = ensure_entry(f"kernel-{key}", make)
    return Kernel(folder / "vmlinuz", folder / "initial.gz")


def _package() -> str:
    """The kernel package that the meta package depends on."""
    output = run_blocking(["apt-cache", "depends", META_PACKAGE]).stdout
    match = re.search(r"Depends: (linux-image-\S+)", output)
    if match is None:
        raise NotFound(f"looking for the kernel of {META_PACKAGE}", hint="apt-get update")
    return match[1]


def _make_initial(unpacked: Path, version: str, archive: Path) -> None:
    root = archive.with_name("initial")
    for name in ("bin", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(program("busybox"), root / "bin" / "busybox")
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    (root / "modules").write_text("\n".join(MODULES) + "\n")
    source, target = (Path(top, "lib/modules", version) for top in (unpacked, root))
    run_blocking(["busybox", "depmod", "-b", unpacked, version])
    for module in needed(MODULES, (source / "modules.dep").read_text()):
        (target / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / module, target / module)
    run_blocking(["busybox", "depmod", "-b", root, version])
    plain = archive.with_suffix(".cpio")
    pack(root, plain)
    archive.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=1))
    plain.unlink()
    shutil.rmtree(root)


def needed(names: tuple[str, ...], dependencies: str) -> set[str]:
    """The files of these modules and of their dependencies, by the modules.dep of depmod(8)."""
    table = {
        file: rest.split()
        for file, _, rest in (line.partition(":") for line in dependencies.splitlines())
    }
    files = {Path(file).name.partition(".")[0].replace("-", "_"): file for file in table}
    closure: set[str] = set()
    # the other modules are built into the kernel
    wanted = [files[name] for name in names if name in files]
    while wanted:
        file = wanted.pop()
        if file not in closure:
            closure.add(file)
            wanted += table[file]
    return closure


def pack(folder: Path, archive: Path) -> None:
    """Pack a folder into a cpio archive for the kernel. Such archives can be concatenated."""
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    words: list[str | Path] = ["busybox", "cpio", "-o", "-H", "newc", "-F", archive]
    run_blocking(words, stdin=names.encode(), cwd=folder)
