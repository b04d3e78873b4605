"""Which address a placement gets from a pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.resources import NOW
from transship.api.address_pool import AddressPool
from transship.api.base import IPFamily
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, Refused, TransshipError
from transship.controller.addresses.allocation import (
    Claimant,
    allocate,
    observed_status,
    size_of,
    with_allocations,
    without_allocations,
)


def pool(cidr: str = "10.0.0.0/29", *excluded: str) -> AddressPool:
    return AddressPool.model_validate(
        {"metadata": {"name": "default"}, "spec": {"cidr": cidr, "excluded": excluded}}
    )


def dual(*cidrs: str, excluded: tuple[str, ...] = ()) -> AddressPool:
    return AddressPool.model_validate(
        {
            "metadata": {"name": "default"},
            "spec": {"cidrs": cidrs or ("10.0.0.0/29", "fd00::/126"), "excluded": excluded},
        }
    )


def who(number: int, *requested: str, families: tuple[IPFamily, ...] = ()) -> Claimant:
    return Claimant("default", f"web-{number}", f"uid-{number}", requested, families)


def take_all(present: AddressPool, claimant: Claimant) -> tuple[AddressPool, list[str]]:
    granted = allocate(present, claimant)
    status = with_allocations(present, granted)
    return present.model_copy(update={"status": status}), [each.address for each in granted]


def take(present: AddressPool, claimant: Claimant) -> tuple[AddressPool, str]:
    present, [address] = take_all(present, claimant)
    return present, address


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


def test_a_pool_without_a_valid_network_is_not_ready() -> None:
    with pytest.raises(InvalidInput) as caught:
        allocate(pool("10.0.0.1/29"), who(1))
    assert caught.value.reason == Reason.INVALID_CIDR


def test_a_pool_of_ipv6_gives_out_all_but_the_routers_anycast_address() -> None:
    present, given_out = pool("fd00::/126"), []
    for number in range(3):
        present, address = take(present, who(number))
        given_out.append(address)
    assert given_out == ["fd00::1", "fd00::2", "fd00::3"]
    with pytest.raises(Refused) as caught:
        allocate(present, who(3))
    assert caught.value.reason == Reason.POOL_EXHAUSTED
    assert size_of(present) == 3


def test_a_large_ipv6_pool_is_quick_to_count_and_to_give() -> None:
    present = pool("fd00::/64", "fd00::1", "FD00::2")
    assert take(present, who(1))[1] == "fd00::3"
    assert size_of(present) == 2**31 - 1


def test_a_pool_of_both_ip_families_gives_an_address_of_each_in_its_order() -> None:
    present, addresses = take_all(dual(), who(1))
    assert addresses == ["10.0.0.1", "fd00::1"]
    assert take_all(present, who(1))[1] == addresses
    assert take_all(dual("fd00::/126", "10.0.0.0/29"), who(1))[1] == ["fd00::1", "10.0.0.1"]
    assert (present.status.size, present.status.allocated) == (9, 2)
    assert without_allocations(present, uid="uid-1").allocations == ()


def test_the_placement_says_which_ip_families_and_in_which_order() -> None:
    v4, v6 = IPFamily.IPV4, IPFamily.IPV6
    assert take_all(dual(), who(1, families=(v6,)))[1] == ["fd00::1"]
    claimant = who(1, families=(v6, v4))
    present, addresses = take_all(dual(), claimant)
    assert addresses == ["fd00::1", "10.0.0.1"]
    assert take_all(present, claimant)[1] == addresses
    with pytest.raises(InvalidInput) as caught:
        allocate(pool(), who(1, families=(v4, v6)))
    assert caught.value.reason == Reason.IP_FAMILY_NOT_IN_POOL


def test_where_one_ip_family_is_exhausted_nothing_is_taken_of_the_other() -> None:
    present = dual()
    for number in range(3):
        present, _ = take_all(present, who(number))
    with pytest.raises(Refused) as caught:
        allocate(present, who(3))
    assert caught.value.reason == Reason.POOL_EXHAUSTED
    assert "fd00::/126" in caught.value.message
    assert take_all(present, who(3, families=(IPFamily.IPV4,)))[1] == ["10.0.0.4"]


def test_requested_addresses_are_given_whichever_way_they_are_written() -> None:
    assert take_all(dual(), who(1, "FD00:0::2"))[1] == ["10.0.0.1", "fd00::2"]
    present, addresses = take_all(dual(), who(1, "fd00::3", "10.0.0.4"))
    assert addresses == ["10.0.0.4", "fd00::3"]
    with pytest.raises(Refused) as caught:
        allocate(present, who(2, "FD00::3"))
    assert caught.value.reason == Reason.ADDRESS_TAKEN
    with pytest.raises(InvalidInput) as refused:
        allocate(dual(), who(1, "fd00::2", families=(IPFamily.IPV4,)))
    assert refused.value.reason == Reason.ADDRESS_NOT_IN_POOL


def test_the_counts_are_kept() -> None:
    present, _ = take(pool("10.0.0.0/29", "10.0.0.1", "10.0.0.200"), who(1))
    assert (present.status.size, present.status.allocated) == (5, 1)
    assert without_allocations(present, uid="uid-1").allocated == 0
    assert size_of(pool("10.0.0.0/31")) == 2


def test_a_pool_says_whether_it_can_give_out_addresses() -> None:
    good, bad = observed_status(pool(), now=NOW), observed_status(pool("10.0.0.1/29"), now=NOW)
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
            status = without_allocations(present, uid=f"uid-{number}")
            present = present.model_copy(update={"status": status})
        held = [a.address for a in present.status.allocations]
        assert len(set(held)) == len(held) == present.status.allocated
        assert len({a.uid for a in present.status.allocations}) == len(held)
