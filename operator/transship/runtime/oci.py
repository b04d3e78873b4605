"""Models of config.json in the OCI runtime specification: the part that Transship writes.

https://github.com/opencontainers/runtime-spec/blob/main/config.md
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

VERSION = "1.2.0"


class Oci(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class User(Oci):
    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    umask: int | None = None


class CapabilitySets(Oci):
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()


class Rlimit(Oci):
    type: str
    soft: int
    hard: int


class Process(Oci):
    terminal: bool = False
    user: User
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    capabilities: CapabilitySets
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None


class Root(Oci):
    path: str = "rootfs"
    readonly: bool = False


class Mount(Oci):
    destination: str
    type: str
    source: str
    options: tuple[str, ...] = ()


class DeviceRule(Oci):
    allow: bool
    access: str = "rwm"


class Memory(Oci):
    limit: int


class Cpu(Oci):
    shares: int | None = None
    quota: int | None = None
    period: int | None = None


class Pids(Oci):
    limit: int


class Resources(Oci):
    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None


class Namespace(Oci):
    type: str
    path: str | None = None


class SyscallArgument(Oci):
    index: int
    value: int
    value_two: int = 0
    op: str


class SyscallRule(Oci):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SyscallArgument, ...] = ()


class Seccomp(Oci):
    default_action: str
    architectures: tuple[str, ...] = ()
    syscalls: tuple[SyscallRule, ...] = ()


class Linux(Oci):
    namespaces: tuple[Namespace, ...]
    cgroups_path: str
    resources: Resources = Resources()
    seccomp: Seccomp | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()


class Spec(Oci):
    oci_version: str = Field(VERSION, alias="ociVersion")
    process: Process
    root: Root = Root()
    hostname: str
    mounts: tuple[Mount, ...]
    annotations: dict[str, str] = {}
    linux: Linux

    def text(self) -> str:
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1)
