"""How answers of the API server become our errors; where the cluster's address comes from."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from transship.common.errors import Conflict, InvalidInput, NotFound, Refused, Unreachable
from transship.kube.transport import ContentType, Request, Transport, failure

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def kubeconfig(folder: Path, *, server: str = "http://127.0.0.1:9") -> Path:
    """The port 9 is nobody's."""
    path = folder / "kubeconfig"
    path.write_text(f"""\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{server}"}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
""")
    return path


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Callable[[Handler], Awaitable[Transport]]]:
    """Serve a handler on a free port, and connect to it."""
    async with AsyncExitStack() as stack:

        async def serve(handler: Handler) -> Transport:
            server = await stack.enter_async_context(RawTestServer(handler))
            transport = await Transport.connect(
                kubeconfig(tmp_path, server=str(server.make_url("")))
            )
            stack.push_async_callback(transport.close)
            return transport

        yield serve


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (400, "BadRequest", InvalidInput),
        (401, "Unauthorized", Refused),
        (403, "Forbidden", Refused),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", Conflict),
        (422, "Invalid", InvalidInput),
        (429, "TooManyRequests", Unreachable),
        (500, "InternalError", Unreachable),
        (503, None, Unreachable),
    ],
)
def test_an_answer_becomes_an_error_that_keeps_its_words(
    status: int, reason: str | None, expected: type[Exception]
) -> None:
    error = failure(status, {"message": "words", "reason": reason}, doing="reading x")
    assert type(error) is expected
    assert str(error) == "reading x: words"


def test_an_answer_without_words_tells_its_status() -> None:
    assert str(failure(502, {}, doing="reading x")) == "reading x: HTTP status 502"


@pytest.mark.parametrize(("status", "reason"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_a_refusal_without_a_reason_gets_its_own(status: int, reason: str) -> None:
    assert failure(status, {}, doing="").reason == reason


def test_a_conflict_says_which() -> None:
    assert failure(409, {"reason": "AlreadyExists"}, doing="").reason == "AlreadyExists"


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    transport = await Transport.connect(kubeconfig(tmp_path))
    try:
        with pytest.raises(Unreachable, match="reading x") as error:
            await transport.send(Request("GET", "/api", "reading x"))
    finally:
        await transport.close()
    assert error.value.reason == "APIServerUnreachable"


async def test_a_request_carries_query_body_and_type(
    served: Callable[[Handler], Awaitable[Transport]],
) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(
            {
                "method": request.method,
                "path": str(request.rel_url),
                "type": request.content_type,
                "body": await request.json(),
            }
        )

    transport = await served(handler)
    request = Request(
        "PATCH", "/a/b", "changing b", query={"force": "true"}, body={"x": 1},
        content_type=ContentType.APPLY_PATCH,
    )  # fmt: skip
    assert await transport.send(request) == {
        "method": "PATCH",
        "path": "/a/b?force=true",
        "type": "application/apply-patch+yaml",
        "body": {"x": 1},
    }


async def test_a_server_that_is_still_starting_is_asked_again(
    served: Callable[[Handler], Awaitable[Transport]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transship.kube.transport.BUSY_PAUSE_SECONDS", 0.01)
    answers = iter([429, 429, 200])

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"done": True}, status=next(answers))

    transport = await served(handler)
    assert await transport.send(Request("GET", "/x", "reading x")) == {"done": True}


async def test_an_answer_that_does_not_come_is_unreachable(
    served: Callable[[Handler], Awaitable[Transport]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transship.kube.transport.REQUEST_TIMEOUT_SECONDS", 0.1)
    never = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    transport = await served(handler)
    with pytest.raises(Unreachable, match="no answer from the API server in"):
        await transport.send(Request("GET", "/x", "reading x"))
    never.set()


async def test_plain_text_of_a_proxy_is_told(
    served: Callable[[Handler], Awaitable[Transport]],
) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="no upstream", status=502)

    transport = await served(handler)
    with pytest.raises(Unreachable, match="reading x: no upstream"):
        await transport.send(Request("GET", "/x", "reading x"))


async def test_the_environment_names_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path)))
    transport = await Transport.connect(None)
    await transport.close()


async def test_no_cluster_at_all_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InvalidInput) as error:
        await Transport.connect(None)
    assert error.value.reason == "NoCluster"
    assert "KUBECONFIG" in error.value.hint


def test_the_client_library_is_not_imported_before_a_cluster_is_asked() -> None:
    modules = ("client", "config_data", "events", "leases")
    imports = "; ".join(f"import transship.kube.{module}" for module in modules)
    check = f"import sys; {imports}; sys.exit('kubernetes' in sys.modules)"
    paths = [path for path in sys.path if path.endswith("operator")]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {check}"], check=True
    )
