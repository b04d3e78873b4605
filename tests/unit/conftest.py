"""What holds for every unit test: it takes seconds at most, and a busy machine is no finding."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

LIMIT_SECONDS = 5.0

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put a limit on each, longer by as much as the machine has more to do than processors."""
    crowding = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(LIMIT_SECONDS * crowding))
