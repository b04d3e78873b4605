"""How answers of the API server become our errors; where the cluster's address comes from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from transship.common.errors import Conflict, InvalidInput, NotFound, Refused, Unreachable
from transship.kube.transport import Request, Transport, failure

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


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


def test_a_conflict_says_which() -> None:
    assert failure(409, {"reason": "AlreadyExists"}, doing="").reason == "AlreadyExists"


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    transport = await Transport.connect(kubeconfig)
    try:
        with pytest.raises(Unreachable, match="reading x") as error:
            await transport.send(Request("GET", "/api", "reading x"))
    finally:
        await transport.close()
    assert error.value.reason == "APIServerUnreachable"


async def test_the_environment_names_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
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
