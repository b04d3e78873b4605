from __future__ import annotations

from pathlib import Path

import pytest

from transship.api.container import Container
from transship.common.errors import NotFound
from transship.runtime import orders
from transship.runtime.layout import Layout
from transship.runtime.orders import Order


def order(**fields: object) -> Order:
    container = Container.model_validate({"image": "x", **fields})
    return Order(id="id", name="name", container=container, addresses=("10.0.0.1",))


def test_the_host_name_is_the_placements_unless_set() -> None:
    assert order().hostname == "name"
    assert order(hostname="other").hostname == "other"


def test_a_long_name_becomes_a_valid_host_name() -> None:
    long = Order(id="id", name="a" * 62 + ".b", container=Container(image="x"))
    assert long.hostname == "a" * 62


def test_the_hosts_file_names_the_container() -> None:
    assert orders.hosts(order()).splitlines()[-1] == "10.0.0.1 name"
    assert orders.hosts(order()).startswith("127.0.0.1 localhost\n")


def test_what_was_not_prepared_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        orders.load(Layout(tmp_path, tmp_path), "id")


def test_everything_that_moves_lies_below_the_containers_directory() -> None:
    layout = Layout(Path("/state"), Path("/run/x"))
    home = layout.container("id")
    for path in (layout.upper("id"), layout.etc("id"), layout.volumes("id"), layout.shm("id")):
        assert path.parent == home
