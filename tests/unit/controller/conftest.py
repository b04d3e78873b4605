"""The loops' real-time pauses are of no use to tests."""

from __future__ import annotations

import pytest

from transship.controller.addresses import claims
from transship.controller.reconcile import status_writer


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "GAP_SECONDS", 0.001)
    monkeypatch.setattr(status_writer, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(claims, "CONFLICT_PAUSE_SECONDS", 0.001)
