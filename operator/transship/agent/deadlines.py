"""How long the steps inside a freeze may take, by what they work on. Pure.

The base is hundreds of times what a step takes on a machine with nothing else to do: it ends what
hangs, and the container's stall with it.
"""

from __future__ import annotations

DUMP_SECONDS = 10.0
"""Without memory: 20 to 80 ms for one process, more with many of them."""
RESTORE_SECONDS = 20.0
"""Without images of memory, and without progress of the memory that it waits for."""
ANSWER_SECONDS = 10.0
"""More than the target has for itself: its own failure says more than its silence."""
SLOWEST_COPY = 50e6
"""Bytes per second at which CRIU writes and reads the memory that it dumps itself: 1 GB/s."""
SLOWEST_LINK = 5e6
"""Bytes per second, for the images of it."""


def dump_seconds(*, shared_bytes: int) -> float:
    """For CRIU's dump; what processes share, it writes itself."""
    return DUMP_SECONDS + shared_bytes / SLOWEST_COPY


def restore_seconds(*, image_bytes: int) -> float:
    """For CRIU's restore, from the last page on that has come."""
    return RESTORE_SECONDS + image_bytes / SLOWEST_COPY


def answer_seconds(*, image_bytes: int) -> float:
    """For the target's answer, once all of the memory has been sent."""
    on_the_way = ANSWER_SECONDS + image_bytes / SLOWEST_LINK
    return restore_seconds(image_bytes=image_bytes) + on_the_way
