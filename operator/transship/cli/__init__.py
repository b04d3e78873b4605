"""The command `transship`, also installed as `kubectl transship`.

Commands read options, call the packages below and print. They contain no logic of a move.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    from transship.cli.app import app  # noqa: PLC0415 - --version must not wait for imports
    from transship.common.errors import InvalidInput, TransshipError  # noqa: PLC0415

    try:
        app()
    except InvalidInput as e:
        sys.stderr.write(f"transship: {e}\n")
        sys.exit(2)
    except TransshipError as e:
        sys.stderr.write(f"transship: {e}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
