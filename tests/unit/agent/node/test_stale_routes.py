from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.orders import order
from transship.agent.journal import transitions
from transship.agent.journal.store import Journal
from transship.agent.node.stale_routes import KEPT_SECONDS, StaleRoutes
from transship.common.errors import Refused
from transship.network import Address, ContainerNetwork
from transship.network.container_network import Forward

LEFT = Forward(ip_address("10.200.128.1"), ip_address("10.200.0.12"))


class Network(ContainerNetwork):
    """Forwarding routes as the kernel has them."""

    def __init__(self) -> None:
        self.kept = [LEFT]
        self.refused: set[Address] = set()

    def forwards(self) -> tuple[Forward, ...]:
        return tuple(self.kept)

    def forget_forward(self, addresses: Sequence[Address]) -> None:
        if self.refused.intersection(addresses):
            raise Refused("the kernel refuses it")
        self.kept = [forward for forward in self.kept if forward.address not in addresses]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path, boot="b")
    made.load()
    return made


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def forwards(network: Network, journal: Journal, clock: FakeClock) -> StaleRoutes:
    return StaleRoutes(network, journal=journal, clock=clock)


def test_a_route_is_kept_for_a_while_and_then_removed(
    forwards: StaleRoutes, network: Network, clock: FakeClock
) -> None:
    forwards.sweep(network.forwards())
    clock.pass_time(KEPT_SECONDS - 1)
    forwards.sweep(network.forwards())
    assert network.kept == [LEFT]
    clock.pass_time(1)
    forwards.sweep(network.forwards())
    assert network.kept == []


def test_a_route_is_kept_while_the_journal_has_the_container(
    forwards: StaleRoutes, network: Network, journal: Journal, clock: FakeClock
) -> None:
    record = journal.put(transitions.ordered(None, order(), boot="b"))
    for _ in range(2):
        forwards.sweep(network.forwards())
        clock.pass_time(10 * KEPT_SECONDS)
    assert network.kept == [LEFT]
    journal.remove(record.id)
    forwards.sweep(network.forwards())
    assert network.kept == [LEFT]  # its time begins only now


def test_a_route_that_was_set_again_is_kept_for_the_whole_time(
    forwards: StaleRoutes, network: Network, clock: FakeClock
) -> None:
    forwards.sweep(network.forwards())
    network.kept = []
    forwards.sweep(network.forwards())
    clock.pass_time(KEPT_SECONDS)
    network.kept = [LEFT]
    forwards.sweep(network.forwards())
    assert network.kept == [LEFT]


def test_a_route_that_cannot_be_removed_stops_no_other_removal(
    forwards: StaleRoutes, network: Network, clock: FakeClock
) -> None:
    another = Forward(ip_address("10.200.128.2"), ip_address("10.200.0.12"))
    network.kept = [LEFT, another]
    network.refused = {LEFT.address}
    forwards.sweep(network.forwards())
    clock.pass_time(KEPT_SECONDS)
    forwards.sweep(network.forwards())
    assert network.kept == [LEFT]
