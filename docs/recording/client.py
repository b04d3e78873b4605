"""The client of the recording: one TCP connection to the counter, and what it has seen so far."""

from __future__ import annotations

import sys
import time

from transship.lab.proof.counter_client import PORT, CounterClient

REFRESH_SECONDS = 0.2
CLEAR, HIDE_CURSOR = "\x1b[H\x1b[2J", "\x1b[?25l"
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


def main(address: str) -> None:
    with CounterClient(address) as client:
        client.reset()
        sys.stdout.write(
            f"{HIDE_CURSOR}{CLEAR}a client asks {address}:{PORT} for the next number\n"
        )
        while not client.error:
            seen = client.measurement()
            sys.stdout.write(
                f"\r{BOLD}{client.number:7,}{PLAIN} answers in order on one TCP connection; "
                f"longest wait {BOLD}{seen.longest_gap_milliseconds:3.0f} ms{PLAIN}"
            )
            sys.stdout.flush()
            time.sleep(REFRESH_SECONDS)
    sys.exit(f"\nthe connection broke: {client.error}")


if __name__ == "__main__":
    main(sys.argv[1])
