"""`transship certificates`: mutual TLS of agents and operator, where there is no issuer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transship.common.certificates import ensure_authority, write_credentials
from transship.common.errors import InvalidInput


def issue(
    directory: Annotated[Path, typer.Argument(help="Where the authority and the files are kept.")],
    node: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ADDRESS of a node whose agent gets a certificate. Repeatable."),
    ] = None,
) -> None:
    """Issue certificates for the operator and for agents; the authority is made when missing."""
    authority = ensure_authority(directory, "ca", common_name="transship")
    write_credentials(authority.issue_operator(), directory, "operator")
    for entry in node or []:
        name, separator, address = entry.partition("=")
        if not (name and separator and address):
            raise InvalidInput(f"--node is {entry!r}: NAME=ADDRESS is needed")
        write_credentials(authority.issue_agent(name, addresses=[address]), directory, name)
    typer.echo(f"certificates are in {directory}")
