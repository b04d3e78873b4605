"""A wrapper with which CRIU can dump other users' processes without CAP_SYS_RESOURCE.

Some virtual machines of test systems lack the capability; the nodes of a cluster have it. On such
machines, the lab's nodes start CRIU with a preloaded library. It reads limits from /proc when the
kernel denies prlimit(2) (limits_library/limits.c).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from loguru import logger

from transship.common.errors import CommandFailed
from transship.common.processes import run_blocking
from transship.lab.cache import digest, ensure_entry

SOURCE = Path(__file__).parent / "limits_library" / "limits.c"
CAP_SYS_RESOURCE = 24
LIBRARY = "usr/local/lib/transship-limits.so"
# in PATH before /usr/sbin/criu
PROGRAM = "usr/local/sbin/criu"
WRAPPER = f"""\
#!/bin/sh
LD_PRELOAD="/{LIBRARY}${{LD_PRELOAD:+:$LD_PRELOAD}}" exec /usr/sbin/criu "$@"
"""


def install(root: Path) -> None:
    """Install library and wrapper below a node's root if needed, before the root is mounted."""
    if has_sys_resource(Path("/proc/self/status").read_text()):
        return
    library = _ensure_library()
    if library is None:
        return
    for name in (LIBRARY, PROGRAM):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library, root / LIBRARY)
    (root / PROGRAM).write_text(WRAPPER)
    (root / PROGRAM).chmod(0o755)


def has_sys_resource(status: str) -> bool:
    """Whether the process of this /proc/PID/status has CAP_SYS_RESOURCE."""
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def _ensure_library() -> Path | None:
    source = SOURCE.read_bytes()

    def make(draft: Path) -> None:
        run_blocking(["cc", "-O2", "-shared", "-fPIC", "-o", draft / "limits.so", SOURCE])

    try:
        return ensure_entry(f"limits-{digest([source])}", make) / "limits.so"
    except (CommandFailed, FileNotFoundError) as e:
        logger.warning("only root's processes can be moved in this lab: no C compiler ({})", e)
        return None
