"""Addresses are taken from a pool and returned, each to one placement only."""

from __future__ import annotations

import asyncio

import pytest

from fakes.cluster import FakeCluster
from fakes.resources import NOW, placement
from transship.api.address_pool import AddressPool
from transship.common.errors import (
    InvalidInput,
    NotFound,
)
from transship.controller.addresses.claims import AddressBook


class TestAddressBook:
    def cluster(self) -> FakeCluster:
        cluster = FakeCluster()
        pool = {"metadata": {"name": "default"}, "spec": {"cidr": "10.0.0.0/29"}}
        cluster.put(AddressPool.model_validate(pool))
        return cluster

    async def test_two_operators_never_give_out_the_same_address(self) -> None:
        cluster = self.cluster()
        books = [AddressBook(cluster), AddressBook(cluster)]
        wanted = [placement(f"web-{n}", uid=f"uid-{n}") for n in range(6)]
        given = await asyncio.gather(*(books[n % 2].take(p) for n, p in enumerate(wanted)))
        assert len(set(given)) == 6

    async def test_what_is_given_back_can_be_taken_again(self) -> None:
        book = AddressBook(self.cluster())
        assert await book.take(placement()) == ("10.0.0.1",)
        await book.give_back(placement())
        await book.give_back(placement())
        assert await book.take(placement(uid="another")) == ("10.0.0.1",)

    async def test_a_missing_pool_is_named(self) -> None:
        book = AddressBook(FakeCluster())
        with pytest.raises(NotFound) as caught:
            await book.take(placement(network={"addressPool": "blue"}))
        assert caught.value.reason == "PoolNotFound"
        await book.give_back(placement(network={"addressPool": "blue"}))

    async def test_the_size_is_written_before_the_first_allocation(self) -> None:
        cluster = self.cluster()
        cluster.put(*cluster.all(AddressPool), generation=1)
        await AddressBook(cluster).update_sizes(now=NOW)
        assert cluster.all(AddressPool)[0].status.size == 6

    async def test_a_pool_whose_status_cannot_be_written_keeps_no_other_from_its_own(self) -> None:
        cluster = self.cluster()
        another = {"metadata": {"name": "another"}, "spec": {"cidr": "10.0.1.0/29"}}
        cluster.put(AddressPool.model_validate(another))
        for pool in cluster.all(AddressPool):
            cluster.put(pool, generation=1)
        cluster.failing["apply_status default"] = InvalidInput("status: invalid")
        await AddressBook(cluster).update_sizes(now=NOW)
        sizes = {pool.metadata.name: pool.status.size for pool in cluster.all(AddressPool)}
        assert sizes["another"] == 6
