"""The container of a placement: names and meanings are those of a Pod's container."""

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

# [REGISTRY/]NAME[:TAG][@DIGEST], as the OCI distribution specification has it
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
    """Informational, as in a Pod: every port of the container's own address can be reached."""

    container_port: Port
    protocol: Annotated[Protocol, Field(json_schema_extra={PERSISTED_DEFAULT: True})] = Protocol.TCP
    name: LabelName | None = None


class ResourceList(ApiModel):
    """Amounts of what a container uses."""

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
    """CPUs: 500m is half of one."""
    memory: Quantity | None = None
    """Bytes: 256Mi, 1Gi."""
    pids: Quantity | None = None
    """Processes and threads."""


class Resources(ApiModel):
    """limits become cgroup limits; requests are what a node must have left for the container."""

    limits: ResourceList = ResourceList()
    """What the container may use at most."""
    requests: ResourceList = ResourceList()
    """What the node must have left after the requests of the other placements on it. A request
    that is not set is the limit."""


CapabilityName = Annotated[str, Field(max_length=64, pattern=r"^[A-Z_]+$")]


# Docker's, containerd's and CRI-O's default.
DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip


class Capabilities(ApiModel):
    """Changes to the runtime's default set; names without CAP_, or ALL."""

    add: Annotated[tuple[CapabilityName, ...], Field(**list_atomic(max_items=64))] = ()
    """Beyond the default set only in namespaces that allow it, as hostPath."""
    drop: Annotated[tuple[CapabilityName, ...], Field(**list_atomic(max_items=64))] = ()


class SecurityContext(ApiModel):
    """Who the container's processes are, and what they may."""

    run_as_user: Int32 | None = None
    """Numeric user id; unset: the image's."""
    run_as_group: Int32 | None = None
    """Numeric group id; unset: the image's."""
    read_only_root_filesystem: bool = False
    """Mount the root file system read-only; volumes stay as their mounts say."""
    capabilities: Capabilities = Capabilities()


class VolumeMount(ApiModel):
    """Where a volume appears in the container."""

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
    """A path inside the volume, instead of its root."""
    read_only: bool = False


class RestartPolicy(StrEnum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Container(ApiModel):
    """What runs. Immutable: a running program cannot be turned into another one by a move."""

    image: Image
    """[REGISTRY/]NAME[:TAG][@sha256:DIGEST]. A tag is resolved once, when the container is made:
    status.imageDigest says to what."""
    command: Command = ()
    """Replaces the image's entrypoint. As in a Pod $(NAME) stands for a variable of env (not for
    one that only the image has), and $$ for a single $."""
    args: Command = ()
    """Replaces the image's command. $(NAME) and $$ mean what they mean in command."""
    env: Annotated[tuple[EnvVar, ...], Field(**list_map("name", max_items=512))] = ()
    """Added to the image's environment."""
    working_dir: Path | None = None
    """Unset: the image's."""
    hostname: LabelName | None = None
    """Unset: the placement's name."""
    stdin: bool = False
    """Keep standard input open."""
    tty: bool = False
    """Give the main process a terminal."""
    stop_signal: Annotated[str, Field(max_length=16, pattern=r"^SIG[A-Z0-9+-]+$")] | None = None
    """The signal that asks the container to end. Unset: the image's, else SIGTERM."""
    ports: Annotated[
        tuple[ContainerPort, ...], Field(**list_map("containerPort", "protocol", max_items=64))
    ] = ()
    """Informational."""
    resources: Resources = Resources()
    security_context: SecurityContext = SecurityContext()
    volume_mounts: Annotated[
        tuple[VolumeMount, ...], Field(**list_map("mountPath", max_items=64))
    ] = ()
    """Where the volumes appear."""
    liveness_probe: Probe | None = None
    """The container is restarted when it fails."""
    readiness_probe: Probe | None = None
    """Decides the condition Ready."""
    startup_probe: Probe | None = None
    """The other probes wait until it has succeeded once."""
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    """What happens when the main process ends."""
    termination_grace_period_seconds: Annotated[int, int32(0, 86400)] = 30
    """Seconds between the stop signal and SIGKILL."""
