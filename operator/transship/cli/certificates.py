"""`transship certificates`: issues certificates for clusters without a certificate issuer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transship.common.certificates import ensure_authority, write_credentials
from transship.common.errors import InvalidInput


def issue(
    directory: Annotated[
        Path, typer.Argument(help="Directory for the authority and the certificates.")
    ],
    node: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ADDRESS of a node that needs a certificate. Can be repeated."),
    ] = None,
) -> None:
    """Issue certificates for the operator and the agents; create the authority if it is missing."""
    authority = ensure_authority(directory, "ca", common_name="transship")
    write_credentials(authority.issue_operator(), directory, "operator")
    for entry in node or []:
        name, separator, address = entry.partition("=")
        if not (name and separator and address):
            raise InvalidInput(f"--node is {entry!r}: NAME=ADDRESS is needed")
        write_credentials(authority.issue_agent(name, addresses=[address]), directory, name)
    typer.echo(f"certificates are in {directory}")
