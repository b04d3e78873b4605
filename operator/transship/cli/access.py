"""How a person at a terminal reaches the agents: with the operator's certificate.

It is read from a Secret of the cluster: whoever may read that Secret may do what the operator may;
or from a directory (ca.crt, tls.crt, tls.key) given by --certificates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from transship.common.certificates import write_private
from transship.common.errors import NotFound
from transship.common.tls import TlsFiles
from transship.kube.client import KubeClient
from transship.kube.config_data import Source, read_data
from transship.kube.leases import SYSTEM_NAMESPACE

SECRET_NAME = "transship-operator-tls"  # noqa: S105 - the name of it
FILES = ("ca.crt", "tls.crt", "tls.key")

Certificates = Annotated[
    Path | None,
    typer.Option(help=f"Directory with {', '.join(FILES)}; the operator's Secret else."),
]


@contextmanager
def tls_files(secret: dict[str, bytes]) -> Iterator[TlsFiles]:
    """The Secret's content as files, for as long as the body runs."""
    with tempfile.TemporaryDirectory(prefix="transship-") as name:
        folder = Path(name)
        for file, content in secret.items():
            write_private(folder / file, content)
        yield _files(folder)


async def operator_secret(client: KubeClient, directory: Path | None) -> dict[str, bytes]:
    """The three files' contents. Raises NotFound that says where they were looked for."""
    if directory is not None:
        found = {name: (directory / name).read_bytes() for name in FILES}
    else:
        found = dict(
            await read_data(client, Source.SECRET, namespace=SYSTEM_NAMESPACE, name=SECRET_NAME)
        )
    missing = [name for name in FILES if name not in found]
    if missing:
        raise NotFound(
            f"Secret {SYSTEM_NAMESPACE}/{SECRET_NAME} has no {', '.join(missing)}",
            hint="name a directory with --certificates",
        )
    return {name: found[name] for name in FILES}


def _files(folder: Path) -> TlsFiles:
    authority, certificate, key = (folder / name for name in FILES)
    return TlsFiles(authority=authority, certificate=certificate, key=key)
