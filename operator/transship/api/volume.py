"""The volumes of a placement: which of them move, which are shared, which must be there."""

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
    """An empty directory that moves with the container."""

    medium: EmptyDirMedium = EmptyDirMedium.DISK
    """Memory: a tmpfs, which counts as the container's memory."""
    size_limit: Quantity | None = None
    """Bytes that may be stored in it."""


class HostPath(ApiModel):
    """A directory of the node. It does not move: the target must have it under the same path.

    Only in namespaces with the label pod-security.kubernetes.io/enforce=privileged.
    """

    path: Path


class KeyToPath(ApiModel):
    """Which file a key becomes."""

    key: DataKey
    path: RelativePath


Items = Annotated[tuple[KeyToPath, ...], Field(**list_atomic(max_items=64))]


class ConfigMapVolume(ApiModel):
    """The keys of a ConfigMap as files, as they were when the container started."""

    name: ObjectName
    items: Items = ()
    """Unset: every key is a file of its own name."""


class SecretVolume(ApiModel):
    """The keys of a Secret as files, as they were when the container started."""

    secret_name: ObjectName
    items: Items = ()
    """Unset: every key is a file of its own name."""


class NfsVolume(ApiModel):
    """An NFS export; both nodes mount it, nothing is copied.

    Only in namespaces with the label pod-security.kubernetes.io/enforce=privileged.
    """

    server: Annotated[ShortText, Field(min_length=1)]
    path: Path


class Volume(ApiModel):
    """A name and exactly one source."""

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
    """What volumeMounts call it."""
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    nfs: NfsVolume | None = None
