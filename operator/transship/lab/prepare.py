"""`python -m transship.lab.prepare`: make everything that a lab needs, ahead of the first one."""

from __future__ import annotations

import sys

from transship.common.errors import TransshipError
from transship.lab.assets import ensure_assets
from transship.lab.node_image import ensure_node_image
from transship.lab.sample_images import ensure_sample_images


def prepare() -> None:
    ensure_assets(_say)
    ensure_node_image(_say)
    ensure_sample_images(_say)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        prepare()
    except TransshipError as e:
        sys.exit(str(e))
