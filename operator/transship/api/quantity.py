"""Kubernetes quantities: "500m", "1.5Gi", "2e3", 4.

The grammar is k8s.io/apimachinery/pkg/api/resource.Quantity's.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import ceil

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY = re.compile(
    r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(n|u|m|k|M|G|T|P|E|[KMGTPE]i))?$"
)


def parse_quantity(value: str | int) -> Decimal:
    """Read a quantity. Raises ValueError that says what is accepted."""
    match = _QUANTITY.match(str(value))
    if match is None:
        raise ValueError(f"must be a quantity such as 500m, 2, 256Mi or 1Gi, not {value!r}")
    number, exponent, suffix = match.groups()
    return Decimal(number + (exponent or "")) * _SUFFIXES[suffix or ""]


def bytes_of(value: str | int) -> int:
    return ceil(parse_quantity(value))


def millicores_of(value: str | int) -> int:
    return ceil(parse_quantity(value) * 1000)
