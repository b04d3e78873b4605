"""The loops' real-time pauses are of no use to tests."""

from __future__ import annotations

import pytest

from transship.controller import addresses, statuses


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "GAP_SECONDS", 0.001)
    monkeypatch.setattr(statuses, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(addresses, "CONFLICT_PAUSE_SECONDS", 0.001)
