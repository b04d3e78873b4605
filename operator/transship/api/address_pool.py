"""AddressPool: the addresses that placements get and keep."""

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
                "isCIDR(self) && cidr(self).ip().family() == 4 && cidr(self) == cidr(self).masked()"
                " && cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 30",
                "must be an IPv4 network between /8 and /30 whose host bits are zero, such as"
                " 10.200.128.0/17",
            )
        ),
    ),
]


class AddressPoolSpec(ApiModel):
    """A network that is on-link for the nodes, and what of it is not given out."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.excluded) || !isCIDR(self.cidr) ||"
                " self.excluded.all(a, isIP(a) && cidr(self.cidr).containsIP(a))",
                "excluded must list addresses inside cidr, such as 10.200.128.1 of 10.200.128.0/17",
            )
        )
    )

    cidr: Cidr
    """The IPv4 network. Its network and broadcast addresses are never given out. May only change
    while no address is allocated."""

    excluded: Annotated[tuple[Address, ...], Field(**list_atomic(max_items=1024))] = ()
    """Addresses that are never given out, for instance a router's."""


class Allocation(ApiModel):
    """An address and the placement that holds it until it is deleted."""

    address: Address
    namespace: ObjectName
    name: ObjectName
    uid: ShortText


class AddressPoolStatus(ApiModel):
    """Written with a resourceVersion check only: two placements never get the same address."""

    conditions: Conditions = ()

    observed_generation: Int64 = 0
    """The metadata.generation that this status speaks of."""

    size: Int32 = 0
    """How many addresses the pool can give out."""

    allocated: Int32 = 0
    """How many of them are taken."""

    allocations: Annotated[
        tuple[Allocation, ...], Field(**list_map("address", max_items=8192))
    ] = ()
    """Who holds which address."""


class AddressPool(Resource):
    """Addresses for placements; one named "default" is used where a placement names none."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.spec.cidr == oldSelf.spec.cidr || !has(self.status)"
                " || !has(self.status.allocated) || self.status.allocated == 0",
                "spec.cidr must not change while addresses are allocated: create another pool, or"
                " delete the placements that kubectl get placements shows with an address of it",
            )
        )
    )

    spec: AddressPoolSpec
    status: AddressPoolStatus = AddressPoolStatus()
