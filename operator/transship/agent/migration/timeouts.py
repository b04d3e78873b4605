"""How long the steps inside a freeze may take, by what they work on. Pure.

The base is hundreds of times what a step takes on a machine with nothing else to do: it ends what
hangs, and the container's stall with it.
"""

from __future__ import annotations

DUMP_SECONDS = 10.0
"""Without a byte written: a whole dump takes 20 to 80 ms for one process, more with many."""
RESTORE_SECONDS = 20.0
"""Without images of memory, and without progress of the memory that it waits for."""
ANSWER_SECONDS = 10.0
"""More than the target has for itself: its own failure says more than its silence."""
SLOWEST_COPY = 200e6
"""Bytes per second at which images are put together, and read by CRIU: 1 GB/s and more."""
SLOWEST_LINK = 5e6
"""Bytes per second, for what is sent of the images."""


def restore_seconds(*, image_bytes: int) -> float:
    """For CRIU's restore from whole images of this size, from the last page on that has come."""
    return RESTORE_SECONDS + image_bytes / SLOWEST_COPY


def answer_seconds(*, image_bytes: int, sent_bytes: int) -> float:
    """For the target's answer, once all of the memory has been sent.

    Of shared memory that was copied ahead less is sent than the images have.
    """
    composing = image_bytes / SLOWEST_COPY
    on_the_way = ANSWER_SECONDS + sent_bytes / SLOWEST_LINK
    return composing + restore_seconds(image_bytes=image_bytes) + on_the_way
