"""AddressPool: the addresses that are allocated to placements."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import (
    Address,
    ApiModel,
    Int32,
    Int64,
    ObjectName,
    Resource,
    ShortText,
    list_atomic,
    list_map,
    rule,
    rules,
)
from transship.api.conditions import Conditions

Cidr = Annotated[
    str,
    Field(
        max_length=49,
        json_schema_extra=rules(
            rule(
                "isCIDR(self) && cidr(self) == cidr(self).masked()"
                " && (cidr(self).ip().family() == 4"
                " ? cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 30"
                " : cidr(self).prefixLength() >= 48 && cidr(self).prefixLength() <= 126)",
                "must be an IPv4 network between /8 and /30 or an IPv6 network between /48 and /126"
                " whose host bits are zero, such as 10.200.128.0/17 or fd00:200:0:1::/64",
            )
        ),
    ),
]
NETWORKS = "(has({0}.cidr) ? [{0}.cidr] : {0}.cidrs)"


class AddressPoolSpec(ApiModel):
    """Networks that are on-link for the nodes, and addresses in them that are not given out."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.cidr) != has(self.cidrs)",
                "must have exactly one of cidr and cidrs: cidrs is for a pool of both IP families",
            ),
            rule(
                "!has(self.cidrs) || size(self.cidrs) < 2 || !self.cidrs.all(c, isCIDR(c)) ||"
                " cidr(self.cidrs[0]).ip().family() != cidr(self.cidrs[1]).ip().family()",
                "cidrs must have at most one network of each IP family, such as"
                " [10.200.128.0/17, fd00:200:0:1::/64]",
            ),
            rule(
                "!has(self.excluded) || has(self.cidr) == has(self.cidrs) ||"
                f" !{NETWORKS.format('self')}.all(c, isCIDR(c)) || self.excluded.all(a, isIP(a) &&"
                f" {NETWORKS.format('self')}.exists(c, cidr(c).containsIP(a)))",
                "excluded must list addresses inside cidr, such as 10.200.128.1 of 10.200.128.0/17",
            ),
        )
    )

    cidr: Cidr | None = None
    """The network of a pool of one IP family. Its network and broadcast addresses are never given
    out (of an IPv6 network: the first address). Networks may change only while no address is
    allocated. A network of the other IP family can always be added."""

    cidrs: Annotated[tuple[Cidr, ...], Field(min_length=1, **list_atomic(max_items=2))] | None = (
        None
    )
    """One network of each IP family. Use it instead of cidr. A placement gets an address of each
    (see spec.network.ipFamilies of a placement), and its status.address is the first."""

    excluded: Annotated[tuple[Address, ...], Field(**list_atomic(max_items=1024))] = ()
    """Addresses that are never given out, for instance that of a router."""

    @property
    def networks(self) -> tuple[str, ...]:
        return self.cidrs or ((self.cidr,) if self.cidr is not None else ())


class Allocation(ApiModel):
    """An address and the placement that has it. It is free again when the placement is deleted."""

    address: Address
    namespace: ObjectName
    name: ObjectName
    uid: ShortText


class AddressPoolStatus(ApiModel):
    """The observed state. It is written with a resourceVersion check: no address is given twice."""

    conditions: Conditions = ()

    observed_generation: Int64 = 0
    """The metadata.generation to which this status belongs."""

    size: Int32 = 0
    """The number of addresses that the pool can give out, at most 2147483647."""

    allocated: Int32 = 0
    """The number of addresses that are allocated."""

    allocations: Annotated[
        tuple[Allocation, ...], Field(**list_map("address", max_items=8192))
    ] = ()
    """The allocated addresses and their placements."""


class AddressPool(Resource):
    """Addresses for placements. The pool named "default" is used where a placement names none."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.status) || !has(self.status.allocated) || self.status.allocated == 0 ||"
                " has(self.spec.cidr) == has(self.spec.cidrs) ||"
                f" {NETWORKS.format('oldSelf.spec')}.all(c,"
                f" c in {NETWORKS.format('self.spec')})",
                "spec.cidr must not change while addresses are allocated: create another pool, or"
                " delete the placements that kubectl get placements shows with an address of it",
            )
        )
    )

    spec: AddressPoolSpec
    status: AddressPoolStatus = AddressPoolStatus()
