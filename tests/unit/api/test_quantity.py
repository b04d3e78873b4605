"""Quantities mean what they mean in a Pod."""

from __future__ import annotations

from decimal import Decimal

import pytest

from transship.api.quantity import bytes_of, millicores_of, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (4, "4"),
        ("0", "0"),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("500m", "0.5"),
        ("100n", "1e-7"),
        ("7u", "7e-6"),
        ("2k", "2000"),
        ("2Ki", "2048"),
        ("1.5Gi", "1610612736"),
        ("1E", "1e18"),
        ("1Ei", "1152921504606846976"),
        ("2e3", "2000"),
        ("2E3", "2000"),
        ("1e-3", "0.001"),
        ("-1", "-1"),
        ("+1", "1"),
    ],
)
def test_reads(text: str | int, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["", "big", "1 Gi", "1GiB", "1K", "0x10", "1e", "1e3Mi", "--1", "."]
)
def test_refuses_and_says_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="must be a quantity such as"):
        parse_quantity(text)


def test_bytes_are_rounded_up() -> None:
    assert bytes_of("256Mi") == 268435456
    assert bytes_of("1500m") == 2


def test_thousandths_of_a_cpu_are_rounded_up() -> None:
    assert millicores_of("1.5") == 1500
    assert millicores_of(2) == 2000
    assert millicores_of("100u") == 1
