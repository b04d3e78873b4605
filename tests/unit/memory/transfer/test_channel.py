"""Who may open a page stream, over real TLS on the loopback interface."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transship.common.certificates import Authority, agent_name, new_authority, write_credentials
from transship.common.errors import Refused, Unreachable
from transship.memory.transfer.channel import (
    PageServerEndpoint,
    accept_page_stream,
    connect_to_page_server,
)

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority("test")


def context(authority: Authority, folder: Path, node: str, purpose: ssl.Purpose) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cadata=authority.credentials.certificate.decode())
    made.verify_mode = ssl.CERT_REQUIRED
    files = write_credentials(authority.issue_agent(node, addresses=[HOST]), folder, node)
    made.load_cert_chain(files.certificate, files.key)
    return made


def connect(
    authority: Authority, folder: Path, *, peer: str = "source", node: str = "target"
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Connect both ends. `peer`: whom the target expects; `node`: whom the source expects."""
    server = context(authority, folder, "target", ssl.Purpose.CLIENT_AUTH)
    client = context(authority, folder, "source", ssl.Purpose.SERVER_AUTH)
    with socket.create_server((HOST, 0)) as listener, ThreadPoolExecutor(1) as thread:
        pages = PageServerEndpoint(HOST, listener.getsockname()[1], node=node, context=client)
        dialled = thread.submit(connect_to_page_server, pages)
        plain, _ = listener.accept()
        try:
            admitted = accept_page_stream(plain, server, peer=agent_name(peer))
        except BaseException:
            dialled.result().close()  # a failure of its own goes first
            raise
        return dialled.result(), admitted


def test_the_agents_of_a_move_are_connected(authority: Authority, tmp_path: Path) -> None:
    source, target = connect(authority, tmp_path)
    with source, target:
        source.sendall(b"page")
        assert target.recv(4) == b"page"


def test_an_agent_that_is_not_the_source_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="source is not"):
        connect(authority, tmp_path, peer="another")


def test_a_target_of_another_name_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="elsewhere"):
        connect(authority, tmp_path, node="elsewhere")


def test_a_target_that_is_not_there_is_unreachable(authority: Authority, tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    client = context(authority, tmp_path, "source", ssl.Purpose.SERVER_AUTH)
    with pytest.raises(Unreachable, check=lambda e: e.reason == "TargetUnreachable"):
        connect_to_page_server(PageServerEndpoint(HOST, port, node="target", context=client))
