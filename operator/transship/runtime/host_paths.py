"""hostPath volumes: directories and files of the node, and never what belongs to its agent.

The agent may run in a Pod: then the node's file system is mounted at layout.host_root, and a path
means what it means there, wherever its symbolic links point.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import InvalidInput
from transship.linux import mounts
from transship.runtime.layout import Layout

TOKENS = (
    Path("/var/run/secrets/kubernetes.io"),  # of the agent's own Pod
    Path("/var/lib/kubelet/pods"),  # of every Pod of the node
)


def find(path: str, *, layout: Layout) -> Path:
    """Where a hostPath lies, as this process sees it. Waits for the server of a share."""
    found = mounts.inside(layout.host_root, path)
    refuse_own(found, layout=layout, named=path)
    if not found.exists():
        raise InvalidInput(
            f"hostPath {path} does not exist on this node", reason=Reason.HOST_PATH_NOT_FOUND
        )
    return found


def refuse_own(found: Path, *, layout: Layout, named: str) -> None:
    """Raise InvalidInput for what is the agent's, lies in that, or holds it."""
    for own in (layout.state_dir, layout.runtime_dir, *layout.secrets, *TOKENS):
        if _reaches(found, own, root=layout.host_root):
            raise InvalidInput(
                f"hostPath {named} would reach {own}, which is the agent's",
                reason=Reason.HOST_PATH_REFUSED,
                hint=Reason.HOST_PATH_REFUSED.hint,
            )


def _reaches(found: Path, own: Path, *, root: Path) -> bool:
    """By name, and by what the names mean: the node may have mounted either a second time."""
    place = mounts.inside(root, str(own))
    if found.is_relative_to(place) or place.is_relative_to(found):
        return True
    holders = _identities((place, *place.parents), below=root)
    around = _identities((found, *found.parents), below=root)
    return bool(_identities((found,)) & holders or _identities((own, place)) & around)


def _identities(paths: Iterable[Path], *, below: Path | None = None) -> set[tuple[int, int]]:
    found = set()
    for path in paths:
        if (below is None or path.is_relative_to(below)) and path.exists():
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return found
