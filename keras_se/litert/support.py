"""What each format makes of an SE block: operations, delegate, step and ceiling of the gates.

Every row was measured on LiteRT's default CPU delegate, and is measured again by the tests;
`benchmarks/support.py` writes the table anew.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

FIELDS = (
    *("gate", "squeeze", "rank", "format", "operators", "undelegated", "partitions"),
    *("step", "ceiling", "refused"),
)


@dataclass(frozen=True)
class Support:
    """One cell of the table.

    Attributes:
        gate: Name of the gate.
        squeeze: Name of the squeeze.
        rank: Rank of the feature map with its batch axis: 3 sequences, 4 images, 5 volumes.
        format: Format of the file.
        operators: The operations of a site, from the pooling to the product.
        undelegated: Those of them that the delegate does not take.
        partitions: Number of delegated runs that the site is cut into.
        step: Distance of two codes of the gate, where the format pins it; `None` in floating point,
            and where calibration sets it.
        ceiling: Largest gate that these codes hold; `None` with `step`.
        refused: Why the conversion is refused; empty if it is not.
    """

    gate: str
    squeeze: str
    rank: int
    format: str
    operators: tuple[str, ...]
    undelegated: tuple[str, ...]
    partitions: int
    step: float | None
    ceiling: float | None
    refused: str


@cache
def support_table() -> tuple[Support, ...]:
    """The whole table: every gate, squeeze, rank and format.

    Returns:
        One `Support` per cell.

    Example:
        >>> row = next(r for r in support_table() if (r.gate, r.format) == ("sigmoid", "int8"))
        >>> row.operators, row.step
        (('MEAN', 'RESHAPE', 'CONV_2D', 'CONV_2D', 'LOGISTIC', 'RESHAPE', 'MUL'), 0.00390625)
    """
    text = resources.files("keras_se.litert").joinpath("support.csv").read_text("utf-8")
    return tuple(_row(fields) for fields in csv.DictReader(text.splitlines()))


def support_row(gate: str, squeeze: Any, rank: int, format: str) -> Support | None:
    """The cell of the table for a site.

    Args:
        gate: Name of the gate.
        squeeze: The squeeze.
        rank: Rank of the feature map with its batch axis.
        format: Format of the file.

    Returns:
        The `Support`, or `None` for a gate or squeeze of the user's own.

    Example:
        >>> support_row("sigmoid", "avg", 4, "int8").operators
        ('MEAN', 'CONV_2D', 'CONV_2D', 'LOGISTIC', 'MUL')
    """
    wanted = (gate, squeeze, rank, format)
    rows = support_table()
    return next((r for r in rows if (r.gate, r.squeeze, r.rank, r.format) == wanted), None)


def _row(fields: dict[str, str]) -> Support:
    return Support(
        gate=fields["gate"],
        squeeze=fields["squeeze"],
        rank=int(fields["rank"]),
        format=fields["format"],
        operators=tuple(fields["operators"].split()),
        undelegated=tuple(fields["undelegated"].split()),
        partitions=int(fields["partitions"]),
        step=float(fields["step"]) if fields["step"] else None,
        ceiling=float(fields["ceiling"]) if fields["ceiling"] else None,
        refused=fields["refused"],
    )
