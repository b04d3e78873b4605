"""The settings of one agent, as the command line gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transship.agent.migration.handover_queue import HANDOVERS_AT_ONCE
from transship.agent.node.facts import Identity
from transship.common.tls import TlsFiles
from transship.runtime.layout import Layout


@dataclass(frozen=True)
class Settings:
    identity: Identity
    underlay: str
    layout: Layout
    kubeconfig: Path | None
    authority: Path
    certificate: Path
    key: Path
    insecure_registries: tuple[str, ...] = ()
    handovers_at_once: int = HANDOVERS_AT_ONCE

    @property
    def tls_files(self) -> TlsFiles:
        return TlsFiles(self.authority, self.certificate, self.key)
