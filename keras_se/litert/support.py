"""The operators, delegation and gate codes of an SE block in each TFLite format.

Every row is measured on LiteRT's default CPU delegate, and for int8 with the compiler of an NPU; a
part of them the tests measure again.
`benchmarks/support.py` rewrites the table.
"""

import csv
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any


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
        npu: The operators of an int8 file that an Arm Ethos-U55 or U65 leaves to the CPU; `None`
            for the other formats, which are not for it.
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
    npu: tuple[str, ...] | None
    refused: str


FIELDS = tuple(field.name for field in fields(Support))  # the columns of support.csv, in order


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
    return tuple(
        Support(
            gate=row["gate"],
            squeeze=row["squeeze"],
            rank=int(row["rank"]),
            format=row["format"],
            operators=tuple(row["operators"].split()),
            undelegated=tuple(row["undelegated"].split()),
            partitions=int(row["partitions"]),
            step=float(row["step"]) if row["step"] else None,
            ceiling=float(row["ceiling"]) if row["ceiling"] else None,
            npu=tuple(row["npu"].split()) if _is_for_npu(row) else None,
            refused=row["refused"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def _is_for_npu(row: dict[str, str]) -> bool:
    return row["format"] == "int8" and not row["refused"]


def support_row(gate: str, squeeze: Any, rank: int, format: str) -> Support | None:
    """Returns the cell for a site; `None` for a custom gate or squeeze."""
    wanted = (gate, squeeze, rank, format)
    rows = support_table()
    return next((r for r in rows if (r.gate, r.squeeze, r.rank, r.format) == wanted), None)
