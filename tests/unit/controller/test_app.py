"""The operator as a process: what it says of itself, and how it ends."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
from dataclasses import replace
from pathlib import Path

import aiohttp
import kopf
import pytest
import yaml

from fakes.api_server import FakeApiServer, holder
from fakes.clock import FakeClock
from fakes.operator_world import OperatorWorld
from transship.common.errors import Refused, TransshipError, Unreachable
from transship.common.tasks import TaskEnded
from transship.common.tls import TlsFiles
from transship.controller import app, leader
from transship.controller.app import leading, main, run, serve
from transship.controller.health import UNREACHED_SECONDS, ApiContact, healthz, serving
from transship.controller.leader import LEASE_NAME, Leadership
from transship.controller.options import Options
from transship.controller.settings import login
from transship.kube.client import KubeClient
from transship.kube.leases import Leases
from transship.kube.transport import Request

ASKING = Request("GET", "/apis/transship.dev/v1alpha1/nodeagents", "listing agents")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def options(tmp_path: Path, port: int) -> Options:
    """Of a cluster that does not answer."""
    cluster = {"server": "http://127.0.0.1:1"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    files = TlsFiles(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    return Options(
        kubeconfig=kubeconfig,
        tls=files,
        name="operator-1",
        leader_elect=True,
        health_port=port,
        metrics_port=None,
        log_level="INFO",
    )


async def status(port: int, path: str) -> int:
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status


class TestHealth:
    @pytest.fixture
    def server(self) -> FakeApiServer:
        return FakeApiServer()

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.mark.parametrize(
        "failure",
        [Unreachable("connection refused"), Refused("leases is forbidden", reason="Forbidden")],
    )
    async def test_it_is_not_ok_once_the_api_server_was_not_reached_for_a_time(
        self, failure: TransshipError, server: FakeApiServer, clock: FakeClock
    ) -> None:
        contact = ApiContact(server, clock=clock)
        server.failing = failure
        for _ in range(2):
            clock.pass_time(UNREACHED_SECONDS / 2)
            with pytest.raises(TransshipError):
                await contact.send(ASKING)
        assert healthz(contact).status == 200
        clock.pass_time(1)
        answer = healthz(contact)
        assert answer.status == 503
        assert failure.message in str(answer.text)
        server.failing = None
        await contact.send(ASKING)
        assert healthz(contact).status == 200

    async def test_one_that_waits_while_another_leads_is_well(
        self, server: FakeApiServer, clock: FakeClock
    ) -> None:
        await Leases(KubeClient(server)).renew(LEASE_NAME, holder="another", duration_seconds=15)
        contact = ApiContact(server, clock=clock)
        for _ in range(3):
            clock.pass_time(UNREACHED_SECONDS)
            with pytest.raises(Refused):
                await Leases(KubeClient(contact)).renew(LEASE_NAME, holder="me", duration_seconds=1)
        assert healthz(contact).status == 200

    async def test_it_is_served_while_the_lease_is_awaited(
        self, options: Options, port: int
    ) -> None:
        serving_it = asyncio.create_task(serve(options))
        while True:
            try:
                assert await status(port, "/healthz") == 200
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
        assert await status(port, "/readyz") == 503
        os.kill(os.getpid(), signal.SIGTERM)  # the first process of a container has no default
        async with asyncio.timeout(5):
            await serving_it

    async def test_without_a_port_nothing_is_served(self) -> None:
        async with serving({}, port=None):
            pass


@pytest.mark.parametrize("taken", ["metrics_port", "health_port"])
def test_a_port_that_is_taken_ends_the_process_before_it_leads(
    taken: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        blocked = replace(options, **{taken: other.getsockname()[1]})
        with pytest.raises(TransshipError, check=lambda e: e.reason == "PortUnavailable"):
            asyncio.run(serve(blocked))
        monkeypatch.setattr(app, "parse", lambda _: blocked)
        monkeypatch.setattr("transship.common.logs.configure", lambda **_: None)
        monkeypatch.setenv("KUBECONFIG", "")
        assert main([]) == 1


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's user: not in /etc/passwd."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "POD_ID"):
        monkeypatch.delenv(name, raising=False)


class NoLeases:
    async def list(self) -> tuple[()]:
        return ()


class NoTaints:
    async def out_of_service(self) -> frozenset[str]:
        return frozenset()


async def test_a_user_without_a_name_can_run_it(
    nameless: None, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(options.kubeconfig))
    stop, ready = asyncio.Event(), asyncio.Event()
    async with OperatorWorld() as world:
        deps = world.deps
    running = asyncio.create_task(
        run(deps, options, NoLeases(), NoTaints(), stop=stop, ready=ready)
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=4)
    assert ready.is_set()
    running.cancel()
    await asyncio.wait([running])


class TestLogin:
    @pytest.fixture(autouse=True)
    def _in_a_pod(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its token lies at a place of kopf's."""
        found = kopf.ConnectionInfo(server="https://kubernetes.default.svc", token="t")
        monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: found)
        monkeypatch.delenv("KUBECONFIG", raising=False)

    @pytest.mark.parametrize(
        ("host", "server"),
        [("10.0.0.1", "https://10.0.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")],
    )
    def test_no_name_is_looked_up(
        self, host: str, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
        found = login()
        assert found is not None
        assert (found.server, found.token) == (server, "t")

    def test_a_kubeconfig_that_is_named_comes_first(
        self, options: Options, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBECONFIG", str(options.kubeconfig))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        found = login(settings=kopf.OperatorSettings())
        assert found is not None
        assert found.server == "http://127.0.0.1:1"


class TestLeading:
    @pytest.fixture
    def server(self) -> FakeApiServer:
        return FakeApiServer()

    async def test_a_standby_leads_at_once_when_the_leader_has_ended(
        self, options: Options, server: FakeApiServer
    ) -> None:
        clock = FakeClock()
        leases = Leases(KubeClient(server), clock=clock)
        async with leading(leases, options, clock=clock, stop=asyncio.Event()) as ours:
            assert ours is not None
            ours.require()
            assert await holder(leases, LEASE_NAME) == "operator-1"
        with pytest.raises(Refused):
            ours.require()
        assert await holder(leases, LEASE_NAME) == ""
        standby = Leadership(leases, clock=clock, identity="operator-2")
        async with asyncio.timeout(1):
            await standby.acquire()

    async def test_the_lease_of_another_is_left_alone(
        self, options: Options, server: FakeApiServer
    ) -> None:
        clock, stop = FakeClock(), asyncio.Event()
        leases = Leases(KubeClient(server), clock=clock)
        await leases.renew(LEASE_NAME, holder="another", duration_seconds=15)
        asyncio.get_running_loop().call_soon(stop.set)
        async with leading(leases, options, clock=clock, stop=stop):
            assert stop.is_set()
        assert await holder(leases, LEASE_NAME) == "another"

    async def test_whatever_ends_the_renewing_ends_the_process(
        self, options: Options, server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leader, "RENEW_SECONDS", 0)
        clock, stop = FakeClock(), asyncio.Event()
        leases = Leases(KubeClient(server), clock=clock)

        async def lead() -> None:
            async with leading(leases, options, clock=clock, stop=stop):
                monkeypatch.setattr(leases, "renew", None)  # nobody thought of this
                async with asyncio.timeout(2):
                    await stop.wait()

        with pytest.raises(TaskEnded, match="lease"):
            await lead()
