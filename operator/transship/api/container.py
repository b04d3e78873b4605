"""The container of a placement. Fields have the names and meanings of a Pod's container."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import (
    PERSISTED_DEFAULT,
    ApiModel,
    Int32,
    LabelName,
    Path,
    Quantity,
    Text,
    int32,
    list_atomic,
    list_map,
    rule,
    rules,
)
from transship.api.environment import (
    EnvVar,
    EnvVarSource,
    FieldSelector,
    KeySelector,
)
from transship.api.probe import ExecAction, HttpGetAction, Port, Probe, TcpSocketAction
from transship.api.volume import (
    ConfigMapVolume,
    EmptyDir,
    EmptyDirMedium,
    HostPath,
    KeyToPath,
    NfsVolume,
    RelativePath,
    SecretVolume,
    Volume,
)

__all__ = [
    "Capabilities",
    "ConfigMapVolume",
    "Container",
    "ContainerPort",
    "EmptyDir",
    "EmptyDirMedium",
    "EnvVar",
    "EnvVarSource",
    "ExecAction",
    "FieldSelector",
    "HostPath",
    "HttpGetAction",
    "KeySelector",
    "KeyToPath",
    "NfsVolume",
    "Probe",
    "Protocol",
    "ResourceList",
    "Resources",
    "RestartPolicy",
    "SecretVolume",
    "SecurityContext",
    "TcpSocketAction",
    "Volume",
    "VolumeMount",
]

Command = Annotated[tuple[Text, ...], Field(**list_atomic(max_items=256))]

# [REGISTRY/]NAME[:TAG][@DIGEST], by the OCI distribution specification
IMAGE_PATTERN = (
    r"^([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[a-f0-9]{64})?$"
)
Image = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                f"self.matches('{IMAGE_PATTERN}')",
                "must be an image such as registry.example.org/team/app:1.0, or with"
                " @sha256:DIGEST at its end; names are lower-case",
            )
        ),
    ),
]


class Protocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"


class ContainerPort(ApiModel):
    """Informational, as in a Pod. Every port of the container's address can be reached."""

    container_port: Port
    protocol: Annotated[Protocol, Field(json_schema_extra={PERSISTED_DEFAULT: True})] = Protocol.TCP
    name: LabelName | None = None


class ResourceList(ApiModel):
    """Amounts of CPU, memory and processes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.memory) || (type(self.memory) == int ? self.memory >= 1048576 :"
                " !isQuantity(self.memory) || !quantity(self.memory).isLessThan(quantity('1Mi')))",
                "memory is in bytes and must be at least 1Mi: write 512Mi, not 512m or 512",
            )
        )
    )

    cpu: Quantity | None = None
    """CPUs. 500m is half of one."""
    memory: Quantity | None = None
    """Bytes, for instance 256Mi or 1Gi."""
    pids: Quantity | None = None
    """The number of processes and threads."""


class Resources(ApiModel):
    """Limits become cgroup limits. Requests are what a node must have left for the container."""

    limits: ResourceList = ResourceList()
    """The most that the container may use."""
    requests: ResourceList = ResourceList()
    """What the node must have left after the requests of its other placements. A request that is
    not set equals the limit."""


CapabilityName = Annotated[str, Field(max_length=64, pattern=r"^[A-Z_]+$")]


# the default of Docker, containerd and CRI-O
DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)


class Capabilities(ApiModel):
    """Changes to the default set of capabilities. Write names without CAP_, or ALL."""

    add: Annotated[tuple[CapabilityName, ...], Field(**list_atomic(max_items=64))] = ()
    """Capabilities to add. Those beyond the default set need the same namespace label as a hostPath
    volume."""
    drop: Annotated[tuple[CapabilityName, ...], Field(**list_atomic(max_items=64))] = ()
    """Capabilities to remove."""


class SecurityContext(ApiModel):
    """The user, the group and the privileges of the container's processes."""

    run_as_user: Int32 | None = None
    """The numeric user id. Unset: the image's."""
    run_as_group: Int32 | None = None
    """The numeric group id. Unset: the image's."""
    read_only_root_filesystem: bool = False
    """Mount the root file system read-only. Volumes are not affected."""
    capabilities: Capabilities = Capabilities()


class VolumeMount(ApiModel):
    """Mounts a volume in the container."""

    name: LabelName
    """The name of one of spec.volumes."""
    mount_path: Annotated[
        str,
        Field(
            max_length=4096,
            json_schema_extra=rules(
                rule(
                    "self.startsWith('/') && self != '/' && !self.matches('(^|/)[.][.](/|$)')",
                    "must be an absolute path other than / and without .., such as /var/lib/data",
                )
            ),
        ),
    ]
    sub_path: RelativePath | None = None
    """The path inside the volume to mount. Unset: its root."""
    read_only: bool = False


class RestartPolicy(StrEnum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Container(ApiModel):
    """The container to run. Immutable: a move keeps the running program as it is."""

    image: Image
    """[REGISTRY/]NAME[:TAG][@sha256:DIGEST]. A tag is resolved once, when the container is created.
    The result is in status.imageDigest."""
    command: Command = ()
    """Replaces the image's entrypoint. As in a Pod, $(NAME) stands for a variable of env, but not
    for one that is set only in the image. $$ stands for a single $."""
    args: Command = ()
    """Replaces the image's command. $(NAME) and $$ have the same meaning as in command."""
    env: Annotated[tuple[EnvVar, ...], Field(**list_map("name", max_items=512))] = ()
    """Variables that are added to the image's environment."""
    working_dir: Path | None = None
    """The working directory. Unset: the image's."""
    hostname: LabelName | None = None
    """The host name in the container. Unset: the placement's name."""
    stdin: bool = False
    """Keep standard input open."""
    tty: bool = False
    """Give the main process a terminal."""
    stop_signal: Annotated[str, Field(max_length=16, pattern=r"^SIG[A-Z0-9+-]+$")] | None = None
    """The signal that asks the container to stop. Unset: the image's, or else SIGTERM."""
    ports: Annotated[
        tuple[ContainerPort, ...], Field(**list_map("containerPort", "protocol", max_items=64))
    ] = ()
    """Informational."""
    resources: Resources = Resources()
    security_context: SecurityContext = SecurityContext()
    volume_mounts: Annotated[
        tuple[VolumeMount, ...], Field(**list_map("mountPath", max_items=64))
    ] = ()
    """The paths at which volumes are mounted."""
    liveness_probe: Probe | None = None
    """When it fails, the container is restarted."""
    readiness_probe: Probe | None = None
    """Its result decides the condition Ready."""
    startup_probe: Probe | None = None
    """The other probes wait until this one has succeeded once."""
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    """Whether the container is restarted when its main process ends."""
    termination_grace_period_seconds: Annotated[int, int32(0, 86400)] = 30
    """The number of seconds between the stop signal and SIGKILL."""
