"""Predictions: what a move of a container to another node would be like."""

from __future__ import annotations

from transship.agentapi.message import Message
from transship.agentapi.migrations import Peer
from transship.api.migration import Prediction
from transship.api.placement import MigrationSettings, Strategy


class PredictionRequest(Message):
    """Asks for a measurement of the container's writes and the link; nothing is moved."""

    target: Peer
    settings: MigrationSettings = MigrationSettings()


class PredictionReply(Message):
    """What was measured, and what follows from it. Rates in bytes per second.

    reason, message and hint: why the move would fail; empty where there is no obstacle.
    """

    strategy: Strategy
    prediction: Prediction | None = None
    choice: str = ""
    memory_bytes: int = 0
    zero_bytes: int = 0
    dirty_rate: int = 0
    link_rate: int = 0
    compressed_percent: int = 100
    file_bytes: int = 0
    seconds: float = 0.0
    reason: str = ""
    message: str = ""
    hint: str = ""
