"""What all messages share. Unknown fields are ignored: neighbouring versions can talk."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from transship.api.base import ApiModel

# Ids are UIDs; they name files and cgroups on the nodes, so nothing else is let in.
Id = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class Message(ApiModel):
    """Frozen, camelCase on the wire."""
