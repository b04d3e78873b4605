"""The choice on a simulated link and CPU of known speed."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from transship.api.placement import Compression
from transship.memory.transfer.compression import BACKLOG_BYTES, MeasuredChoice, chooser_for

BATCH = 1 << 20
QUEUE = 8 * BATCH


@dataclass
class Machine:
    """Rates in bytes per second: of the link, of the CPU for sending, and for compressing."""

    link: float
    processor: float = 1e9
    packing: float = 600e6
    share: float = 0.4  # what compression leaves

    def send(self, batches: int) -> tuple[float, int]:
        """Return the seconds for so many batches, and how many were compressed."""
        choice, clock, queue, packed = MeasuredChoice(), 0.0, 0.0, 0
        for _ in range(batches):
            tries = choice.compresses(backlog=int(queue))
            wire = BATCH * self.share if tries else BATCH
            spent = wire / self.processor + (BATCH / self.packing if tries else 0.0)
            queue = max(0.0, queue + wire - spent * self.link)
            blocked = max(0.0, queue - QUEUE) / self.link
            queue = min(queue, QUEUE)
            choice.note(compressed=tries, content=BATCH, wire=int(wire), seconds=spent + blocked)
            clock += spent + blocked
            packed += tries
        return clock + queue / self.link, packed


def test_on_a_slow_link_nearly_everything_is_compressed() -> None:
    seconds, packed = Machine(link=115e6).send(1000)
    assert packed > 950
    assert seconds < 0.5 * 1000 * BATCH / 115e6


def test_on_a_fast_link_nothing_is() -> None:
    _, packed = Machine(link=5e9).send(1000)
    assert packed == 0


def test_content_that_does_not_shrink_is_compressed_rarely() -> None:
    _, packed = Machine(link=115e6, share=1.0).send(1000)
    assert packed <= 20


def test_a_slow_cpu_does_not_slow_the_link_down() -> None:
    """If compressing is slower than the link, it is tried rarely."""
    seconds, packed = Machine(link=115e6, packing=50e6).send(1000)
    assert packed <= 20
    assert seconds < 1.05 * 1000 * BATCH / 115e6


@given(
    link=st.floats(1e6, 1e10),
    processor=st.floats(2e8, 4e9),
    packing=st.floats(2e7, 2e9),
    share=st.floats(0.05, 1.0),
)
def test_it_never_costs_more_than_a_few_percent(
    link: float, processor: float, packing: float, share: float
) -> None:
    machine = Machine(link, processor, packing, share)
    plain = 1000 * BATCH / min(link, processor)
    # one try costs at most what compressing a batch costs
    tries = 1000 / 64 + 6
    assert machine.send(1000)[0] <= 1.03 * plain + tries * BATCH / packing + QUEUE / link


def test_it_can_be_forced_and_forbidden() -> None:
    assert chooser_for(Compression.ZSTD).compresses(backlog=0)
    assert not chooser_for(Compression.NONE).compresses(backlog=10 * BACKLOG_BYTES)
