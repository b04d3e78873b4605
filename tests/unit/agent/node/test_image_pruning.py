"""A node keeps the images that any of its containers was made from, or is being made from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from transship.agent.containers.instances import NodeInstances
from transship.agent.node.garbage_collection import NodeLeftovers
from transship.api.container import Container
from transship.common.errors import Refused
from transship.runtime import orders
from transship.runtime.containers import Runtime
from transship.runtime.image_store import Image, ImageStore
from transship.runtime.layout import Layout
from transship.runtime.orders import Order, Prepared

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(Runtime, "overlay_features", "")
    layout = Layout(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run")
    folder = layout.image_store / DIGEST.replace(":", "-")
    (folder / "rootfs").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return Runtime(layout, images=ImageStore(layout.image_store))


def prepare(runtime: Runtime, name: str) -> None:
    runtime.layout.container(name).mkdir(parents=True)
    prepared = Prepared(digest=DIGEST, stop_signal="SIGTERM", terminal=False, stdin=False)
    (runtime.layout.container(name) / "prepared.json").write_text(prepared.model_dump_json())


async def test_an_image_is_deleted_once_no_prepared_container_uses_it(runtime: Runtime) -> None:
    prepare(runtime, "c-1")
    assert await runtime.prune_images() == ()
    (runtime.layout.container("c-1") / "prepared.json").unlink()
    assert await runtime.prune_images(in_use={DIGEST}) == ()
    assert await runtime.prune_images() == (DIGEST,)


async def test_no_image_is_deleted_while_a_prepared_container_cannot_be_read(
    runtime: Runtime,
) -> None:
    prepare(runtime, "c-1")
    (runtime.layout.container("c-1") / "prepared.json").write_text("torn")
    with pytest.raises(ValueError, match="JSON"):
        await runtime.prune_images()
    assert runtime.images.find(DIGEST) is not None


async def test_a_container_that_is_being_prepared_keeps_its_image(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned: list[tuple[str, ...]] = []

    async def write(order: Order, *, image: Image, layout: Layout) -> Prepared:
        pruned.append(await runtime.prune_images())
        return Prepared(digest=image.digest, stop_signal="", terminal=False, stdin=False)

    monkeypatch.setattr(orders, "write", write)
    container = Container(image=f"quay.io/x@{DIGEST}")
    await runtime.prepare(Order(id="c-1", name="c-1", container=container))
    assert pruned == [()]
    assert await runtime.prune_images() == (DIGEST,)


async def test_no_image_is_deleted_while_an_unreadable_records_image_is_unknown(
    runtime: Runtime,
) -> None:
    leftovers = NodeLeftovers(cast(NodeInstances, SimpleNamespace(runtime=runtime)))
    with pytest.raises(Refused):
        await leftovers.prune_images(in_use=(), unreadable={"c-1"})
    prepare(runtime, "c-1")
    assert await leftovers.prune_images(in_use=(), unreadable={"c-1"}) == ()
