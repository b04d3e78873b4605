"""What runc notes about a running container, as far as a dump needs it: its state.json."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from transship.common.errors import NotFound


class RuncState(BaseModel):
    """The init process, and what its standard streams were when it was started or restored."""

    model_config = ConfigDict(frozen=True)

    init_process_pid: int
    external_descriptors: tuple[str, ...] | None = None


def read(runc_root: Path, container: str) -> RuncState:
    path = runc_root / container / "state.json"
    try:
        return RuncState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as e:
        raise NotFound(f"reading runc's state of container {container}: {e}") from e


def note_descriptors(images: Path, descriptors: tuple[str, ...] | None) -> None:
    """`runc restore` connects the standard streams by this file, which `runc checkpoint` writes."""
    (images / "descriptors.json").write_text(json.dumps(descriptors))
