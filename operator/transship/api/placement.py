"""ContainerPlacement: a container and the node on which it belongs. Users edit only this kind."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import (
    Address,
    ApiModel,
    Int32,
    Int64,
    IPFamily,
    MicroTime,
    ObjectName,
    Percent,
    Quantity,
    Resource,
    ShortText,
    int32,
    list_atomic,
    list_map,
    list_set,
    rule,
    rules,
)
from transship.api.conditions import Conditions
from transship.api.container import Container, Volume

ANEW = "a running container keeps it until it is deleted: delete the placement and create it anew"

DEFAULT_DEADLINE_SECONDS = 600


class NetworkMode(StrEnum):
    POOL = "Pool"
    NONE = "None"


RequestedAddress = Annotated[
    str,
    Field(
        max_length=45,
        json_schema_extra=rules(
            rule("isIP(self)", "must be an address of the pool, such as 10.200.128.7 or fd00::7")
        ),
    ),
]


class Network(ApiModel):
    """The container's network. Its addresses stay with the placement when the container moves."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.mode) || self.mode == 'Pool' || !(has(self.address)"
                " || has(self.addresses) || has(self.addressPool) || has(self.ipFamilies))",
                "address, addresses, addressPool and ipFamilies must not be set when mode is None",
            ),
            rule(
                "!has(self.address) || !has(self.addresses)",
                "must not have both address and addresses: put the one address into addresses",
            ),
            rule(
                "!has(self.addresses) || size(self.addresses) < 2"
                " || !self.addresses.all(a, isIP(a))"
                " || ip(self.addresses[0]).family() != ip(self.addresses[1]).family()",
                "addresses must have at most one of each IP family",
            ),
        )
    )

    mode: NetworkMode = NetworkMode.POOL
    """Pool: an address from an AddressPool. None: only the loopback interface."""
    address_pool: ObjectName | None = None
    """The AddressPool from which the address is taken. Unset: the one named default."""
    address: RequestedAddress | None = None
    """The address to take from the pool. Unset: any free one."""
    addresses: Annotated[tuple[RequestedAddress, ...], Field(**list_atomic(max_items=2))] = ()
    """The addresses to take from a pool of both IP families, one of each. Use it instead of
    address."""
    ip_families: Annotated[tuple[IPFamily, ...], Field(**list_set(max_items=2))] = ()
    """The IP families of the addresses. The first one is that of status.address. Unset: all
    families of the pool, in its order."""


class Strategy(StrEnum):
    AUTO = "Auto"
    PRE_COPY = "PreCopy"
    POST_COPY = "PostCopy"
    STOP_AND_COPY = "StopAndCopy"
    COLD = "Cold"


class Compression(StrEnum):
    AUTO = "Auto"
    NONE = "None"
    ZSTD = "Zstd"


class PostCopy(StrEnum):
    ALLOWED = "Allowed"
    FORBIDDEN = "Forbidden"


class MigrationSettings(ApiModel):
    """How this placement is moved."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!(has(self.strategy) && self.strategy == 'PostCopy' && has(self.postCopy)"
                " && self.postCopy == 'Forbidden')",
                "strategy PostCopy needs postCopy: Allowed, or leave postCopy out",
            )
        )
    )

    strategy: Strategy = Strategy.AUTO
    """When memory is sent. PreCopy: before the freeze. PostCopy: after the resume. StopAndCopy:
    while the container is frozen. Auto chooses by a prediction. Cold sends no memory: it stops the
    container and starts it anew on the target."""
    max_downtime_milliseconds: Annotated[int, int32(1, 2_000_000)] | None = None
    """The longest blackout that is acceptable. Auto fails rather than exceed it. PreCopy copies
    until the rest fits or no longer shrinks. Unset: the limit of Auto is 300 ms, or 200 ms more
    than a handover without memory takes on the node."""
    deadline_seconds: Annotated[int, int32(1, 86400)] | None = None
    """The number of seconds in which a move must hand over. After that it is rolled back. Unset:
    600."""
    max_bandwidth: Quantity | None = None
    """The bytes per second that a move may send before the freeze. Unset: no limit."""
    compression: Compression | None = None
    """Whether memory is compressed. Auto compresses where the link is slower than the CPU. Unset:
    Auto."""
    post_copy: PostCopy | None = None
    """Whether Auto may send memory after the resume. Unset: Forbidden. Until its last page has
    arrived, the container depends on the source node. If that node loses the rest, the container is
    started anew, with its files. The strategy PostCopy sends memory after the resume unless this is
    Forbidden."""
    backoff_limit: Annotated[int, int32(0, 100)] | None = None
    """The number of times that a failed move is tried again. Unset: 3."""
    successful_history_limit: Annotated[int, int32(0, 100)] | None = None
    """The number of succeeded ContainerMigrations to keep. Unset: 3."""
    failed_history_limit: Annotated[int, int32(0, 100)] | None = None
    """The number of failed or cancelled ContainerMigrations to keep. Unset: 3."""

    @property
    def deadline(self) -> int:
        """The number of seconds in which a move must hand over."""
        return self.deadline_seconds or DEFAULT_DEADLINE_SECONDS


class DesiredState(StrEnum):
    RUNNING = "Running"
    FROZEN = "Frozen"
    STOPPED = "Stopped"


NodeSelector = Annotated[
    dict[Annotated[str, Field(max_length=316)], Annotated[str, Field(max_length=63)]],
    Field(max_length=32),
]

SPEC_RULES = rules(
    rule(
        "!(has(self.targetNode) && has(self.nodeSelector) && size(self.nodeSelector) > 0)",
        "must not have both targetNode and nodeSelector: write the node's name, or the labels that"
        " the node must have",
    ),
    rule(
        "!has(self.container.volumeMounts) || self.container.volumeMounts.all(m,"
        " has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
        "every name in container.volumeMounts must be the name of one of volumes",
    ),
    rule(
        "has(self.volumes) == has(oldSelf.volumes)"
        " && (!has(self.volumes) || self.volumes == oldSelf.volumes)",
        f"volumes must not change: {ANEW}",
    ),
    rule(
        "has(self.network) == has(oldSelf.network)"
        " && (!has(self.network) || self.network == oldSelf.network)",
        f"network must not change: {ANEW}",
    ),
)


class PlacementSpec(ApiModel):
    """What runs where. Only targetNode, nodeSelector, migration and state may change."""

    model_config = ConfigDict(json_schema_extra=SPEC_RULES)

    target_node: ObjectName | None = None
    """The node on which the container belongs. Edit it to move the container. If neither this nor
    nodeSelector is set, the operator chooses a node once, and the container stays there."""
    node_selector: NodeSelector = {}
    """The labels that the node's NodeAgent must have. When its node no longer has them, the
    container is moved. It must not be set together with targetNode."""
    container: Annotated[
        Container,
        Field(
            json_schema_extra=rules(
                rule("self == oldSelf", f"container must not change: {ANEW}"),
            )
        ),
    ]
    volumes: Annotated[tuple[Volume, ...], Field(**list_map("name", max_items=64))] = ()
    """Immutable."""
    network: Network = Network()
    """Immutable."""
    migration: MigrationSettings = MigrationSettings()
    """How the container is moved."""
    state: DesiredState = DesiredState.RUNNING
    """Running, Frozen (all tasks are frozen, and the memory is kept) or Stopped (the container is
    ended)."""


class PlacementPhase(StrEnum):
    """A summary of the conditions for people. The operator never reads it."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    MIGRATING = "Migrating"
    FROZEN = "Frozen"
    STOPPED = "Stopped"
    FAILED = "Failed"
    TERMINATING = "Terminating"
    UNKNOWN = "Unknown"


