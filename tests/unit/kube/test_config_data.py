"""ConfigMaps and Secrets as bytes by key."""

from __future__ import annotations

from base64 import b64encode

import pytest

from fakes.api_server import FakeApiServer
from transship.common.errors import NotFound
from transship.kube.client import KubeClient
from transship.kube.config_data import Source, read_data

ROOT = "/api/v1/namespaces/shop"


@pytest.fixture
def client() -> KubeClient:
    encoded = b64encode(b"\xff\x00").decode()
    objects = {
        f"{ROOT}/configmaps/c": {"data": {"text": "ä"}, "binaryData": {"raw": encoded}},
        f"{ROOT}/secrets/s": {"data": {"password": encoded}},
        f"{ROOT}/secrets/empty": {},
    }
    return KubeClient(FakeApiServer(objects))


async def test_a_config_map_has_text_and_binary_keys(client: KubeClient) -> None:
    data = await read_data(client, Source.CONFIG_MAP, namespace="shop", name="c")
    assert data == {"text": "ä".encode(), "raw": b"\xff\x00"}


async def test_a_secrets_value_is_decoded(client: KubeClient) -> None:
    data = await read_data(client, Source.SECRET, namespace="shop", name="s")
    assert data == {"password": b"\xff\x00"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [(Source.CONFIG_MAP, "ConfigMapNotFound"), (Source.SECRET, "SecretNotFound")],
)
async def test_a_missing_object_says_of_which_kind(
    client: KubeClient, source: Source, reason: str
) -> None:
    with pytest.raises(NotFound) as missing:
        await read_data(client, source, namespace="shop", name="none")
    assert missing.value.reason == reason


async def test_an_empty_secret_has_no_keys(client: KubeClient) -> None:
    assert await read_data(client, Source.SECRET, namespace="shop", name="empty") == {}
