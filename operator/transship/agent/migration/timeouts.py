"""How long the steps inside a freeze may take, by the size of what they process. Pure.

The base is hundreds of times what a step takes on an idle machine: a timeout ends a step that
hangs, and with it the blackout.
"""

from __future__ import annotations

DUMP_SECONDS = 10.0
"""Without a byte written; a whole dump takes 20 to 80 ms for one process, more for many."""
RESTORE_SECONDS = 20.0
"""Without memory images, and without progress of the memory that it waits for."""
ANSWER_SECONDS = 10.0
"""Beyond the target's own limit: its error says more than its silence."""
SLOWEST_COPY = 200e6
"""Bytes per second for composing images and for CRIU to read them; 1 GB/s and more is usual."""
SLOWEST_LINK = 5e6
"""Bytes per second, for sending images."""


def restore_seconds(*, image_bytes: int) -> float:
    """The limit of CRIU's restore from images of this size, counted from the last page received."""
    return RESTORE_SECONDS + image_bytes / SLOWEST_COPY


def answer_seconds(*, image_bytes: int, sent_bytes: int) -> float:
    """The limit of the target's answer, once all of the memory has been sent.

    `sent_bytes` is less than `image_bytes` by the shared memory that was copied ahead.
    """
    composing = image_bytes / SLOWEST_COPY
    on_the_way = ANSWER_SECONDS + sent_bytes / SLOWEST_LINK
    return composing + restore_seconds(image_bytes=image_bytes) + on_the_way