class LastExit(ApiModel):
    """How the container's main process last ended."""

    exit_code: Annotated[int, int32(-1, 255)]
    """The exit status, or 128 plus the number of the signal. -1 if it is not known."""
    time: MicroTime
    reason: ShortText = ""


class ContainerStatus(ApiModel):
    """What the agent reports about the container."""

    id: ShortText = ""
    order_digest: ShortText = ""
    """The digest of the last order that the agent accepted. The operator sends a new order when it
    differs."""
    start_time: MicroTime | None = None
    """When the main process was started. A move does not change it."""
    restarts: Int32 = 0
    """How often the agents have restarted the container."""
    last_exit: LastExit | None = None
    completed: bool = False
    """Whether it has ended for good, as its restartPolicy says: no other node starts it anew.
    spec.state Stopped and then Running does."""


class CurrentMigration(ApiModel):
    """The ContainerMigration that is running."""

    name: ObjectName
    step: ShortText = ""
    """The last step that has begun."""
    percent: Percent = 0
    """The progress. It never falls while the name is the same; another attempt has another name."""


class LastMigration(ApiModel):
    """The last finished move, and what it cost."""

    name: ObjectName
    from_: Annotated[ObjectName, Field(alias="from")]
    to: ObjectName
    strategy: Strategy
    blackout_milliseconds: Int32 | None = None
    """The time in which no copy of the container ran."""
    total_milliseconds: Int64 | None = None
    bytes: Int64 | None = None
    """The bytes that the source sent."""


class FencedCopy(ApiModel):
    """The copy that a node had when it was fenced. It is destroyed once the node answers again."""

    node: ObjectName
    epoch: Int32
    """The highest epoch that the copy can have. A copy with a later epoch is not destroyed."""


class PlacementStatus(ApiModel):
    """The observed state. Only the operator writes it."""

    conditions: Conditions = ()
    """Ready and Migratable are always present; Reconciling, Stalled and OwnerDisputed only while
    they are True."""
    observed_generation: Int64 = 0
    """The metadata.generation to which this status belongs."""
    phase: PlacementPhase | None = None
    """A summary of the conditions for people. The operator never reads it."""
    reason: ShortText = ""
    """The reason of Stalled, or else of Reconciling, or else of Ready, for people."""
    node: ObjectName | None = None
    """The node that has the container."""
    epoch: Int32 = 0
    """The number of the owner: 1 for the first node, and one more after every move."""
    address: Address | None = None
    """The first of addresses."""
    addresses: Annotated[tuple[Address, ...], Field(**list_atomic(max_items=2))] = ()
    """The container's addresses, at most one of each IP family."""
    image_digest: ShortText | None = None
    """The digest to which the image's tag was resolved when the container was created."""
    container: ContainerStatus | None = None
    migration: CurrentMigration | None = None
    last_migration: LastMigration | None = None
    fenced_copies: Annotated[tuple[FencedCopy, ...], Field(**list_map("node", max_items=16))] = ()
    """Copies on nodes that an administrator has fenced."""
    cancelled_generation: Int64 | None = None
    """The generation whose move was cancelled by deleting its migration. That move is not tried
    again."""

    @property
    def held_addresses(self) -> tuple[Address, ...]:
        """All addresses, also where an older version wrote only the field address."""
        return self.addresses or ((self.address,) if self.address is not None else ())


class ContainerPlacement(Resource):
    """A container and its node. Edit spec.targetNode to move the running container."""

    spec: PlacementSpec
    status: PlacementStatus = PlacementStatus()
