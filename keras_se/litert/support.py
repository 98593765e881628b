"""The operators, delegation and gate codes of an SE block in each TFLite format.

Every row is measured on LiteRT's default CPU delegate; the tests measure it again.
`benchmarks/support.py` rewrites the table.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

# The columns of support.csv, in their order.
FIELDS = (
    "gate",
    "squeeze",
    "rank",
    "format",
    "operators",
    "undelegated",
    "partitions",
    "step",
    "ceiling",
    "refused",
)


@dataclass(frozen=True)
class Support:
    """One cell of the table.

    Attributes:
        gate: Name of the gate.
        squeeze: Name of the squeeze.
        rank: Rank of the feature map with its batch axis: 3 sequences, 4 images, 5 volumes.
        format: Format of the file.
        operators: The operators of a site, from the pooling to the product.
        undelegated: The operators that the delegate rejects.
        partitions: Number of delegated partitions of the site.
        step: Distance of two gate codes if the format fixes it; `None` in floating point and where
            calibration sets it.
        ceiling: Largest gate that these codes represent; `None` with `step`.
        refused: Why the conversion raises; empty if it succeeds.
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
    """Returns the whole table: every gate, squeeze, rank and format.

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
    """Returns the cell for a site; `None` for a custom gate or squeeze."""
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
        # Step and ceiling are empty unless the format fixes them.
        step=float(fields["step"]) if fields["step"] else None,
        ceiling=float(fields["ceiling"]) if fields["ceiling"] else None,
        refused=fields["refused"],
    )
