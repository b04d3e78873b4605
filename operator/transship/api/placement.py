"""ContainerPlacement: the container and the node it belongs on. Users edit only this resource."""

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

ANEW = "a running container keeps it for life: delete the placement and create it anew"

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
    """The container's network; its addresses stay with the placement wherever it goes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.mode) || self.mode == 'Pool' || !(has(self.address)"
                " || has(self.addresses) || has(self.addressPool) || has(self.ipFamilies))",
                "address, addresses, addressPool and ipFamilies must not be set when mode is None",
            ),
            rule(
                "!has(self.address) || !has(self.addresses)",
                "must not have both address and addresses: write the one into the other",
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
    """Pool: an address of an AddressPool. None: loopback only."""
    address_pool: ObjectName | None = None
    """The AddressPool to take the address from. Unset: the one named default."""
    address: RequestedAddress | None = None
    """A certain address of the pool. Unset: any free one."""
    addresses: Annotated[tuple[RequestedAddress, ...], Field(**list_atomic(max_items=2))] = ()
    """Instead of address: certain addresses of a pool of both IP families, one of each."""
    ip_families: Annotated[tuple[IPFamily, ...], Field(**list_set(max_items=2))] = ()
    """The IP families to get an address of, the family of status.address first. Unset: all that
    the pool has, in its order."""


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
    """When memory moves: PreCopy before the freeze, PostCopy after the resume, StopAndCopy inside
    the freeze. Auto chooses by prediction. Cold ends the container and starts it on the target."""
    max_downtime_milliseconds: Annotated[int, int32(1, 2_000_000)] | None = None
    """The longest blackout that is acceptable. Auto fails rather than exceed it; PreCopy copies
    until what is left fits or shrinks no more. Unset: Auto's limit is 300 ms, or 200 ms more than a
    handover without memory takes on the node."""
    deadline_seconds: Annotated[int, int32(1, 86400)] | None = None
    """A move that has not handed over by then is rolled back. Unset: 600."""
    max_bandwidth: Quantity | None = None
    """Bytes per second that a move may send before the freeze. Unset: as fast as it goes."""
    compression: Compression | None = None
    """Of memory that is sent; Auto compresses where the link is slower than the CPU. Unset:
    Auto."""
    post_copy: PostCopy | None = None
    """Whether Auto may send memory after the resume. Unset: Forbidden. Until the last page has come
    the container waits for the source's node; if that loses what it has, the container is started
    anew, with its files. The strategy PostCopy does so unless it is Forbidden."""
    backoff_limit: Annotated[int, int32(0, 100)] | None = None
    """How often a failed move is tried again. Unset: 3."""
    successful_history_limit: Annotated[int, int32(0, 100)] | None = None
    """How many succeeded ContainerMigrations are kept. Unset: 3."""
    failed_history_limit: Annotated[int, int32(0, 100)] | None = None
    """How many failed or cancelled ContainerMigrations are kept. Unset: 3."""

    @property
    def deadline(self) -> int:
        """Seconds in which a move has to hand over."""
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
        "must not have both targetNode and nodeSelector: write the node's name, or the labels of"
        " the nodes that will do",
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
    """What runs and where; only targetNode, nodeSelector, migration and state may change."""

    model_config = ConfigDict(json_schema_extra=SPEC_RULES)

    target_node: ObjectName | None = None
    """The node that the container belongs on: editing it moves the container. With neither this
    nor nodeSelector the operator chooses a node once, and the container stays there."""
    node_selector: NodeSelector = {}
    """Labels that the node's NodeAgent must have; the container is moved when its node no longer
    has them. Not together with targetNode."""
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
    """Running, Frozen (all tasks stopped, memory kept) or Stopped (ended)."""


class PlacementPhase(StrEnum):
    """Derived from the conditions, for people; never read back."""

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
    """The exit status, or 128 and the number of the signal; -1 when it is not known."""
    time: MicroTime
    reason: ShortText = ""


class ContainerStatus(ApiModel):
    """What the agent says of the container."""

    id: ShortText = ""
    order_digest: ShortText = ""
    """Of the order that the agent last accepted: what differs from it is ordered anew."""
    start_time: MicroTime | None = None
    """When its main process was started; a move does not change it."""
    restarts: Int32 = 0
    last_exit: LastExit | None = None


class CurrentMigration(ApiModel):
    """The ContainerMigration that is under way."""

    name: ObjectName
    step: ShortText = ""
    percent: Percent = 0
    """Never falls while the name stays the same; another attempt has another name."""


class LastMigration(ApiModel):
    """What the last finished move cost."""

    name: ObjectName
    from_: Annotated[ObjectName, Field(alias="from")]
    to: ObjectName
    strategy: Strategy
    blackout_milliseconds: Int32 | None = None
    """The time in which no copy of the container ran."""
    total_milliseconds: Int64 | None = None
    bytes: Int64 | None = None
    """What the source sent."""


class FencedCopy(ApiModel):
    """What a node had when it was fenced: it is destroyed once the node answers again."""

    node: ObjectName
    epoch: Int32
    """Of that copy, at the most: a later one is not meant."""


class PlacementStatus(ApiModel):
    """Observed; written by the operator alone."""

    conditions: Conditions = ()
    """Ready and Migratable always; Reconciling, Stalled and OwnerDisputed only while they are
    true."""
    observed_generation: Int64 = 0
    """The metadata.generation that this status speaks of."""
    phase: PlacementPhase | None = None
    reason: ShortText = ""
    """Of Stalled, else of Reconciling, else of Ready: for people, as phase."""
    node: ObjectName | None = None
    """Where the container is."""
    epoch: Int32 = 0
    """Counts the owners: 1 where it was started, one more with every move."""
    address: Address | None = None
    """The first of its addresses."""
    addresses: Annotated[tuple[Address, ...], Field(**list_atomic(max_items=2))] = ()
    """At most one of each IP family."""
    image_digest: ShortText | None = None
    """What the image's tag meant when the container was made."""
    container: ContainerStatus | None = None
    migration: CurrentMigration | None = None
    last_migration: LastMigration | None = None
    fenced_copies: Annotated[tuple[FencedCopy, ...], Field(**list_map("node", max_items=16))] = ()
    """On nodes that an administrator declared to run nothing any more."""
    cancelled_generation: Int64 | None = None
    """The generation whose move was cancelled by deleting its migration: it is not tried again."""

    @property
    def held_addresses(self) -> tuple[Address, ...]:
        """Also of a status that was written when there was only one."""
        return self.addresses or ((self.address,) if self.address is not None else ())


class ContainerPlacement(Resource):
    """Which node a container belongs on: editing spec.targetNode moves it, running."""

    spec: PlacementSpec
    status: PlacementStatus = PlacementStatus()
