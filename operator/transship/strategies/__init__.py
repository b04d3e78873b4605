"""What the strategies of a move consist of, known to the controller and to the agents alike. Pure.

A strategy is an object that says what it needs and does; whoever acts on a move asks it, and does
not compare names. Nothing here may do input or output, or know how a step is carried out.
"""

from transship.strategies.kinds import (
    COLD,
    LIVE,
    NOT_RUNNING,
    POST_COPY,
    Cold,
    Live,
    MigrationStrategy,
    after_release,
    of,
)

__all__ = [
    "COLD",
    "LIVE",
    "NOT_RUNNING",
    "POST_COPY",
    "Cold",
    "Live",
    "MigrationStrategy",
    "after_release",
    "of",
]
