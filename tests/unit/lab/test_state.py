from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from transship.common.errors import DeadlineExceeded, InvalidInput, NotFound, TransshipError
from transship.lab.state import (
    Cut,
    LabState,
    all_states,
    find_state,
    free_index,
    lab_dir,
    load_state,
    locked,
    node_names,
    nth_network,
    save_state,
)


@pytest.fixture
def state() -> LabState:
    return LabState(name="lab", index=3, nodes=("node-a", "node-b"))


def test_every_host_has_an_address_of_its_own(state: LabState) -> None:
    addresses = [state.address(host) for host in state.hosts]
    assert addresses == [IPv4Address(f"10.203.0.{n}") for n in (1, 2, 11, 12)]


def test_every_host_has_an_ipv6_address_that_no_other_lab_has(state: LabState) -> None:
    addresses = [state.address_v6(host) for host in state.hosts]
    assert addresses[2] == IPv6Address("fd54:7368:6970:3::b")
    assert len(set(addresses)) == 4
    assert state.containers_v6 == IPv6Network("fd54:7368:6970:3:8000::/65")
    assert all(address not in state.containers_v6 for address in addresses)


def test_hardware_addresses_differ_between_hosts_and_between_labs(state: LabState) -> None:
    other = state.model_copy(update={"index": 4})
    found = {lab.mac(host) for lab in (state, other) for host in state.hosts}
    assert len(found) == 8


def test_containers_get_the_half_of_the_network_that_has_no_hosts(state: LabState) -> None:
    assert state.containers == IPv4Network("10.203.128.0/17")
    assert all(state.address(host) not in state.containers for host in state.hosts)


def test_a_stranger_has_no_address(state: LabState) -> None:
    with pytest.raises(NotFound, match="node-z"):
        state.address("node-z")


@pytest.mark.parametrize("name", ["lab", "a-much-longer-name-of-a-lab", "x" * 32])
def test_a_link_name_is_as_short_as_the_kernel_demands(state: LabState, name: str) -> None:
    assert len(state.model_copy(update={"name": name}).machine_link) <= 15


def test_link_names_of_labs_with_similar_long_names_differ(state: LabState) -> None:
    names = [f"a-long-common-beginning-{number}" for number in range(50)]
    links = {state.model_copy(update={"name": name}).machine_link for name in names}
    assert len(links) == 50


def test_nodes_are_named_by_letters() -> None:
    assert node_names(3) == ("node-a", "node-b", "node-c")


@pytest.mark.parametrize("count", [0, -1, 27])
def test_impossible_numbers_of_nodes_are_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 26"):
        node_names(count)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "a-", "Lab", "x" * 33, "a b", "a\n"])
def test_a_name_that_could_leave_the_directory_or_a_command_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        lab_dir(name)


def test_a_saved_state_is_read_back(tmp_path: Path, state: LabState) -> None:
    full = state.model_copy(
        update={"cuts": (Cut(source="node-a", target="operator"),), "image": Path("/image")}
    )
    save_state(tmp_path / "lab", full)
    assert load_state(tmp_path / "lab") == full


def test_a_lab_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    assert find_state(tmp_path / "lab") is None
    with pytest.raises(NotFound, match="lab up"):
        load_state(tmp_path / "lab")


def test_a_damaged_record_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/lab.json").write_text("{")
    with pytest.raises(TransshipError, match="damaged"):
        find_state(tmp_path / "lab")


def test_a_new_lab_takes_the_first_network_that_nobody_uses(
    tmp_path: Path, state: LabState
) -> None:
    save_state(tmp_path / "one", state.model_copy(update={"index": 0}))
    used = [IPv4Network("10.201.7.0/24"), IPv4Network("192.0.2.0/24")]
    assert free_index(tmp_path, used=used) == 2


def test_when_every_network_is_in_use_a_lab_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TransshipError, match="no free network"):
        free_index(tmp_path, used=[IPv4Network("10.0.0.0/8")])


def test_networks_follow_each_other_without_overlap() -> None:
    assert nth_network(0) == IPv4Network("10.200.0.0/16")
    assert nth_network(55) == IPv4Network("10.255.0.0/16")


def test_all_labs_are_found(tmp_path: Path, state: LabState) -> None:
    for name in ("one", "two"):
        save_state(tmp_path / name, state.model_copy(update={"name": name}))
    assert [found.name for found in all_states(tmp_path)] == ["one", "two"]


def test_two_commands_do_not_change_a_lab_at_the_same_time(tmp_path: Path) -> None:
    with locked(tmp_path / "lab"):
        with pytest.raises(DeadlineExceeded), locked(tmp_path / "lab", timeout_seconds=0):
            pass
        with locked(tmp_path / "other", timeout_seconds=0):
            pass
    with locked(tmp_path / "lab", timeout_seconds=0):
        assert not any(tmp_path.iterdir())
