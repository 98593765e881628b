"""Measures the table of `keras_se.litert.support`, and writes it with its page of the documents.

All blocks of a rank are converted in one model, each with a number of channels of its own, by which
its site is found again; those that a format refuses are converted alone.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_se import SEBlock, to_tflite
from keras_se.errors import InputError
from keras_se.layers.gates import GATES
from keras_se.layers.squeezes import SQUEEZES
from keras_se.litert import npu
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.formats import FORMATS
from keras_se.litert.graph.sites import gate_codes, gate_nodes
from keras_se.litert.support import FIELDS, Support

SHAPES = {3: (8, 3), 4: (6, 6, 3), 5: (4, 4, 4, 3)}  # one sample, by rank with the batch axis
SAMPLES = 100
ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "keras_se/litert/support.csv", ROOT / "docs/support.md"
Pair = tuple[str, str]  # gate and squeeze


def pairs() -> list[Pair]:
    """Every gate with every squeeze."""
    return [(gate, squeeze) for gate in GATES for squeeze in SQUEEZES]


def network(rank: int, chosen: list[Pair]) -> keras.Model:
    """A model with one SE block for each pair, all on maps of their own."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPES[rank])
    outputs = []
    for n, (gate, squeeze) in enumerate(chosen):
        features = keras.layers.Dense(8 + n, activation="relu", name=f"map_{n}")(inputs)
        bias = keras.initializers.RandomNormal(stddev=0.5)
        gated = SEBlock(2, gate=gate, squeeze=squeeze, bias_initializer=bias)(features)
        outputs.append(keras.layers.Dense(2)(gated))
    added = outputs[0] if len(outputs) == 1 else keras.layers.Add()(outputs)
    return keras.Model(inputs, added)


def samples(rank: int) -> np.ndarray:
    """Inputs for `network`."""
    return np.random.default_rng(0).normal(size=(SAMPLES, *SHAPES[rank])).astype("float32")


def measure(rank: int, format: str, chosen: list[Pair]) -> Iterator[Support]:
    """The cells of these pairs for a rank and a format."""
    try:
        tflite = to_tflite(network(rank, chosen), format, samples(rank))
    except InputError as error:
        if len(chosen) > 1:
            for pair in chosen:
                yield from measure(rank, format, [pair])
        else:
            (gate, squeeze), reason = chosen[0], str(error).rpartition("says: ")[-1]
            yield Support(gate, squeeze, rank, format, (), (), 0, None, None, None, reason)
        return
    found = delegation(tflite).sites
    nodes = {node.site.channels - 8: node for node in gate_nodes(tflite)}
    codes = gate_codes(tflite)
    on_npu = npu(tflite).sites if format == "int8" else {}
    for n, (gate, squeeze) in enumerate(chosen):
        site = found[nodes[n].site.name]
        step, ceiling = codes[site.name] or (None, None)
        yield Support(
            *(gate, squeeze, rank, format, site.operators, site.undelegated, site.partitions),
            *(step, ceiling, on_npu[site.name].on_cpu if on_npu else None, ""),
        )


def all_rows() -> Iterator[Support]:
    """The whole table."""
    for rank in SHAPES:
        for name in FORMATS:
            yield from measure(rank, name, pairs())


def table(rows: list[Support]) -> str:
    """The rows as the text of `support.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        values = (getattr(row, name) for name in FIELDS)
        writer.writerow(_text(value) for value in values)
    return text.getvalue()


def _text(value: object) -> object:
    if isinstance(value, tuple):
        return " ".join(value)
    return "" if value is None else value


def page(rows: list[Support]) -> str:
    """The rows as a page of the documents."""
    lines = [
        "# What each format makes of an SE block",
        "",
        "Measured by `python benchmarks/support.py` on LiteRT's default CPU delegate (XNNPACK),",
        "and in part by the tests; as data: `keras_se.litert.support.support_table()`. Operations",
        "from the pooling to the product; **bold** ones are not delegated, *n* is the number of",
        "delegate partitions of the site. Step and ceiling are those that the format pins;",
        "elsewhere they come from calibration, or there are none. *Off the NPU*: the operations",
        "of an int8 file that stay on the CPU of an Arm Ethos-U55 or U65 NPU, by its compiler; an",
        "Ethos-U85 takes DIV, too. The NPU takes all others.",
    ]
    for rank, what in ((4, "Images"), (3, "Sequences"), (5, "Volumes")):
        lines += ["", f"## {what} (rank {rank})", ""]
        lines += ["| gate | squeeze | formats | operations | n | off the NPU | step | ceiling |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        cells: dict[tuple[str, ...], list[str]] = {}
        for row in (row for row in rows if row.rank == rank):
            cells.setdefault((row.gate, row.squeeze, *_cells(row)), []).append(row.format)
        for (gate, squeeze, *rest), names in cells.items():
            lines.append(" | ".join((f"| {gate}", squeeze, ", ".join(names), *rest)) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: Support) -> tuple[str, ...]:
    if row.refused:
        return f"refused: {row.refused}", "", "", "", ""
    names = (f"**{name}**" if name in row.undelegated else name for name in row.operators)
    step = "" if row.step is None else f"1/{round(1 / row.step)}"
    ceiling = "" if row.ceiling is None else f"{row.ceiling:.6g}"
    return ", ".join(names), str(row.partitions), ", ".join(row.npu or ()), step, ceiling


def main() -> None:
    """Writes the table and its page."""
    rows = list(all_rows())
    TABLE.write_text(table(rows))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(rows))
    refused = sum(bool(row.refused) for row in rows)
    print(f"{TABLE}: {len(rows)} rows, {refused} of them refused")


if __name__ == "__main__":
    main()
