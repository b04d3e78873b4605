"""References of a spec become plain values in the order."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.cluster import FakeData
from fakes.resources import UID, placement
from transship.agentapi.containers import ContainerOrder
from transship.api.container import Volume
from transship.api.placement import PlacementStatus
from transship.common.errors import (
    InvalidInput,
    NotFound,
)
from transship.controller.placement.resolver import Resolver
from transship.controller.ports import DataKind


class TestResolver:
    async def order(self, data: FakeData, **spec: Any) -> ContainerOrder:
        made = placement(**spec)
        status = PlacementStatus(address="10.0.0.5")
        return await Resolver(data).order(made, status, node="node-a", epoch=1)

    async def test_files_of_volumes_carry_their_contents(self) -> None:
        data = FakeData()
        data.contents[DataKind.SECRET, "keys"] = {"a.pem": b"\x00\xff", "b.pem": b"b"}
        volumes = [
            {"name": "all", "secret": {"secretName": "keys"}},
            {"name": "one", "secret": {"secretName": "keys",
                                       "items": [{"key": "b.pem", "path": "x/b"}]}},
            {"name": "none", "emptyDir": {}},
        ]  # fmt: skip
        order = await self.order(data, volumes=volumes)
        files = {v.volume.name: {f.path: f.content for f in v.files} for v in order.volumes}
        assert files == {
            "all": {"a.pem": b"\x00\xff", "b.pem": b"b"}, "one": {"x/b": b"b"}, "none": {}
        }  # fmt: skip
        assert isinstance(order.volumes[0].volume, Volume)

    async def test_fields_of_the_placement_are_known_by_their_pod_names(self) -> None:
        wanted = ("metadata.name", "metadata.namespace", "metadata.uid", "status.podIP")
        env = [
            {"name": f"V{n}", "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for n, path in enumerate(wanted)
        ]
        order = await self.order(FakeData(), container={"image": "web", "env": env})
        values = [variable.value for variable in order.container.env]
        assert values == ["web", "default", UID, "10.0.0.5"]

    async def test_the_error_for_an_unknown_field_lists_the_known_ones(self) -> None:
        env = [{"name": "V", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]
        with pytest.raises(InvalidInput) as caught:
            await self.order(FakeData(), container={"image": "web", "env": env})
        assert "spec.nodeName" in caught.value.message

    async def test_only_texts_of_the_spec_are_expanded_and_only_once(self) -> None:
        data = FakeData()
        data.contents[DataKind.SECRET, "login"] = {"word": b"pa$$word$(USER)"}
        secret = {"secretKeyRef": {"name": "login", "key": "word"}}
        env = [
            {"name": "USER", "value": "me"},
            {"name": "WORD", "valueFrom": secret},
            {"name": "LINE", "value": "$(USER):$(WORD)"},
        ]
        args = ["$(LINE)", "$$(USER)", "$(PATH)", "$(HOSTNAME)"]
        order = await self.order(data, container={"image": "web", "env": env, "args": args})
        values = {variable.name: variable.value for variable in order.container.env}
        assert values == {
            "USER": "me", "WORD": "pa$$word$(USER)", "LINE": "me:pa$$word$(USER)"
        }  # fmt: skip
        assert order.container.args == (
            "me:pa$$word$(USER)", "$(USER)", "$(PATH)", "$(HOSTNAME)"
        )  # fmt: skip

    async def test_a_missing_key_is_named_unless_it_is_optional(self) -> None:
        data = FakeData()
        data.contents[DataKind.CONFIG_MAP, "words"] = {"hello": b"x"}

        def env(**more: Any) -> dict[str, Any]:
            ref = {"name": "words", "key": "bye", **more}
            return {"image": "web", "env": [{"name": "V", "valueFrom": {"configMapKeyRef": ref}}]}

        with pytest.raises(NotFound) as caught:
            await self.order(data, container=env())
        assert caught.value.hint == "its keys are hello"
        order = await self.order(data, container=env(optional=True))
        assert order.container.env == ()
