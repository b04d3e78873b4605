"""Requests to the API server, with a time limit. A failure is raised as a TransshipError.

The other modules of this package only know paths and models.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from transship.api.reasons import Reason
from transship.common.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    TransshipError,
    Unreachable,
)

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient, Configuration

# an abort must not wait for the library's default of 300 s
REQUEST_TIMEOUT_SECONDS = 10.0
# the storage of a kind is "(re)initializing" for about this long after the API server's start
BUSY_PAUSE_SECONDS = 0.5


class ContentType(StrEnum):
    JSON = "application/json"
    MERGE_PATCH = "application/merge-patch+json"
    APPLY_PATCH = "application/apply-patch+yaml"
    JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True)
class Request:
    """A request. doing: a gerund and its object, for the message of a failure."""

    method: str
    path: str
    doing: str
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    content_type: ContentType = ContentType.JSON


class ApiServer(Protocol):
    """Answers requests. Tests replace it by a small API server in memory."""

    async def send(self, request: Request) -> dict[str, Any]:
        """Send once. A request that fails as Unreachable may have been carried out all the same."""
        ...

    async def close(self) -> None: ...


class Transport:
    """A pool of connections to a real API server."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> Transport:
        """Connect to the cluster of the given file, $KUBECONFIG, the Pod, or ~/.kube/config."""
        from kubernetes.aio.client import ApiClient, Configuration  # noqa: PLC0415

        configuration = Configuration()
        await _load(configuration, kubeconfig)
        return cls(ApiClient(configuration))

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    async def send(self, request: Request) -> dict[str, Any]:
        from aiohttp import ClientError  # noqa: PLC0415

        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                status, text = await self._exchange(request)
                # the request was not carried out: it is safe to repeat it
                while status == HTTPStatus.TOO_MANY_REQUESTS:
                    await asyncio.sleep(BUSY_PAUSE_SECONDS)
                    status, text = await self._exchange(request)
        except TimeoutError as e:
            raise Unreachable(
                f"{request.doing}: no answer from the API server in {REQUEST_TIMEOUT_SECONDS:g} s",
                reason=Reason.API_SERVER_UNREACHABLE,
            ) from e
        except (ClientError, OSError) as e:
            raise Unreachable(f"{request.doing}: {e}", reason=Reason.API_SERVER_UNREACHABLE) from e
        answer = _document(text)
        if 200 <= status < 300:
            return answer
        raise failure(status, answer, doing=request.doing)

    async def _exchange(self, request: Request) -> tuple[int, str]:
        query = f"?{urlencode(request.query)}" if request.query else ""
        method, url, headers, body, _ = await self._api.param_serialize(
            request.method,
            request.path,
            header_params={"Accept": "application/json", "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        response = await self._api.call_api(method, url + query, headers, body)
        content: bytes = await response.read()  # type: ignore[no-untyped-call]
        return response.status, content.decode(errors="replace")


def failure(status: int, answer: Mapping[str, Any], *, doing: str) -> TransshipError:
    """Return the error for an HTTP status. The API server's own message names field and value."""
    message = f"{doing}: {answer.get('message') or f'HTTP status {status}'}"
    reason = answer.get("reason")
    match status:
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message, reason=reason)
        case 400 | 422:
            return InvalidInput(message)
        case 401:
            return Refused(message, reason=Reason.UNAUTHORIZED)
        case 403:
            return Refused(message, reason=Reason.FORBIDDEN)
        # 5xx: overloaded, starting, or a webhook of the cluster does not answer
        case _:
            return Unreachable(message, reason=Reason.API_SERVER_UNAVAILABLE)


def _document(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    # a proxy or the health handler answers with plain text
    except ValueError:
        return {"message": text.strip()[:500]}
    return answer if isinstance(answer, dict) else {}


async def _load(configuration: Configuration, kubeconfig: Path | None) -> None:
    from kubernetes.aio import config  # noqa: PLC0415

    try:
        source = _kubeconfig(kubeconfig)
        if source is not None:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=source, client_configuration=configuration, persist_config=False
            )
        else:
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    # RuntimeError: there is no home directory
    except (config.ConfigException, OSError, RuntimeError) as e:
        raise InvalidInput(
            f"reading the cluster's address and credentials: {e}",
            reason=Reason.NO_CLUSTER,
            hint="set KUBECONFIG, or give --kubeconfig FILE",
        ) from e


def _kubeconfig(given: Path | None) -> str | None:
    """Return the file to read, or None if the Pod's service account is to be used."""
    if given is not None:
        return str(given)
    if named := os.environ.get("KUBECONFIG"):
        return named
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    return str(Path.home() / ".kube" / "config")
