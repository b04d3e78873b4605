"""What CRIU is asked for at a restore, beyond what `runc restore` asks for by itself."""

from __future__ import annotations

from pathlib import Path

from transship.criu.dump_options import GHOST_LIMIT_BYTES
from transship.criu.externals import DEVICES_KEY

RUNC_OPTIONS = ("--manage-cgroups-mode=ignore", "--tcp-established", "--file-locks")
LOG_LEVEL = 2
"""Errors and warnings. CRIU writes each line by itself: 1,200 of them at runc's level of 4."""

LAZY_OPTION = "--lazy-pages"


def configuration(*, devices: Path) -> str:
    """CRIU's configuration for a restore; runc hands it over by an annotation of the bundle."""
    return "\n".join((
        "network-lock skip",
        "tcp-established",
        "ext-unix-sk",
        "file-locks",
        "link-remap",
        f"ghost-limit {GHOST_LIMIT_BYTES}",
        f"external mnt[{DEVICES_KEY}]:{devices}",
        "",
    ))  # fmt: skip
