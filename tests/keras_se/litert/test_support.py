"""A part of the table, measured again; the page of the documents is the table."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_se import SEBlock, to_tflite
from keras_se.layers.gates import GATES
from keras_se.layers.squeezes import SQUEEZES
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.formats import FORMATS
from keras_se.litert.support import support_row, support_table

ROOT = Path(__file__).parents[3]
_spec = importlib.util.spec_from_file_location("support", ROOT / "benchmarks" / "support.py")
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)


def test_the_table_is_whole():
    cells = {(row.gate, row.squeeze, row.rank, row.format) for row in support_table()}
    assert len(cells) == len(support_table()) == 6 * 4 * 3 * 6
    assert cells == {
        (g, s, r, f) for g in GATES for s in SQUEEZES for r in (3, 4, 5) for f in FORMATS
    }


EACH = [*((gate, "avg") for gate in GATES), *(("sigmoid", squeeze) for squeeze in SQUEEZES)]
INTEGER = ("float32", "int8", "int16x8")


@pytest.mark.parametrize(
    ("rank", "file_format"),
    [*((4, name) for name in FORMATS), *((rank, name) for rank in (3, 5) for name in INTEGER)],
)
def test_cells(rank, file_format):
    """Each pair of gate and squeeze for images in float32 and integers, elsewhere each gate once.

    In one model; those that the table says are refused one by one, for images.
    """
    rows = {
        (row.gate, row.squeeze): row
        for row in support_table()
        if (row.rank, row.format) == (rank, file_format)
    }
    chosen = rows if rank == 4 and file_format in INTEGER else dict.fromkeys(EACH)
    taken = [pair for pair in chosen if not rows[pair].refused]
    refused = [[pair] for pair in chosen if rows[pair].refused]
    for pairs in (taken, *(refused if rank == 4 else ())):
        for row in benchmark.measure(rank, file_format, pairs):
            assert row == rows[row.gate, row.squeeze]


def test_the_page_is_the_table():
    assert (ROOT / "docs" / "support.md").read_text() == benchmark.page(list(support_table()))
    text = (ROOT / "keras_se" / "litert" / "support.csv").read_text()
    assert text == benchmark.table(list(support_table()))


@pytest.mark.parametrize(
    ("gate", "squeeze"), [("one_plus_tanh", "avg"), ("sigmoid", "std"), ("softmax", "max")]
)
def test_partitions_are_those_of_a_model_with_one_site(gate, squeeze):
    """The table counts delegated runs; the runtime, asked for a lone block, counts the same."""
    model = keras.Sequential([keras.Input((6, 6, 8)), SEBlock(2, gate=gate, squeeze=squeeze)])
    x = np.random.default_rng(0).normal(size=(100, 6, 6, 8))
    found = delegation(to_tflite(model, "int8", x))
    row = support_row(gate, squeeze, 4, "int8")
    assert found.operators == found.sites["se_1"].operators == row.operators
    assert found.partitions == found.sites["se_1"].partitions == row.partitions
