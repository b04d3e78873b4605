"""Access of the command line to the agents: with the operator's certificate.

The certificate comes from the operator's Secret in the cluster, so whoever may read that Secret has
the operator's rights. With --certificates it comes from a directory (ca.crt, tls.crt, tls.key).
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

SECRET_NAME = "transship-operator-tls"  # noqa: S105 - a name
FILES = ("ca.crt", "tls.crt", "tls.key")

Certificates = Annotated[
    Path | None,
    typer.Option(
        help=f"Directory with {', '.join(FILES)}; without it, the operator's Secret is used."
    ),
]


@contextmanager
def tls_files(secret: dict[str, bytes]) -> Iterator[TlsFiles]:
    """Write the Secret's content to temporary files, which exist inside the `with`."""
    with tempfile.TemporaryDirectory(prefix="transship-") as name:
        folder = Path(name)
        for file, content in secret.items():
            write_private(folder / file, content)
        yield _files(folder)


async def operator_secret(client: KubeClient, directory: Path | None) -> dict[str, bytes]:
    """The contents of the three files, by name. Raises NotFound if one is missing."""
    if directory is not None:
        contents = {name: (directory / name).read_bytes() for name in FILES}
    else:
        contents = dict(
            await read_data(client, Source.SECRET, namespace=SYSTEM_NAMESPACE, name=SECRET_NAME)
        )
    missing = [name for name in FILES if name not in contents]
    if missing:
        raise NotFound(
            f"Secret {SYSTEM_NAMESPACE}/{SECRET_NAME} has no {', '.join(missing)}",
            hint="name a directory with --certificates",
        )
    return {name: contents[name] for name in FILES}


def _files(folder: Path) -> TlsFiles:
    authority, certificate, key = (folder / name for name in FILES)
    return TlsFiles(authority=authority, certificate=certificate, key=key)
