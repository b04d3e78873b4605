"""Orders: when an agent needs a new one, and the expansion of references in its texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256

from transship.api.placement import ContainerPlacement, PlacementSpec

# to the first closing parenthesis, whatever is before it: $(cat $(FILE)) refers to "cat $(FILE"
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def order_digest(spec: PlacementSpec, *, addresses: Sequence[str]) -> str:
    """The digest of all that an agent is ordered, before ConfigMaps and Secrets are read.

    Their contents are left out: as in a Pod, a change of them restarts nothing. Defaults are left
    out too, so that an operator that knows one more field sends no new order.
    """
    ordered = spec.model_dump(
        mode="json", include={"container", "volumes", "state"}, exclude_defaults=True
    )
    text = json.dumps([ordered, *(addresses or (None,))], sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:16]


def order_is_current(placement: ContainerPlacement) -> bool:
    """Whether the agent has accepted the order that the present spec makes."""
    container = placement.status.container
    accepted = container.order_digest if container is not None else ""
    return accepted == order_digest(placement.spec, addresses=placement.status.held_addresses)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME) as in a Pod: an unknown name stays as it is, $$ is a single $."""

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else variables.get(name, match.group(0))

    return _REFERENCE.sub(replacement, text)
