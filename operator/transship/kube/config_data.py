"""ConfigMaps and Secrets. They are read when a container starts, and never listed or logged."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from enum import StrEnum

from transship.api.reasons import Reason
from transship.common.errors import NotFound
from transship.kube.client import KubeClient
from transship.kube.paths import path
from transship.kube.transport import Request


class Source(StrEnum):
    """The built-in kinds with data for containers, by their plural names."""

    CONFIG_MAP = "configmaps"
    SECRET = "secrets"  # noqa: S105

    @property
    def kind(self) -> str:
        return "ConfigMap" if self is Source.CONFIG_MAP else "Secret"

    @property
    def missing(self) -> Reason:
        absent = {
            self.CONFIG_MAP: Reason.CONFIG_MAP_NOT_FOUND,
            self.SECRET: Reason.SECRET_NOT_FOUND,
        }
        return absent[self]


async def read_data(
    client: KubeClient, source: Source, *, namespace: str, name: str
) -> Mapping[str, bytes]:
    """Return all keys and their contents.

    Raises NotFound with the reason ConfigMapNotFound or SecretNotFound.
    """
    asked = path("/api/v1", source, namespace=namespace, name=name)
    doing = f"reading {source.kind} {namespace}/{name}"
    try:
        document = await client.transport.send(Request("GET", asked, doing))
    except NotFound as e:
        raise NotFound(e.message, reason=source.missing) from e
    data, binary = document.get("data") or {}, document.get("binaryData") or {}
    if source is Source.SECRET:
        return {key: b64decode(value) for key, value in data.items()}
    text = {key: value.encode() for key, value in data.items()}
    return text | {key: b64decode(value) for key, value in binary.items()}
