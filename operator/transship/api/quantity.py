"""Kubernetes quantities: "500m", "1.5Gi", "2e3", 4.

The grammar is k8s.io/apimachinery/pkg/api/resource.Quantity's.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import ceil

_SMALL_UNITS = {
    suffix: Decimal(10) ** -exponent for suffix, exponent in (("n", 9), ("u", 6), ("m", 3))
}
_DECIMAL_UNITS = {
    suffix: Decimal(1000) ** power
    for power, suffix in enumerate(("", "k", "M", "G", "T", "P", "E"))
}
_BINARY_UNITS = {
    suffix: Decimal(1024) ** power
    for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)
}
_SUFFIXES = _SMALL_UNITS | _DECIMAL_UNITS | _BINARY_UNITS
_QUANTITY = re.compile(
    r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(n|u|m|k|M|G|T|P|E|[KMGTPE]i))?$"
)


def parse_quantity(value: str | int) -> Decimal:
    """Parse a quantity. Raises ValueError with a message that says what is accepted."""
    match = _QUANTITY.match(str(value))
    if match is None:
        raise ValueError(f"must be a quantity such as 500m, 2, 256Mi or 1Gi, not {value!r}")
    number, exponent, suffix = match.groups()
    return Decimal(number + (exponent or "")) * _SUFFIXES[suffix or ""]


def bytes_of(value: str | int) -> int:
    return ceil(parse_quantity(value))


def millicores_of(value: str | int) -> int:
    return ceil(parse_quantity(value) * 1000)
