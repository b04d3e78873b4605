"""Which address a placement gets from a pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.resources import NOW
from transship.api.address_pool import AddressPool
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, Refused, TransshipError
from transship.plan.addresses import (
    Claimant,
    allocate,
    observed,
    size_of,
    with_allocation,
    without_allocation,
)


def pool(cidr: str = "10.0.0.0/29", *excluded: str) -> AddressPool:
    return AddressPool.model_validate(
        {"metadata": {"name": "default"}, "spec": {"cidr": cidr, "excluded": excluded}}
    )


def who(number: int, requested: str | None = None) -> Claimant:
    return Claimant("default", f"web-{number}", f"uid-{number}", requested)


def take(present: AddressPool, claimant: Claimant) -> tuple[AddressPool, str]:
    granted = allocate(present, claimant)
    return present.model_copy(update={"status": with_allocation(present, granted)}), granted.address


def test_the_lowest_free_address_is_given_and_network_and_broadcast_are_not() -> None:
    present, given_out = pool(), []
    for number in range(6):
        present, address = take(present, who(number))
        given_out.append(address)
    assert given_out == [f"10.0.0.{n}" for n in range(1, 7)]
    with pytest.raises(Refused) as caught:
        allocate(present, who(6))
    assert caught.value.reason == Reason.POOL_EXHAUSTED


def test_asking_again_gives_the_same_address() -> None:
    present, first = take(pool(), who(1))
    assert take(present, who(1)) == (present, first)


def test_excluded_addresses_are_never_given_out() -> None:
    assert take(pool("10.0.0.0/29", "10.0.0.1", "10.0.0.2"), who(1))[1] == "10.0.0.3"


def test_a_requested_address_is_given_to_one_only() -> None:
    present, address = take(pool(), who(1, "10.0.0.4"))
    assert address == "10.0.0.4"
    with pytest.raises(Refused) as caught:
        allocate(present, who(2, "10.0.0.4"))
    assert caught.value.reason == Reason.ADDRESS_TAKEN
    assert "default/web-1" in caught.value.message


@pytest.mark.parametrize("wish", ["10.0.1.1", "10.0.0.0", "10.0.0.7", "10.0.0.2", "web"])
def test_an_address_that_the_pool_does_not_have_is_refused(wish: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        allocate(pool("10.0.0.0/29", "10.0.0.2"), who(1, wish))
    assert caught.value.reason == Reason.ADDRESS_NOT_IN_POOL
    assert wish in caught.value.message


def test_a_pool_that_is_no_network_says_so() -> None:
    with pytest.raises(InvalidInput) as caught:
        allocate(pool("10.0.0.1/29"), who(1))
    assert caught.value.reason == Reason.INVALID_CIDR


def test_the_counts_are_kept() -> None:
    present, _ = take(pool("10.0.0.0/29", "10.0.0.1", "10.0.0.200"), who(1))
    assert (present.status.size, present.status.allocated) == (5, 1)
    assert without_allocation(present, uid="uid-1").allocated == 0
    assert size_of(pool("10.0.0.0/31")) == 2


def test_a_pool_says_whether_it_can_give_out_addresses() -> None:
    good, bad = observed(pool(), now=NOW), observed(pool("10.0.0.1/29"), now=NOW)
    assert (good.size, good.conditions[0].status) == (6, "True")
    assert (bad.size, bad.conditions[0].reason) == (0, Reason.INVALID_CIDR)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40))
def test_no_two_placements_ever_hold_the_same_address(
    changes: list[tuple[int, bool]],
) -> None:
    present = pool()
    for number, takes in changes:
        if takes:
            try:
                present, _ = take(present, who(number))
            except TransshipError:
                assert present.status.allocated == 6
        else:
            status = without_allocation(present, uid=f"uid-{number}")
            present = present.model_copy(update={"status": status})
        held = [a.address for a in present.status.allocations]
        assert len(set(held)) == len(held) == present.status.allocated
        assert len({a.uid for a in present.status.allocations}) == len(held)
