"""The volumes of a placement: those that move with it, and those that both nodes must have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import (
    ApiModel,
    LabelName,
    ObjectName,
    Path,
    Quantity,
    ShortText,
    list_atomic,
    rule,
    rules,
)

DataKey = Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
RelativePath = Annotated[
    str,
    Field(
        max_length=512,
        json_schema_extra=rules(
            rule(
                "self != '' && !self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')",
                "must be a relative path without .., such as data/today",
            )
        ),
    ),
]


class EmptyDirMedium(StrEnum):
    DISK = ""
    MEMORY = "Memory"


class EmptyDir(ApiModel):
    """A directory that is empty at the start and moves with the container."""

    medium: EmptyDirMedium = EmptyDirMedium.DISK
    """Memory is a tmpfs, which counts as memory of the container. Unset: the node's disk."""
    size_limit: Quantity | None = None
    """The size of the tmpfs in bytes if medium is Memory. On a disk the size is not limited."""


class HostPath(ApiModel):
    """A directory of the node. It is not copied: the target must have it under the same path.

    Allowed only in namespaces with the label pod-security.kubernetes.io/enforce=privileged.
    """

    path: Path


class KeyToPath(ApiModel):
    """Maps a key to a file."""

    key: DataKey
    path: RelativePath


Items = Annotated[tuple[KeyToPath, ...], Field(**list_atomic(max_items=64))]


class ConfigMapVolume(ApiModel):
    """The keys of a ConfigMap as files. Their content is read when the container starts."""

    name: ObjectName
    items: Items = ()
    """The keys to use, and their paths. Unset: every key is a file with the key's name."""


class SecretVolume(ApiModel):
    """The keys of a Secret as files. Their content is read when the container starts."""

    secret_name: ObjectName
    items: Items = ()
    """The keys to use, and their paths. Unset: every key is a file with the key's name."""


class NfsVolume(ApiModel):
    """An NFS export. Both nodes mount it, and nothing is copied.

    Allowed only in namespaces with the label pod-security.kubernetes.io/enforce=privileged.
    """

    server: Annotated[ShortText, Field(min_length=1)]
    path: Path


class Volume(ApiModel):
    """A volume: a name and exactly one source."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.emptyDir), has(self.hostPath), has(self.configMap), has(self.secret),"
                " has(self.nfs)].exists_one(one, one)",
                "must have exactly one of emptyDir, hostPath, configMap, secret and nfs; an empty"
                " directory that moves along is written emptyDir: {}",
            )
        )
    )

    name: LabelName
    """The name by which volumeMounts refer to it."""
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    nfs: NfsVolume | None = None
