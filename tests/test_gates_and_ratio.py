"""docs/gates.md and docs/ratio.md: what they print, their tables, and their figures."""

import math
import re

import keras
import numpy as np
import pages
import pytest

from keras_se.layers.gates import GATES
from keras_se.layers.squeezes import SQUEEZES
from keras_se.litert.support import support_table

GATES_PAGE = (pages.DOCS / "gates.md").read_text()
RATIO_PAGE = (pages.DOCS / "ratio.md").read_text()
FRACTIONS = {"½": 1 / 2, "¼": 1 / 4}


def test_that_a_page_prints_something_else():
    with pytest.raises(AssertionError, match="block 1 prints:\n3\n"):
        pages.run_page("```python\nprint(1 + 2)\n```\n\n```text\n4\n```\n")
    with pytest.raises(AssertionError):
        pages.run_page("no block")


def number(cell):
    """The first number of a cell: ½, 1/256 or 0.5."""
    if cell in FRACTIONS:
        return FRACTIONS[cell]
    top, _, bottom = re.match(r"[\d./]+", cell)[0].partition("/")
    return float(top) / float(bottom or 1)


def gate_rows():
    rows = pages.table(GATES_PAGE, "`gate=`")
    return {row[0].strip('`"'): row[1:] for row in rows}


@pytest.mark.parametrize("name", GATES)
def test_the_row_of_a_gate(name):
    _, interval, at_zero, slope, step, ceiling, operators, identity = gate_rows()[name]
    gate = GATES[name]
    v = np.zeros((1, 8), "float32")
    assert number(at_zero) == keras.ops.convert_to_numpy(gate.function(v))[0, 0]
    assert (slope == "C/4") if gate.slope is None else (number(slope) == gate.slope)
    assert ("pinned" in step) == (name in ("sigmoid", "one_plus_tanh", "tanh"))
    if gate.step is not None:
        assert number(step) == gate.step
        assert number(ceiling) == gate.ceiling
    assert (identity != "no") == (gate.one_at is not None)
    assert (identity == "with bias") == (gate.one_at not in (None, 0.0))
    low, high = (edge.strip("()[]").replace("−", "-") for edge in interval.split(", "))
    assert (float(low), high) == (gate.low, "C" if name == "softmax" else _edge(gate.high))
    row = next(
        row
        for row in support_table()
        if (row.gate, row.squeeze, row.rank, row.format) == (name, "avg", 4, "int8")
    )
    written = re.findall(r"\b[A-Z][A-Z0-9_]+\b", operators.replace("CONV_2D", ""))
    assert ("MEAN", "CONV_2D", "CONV_2D", *written, "MUL") == tuple(row.operators)


def _edge(high):
    return "∞" if math.isinf(high) else f"{high:g}"


def test_every_gate_and_squeeze_has_a_row():
    assert set(gate_rows()) == set(GATES)
    rows = pages.table(GATES_PAGE, "`squeeze=`")
    assert {row[0].strip('`"') for row in rows} == set(SQUEEZES)


def test_what_the_page_says_is_not_delegated():
    int8 = [row for row in support_table() if row.rank == 4 and row.format == "int8"]
    assert {op for row in int8 if row.squeeze == "avg" for op in row.undelegated} == {"EXP", "DIV"}
    of_std = {op for row in int8 if row.squeeze == "std" for op in row.undelegated}
    assert of_std == {"SQUARED_DIFFERENCE", "MAXIMUM", "SQRT", "EXP", "DIV"}
    assert not any(row.undelegated for row in support_table() if row.format == "float32")
    wide = [row for row in support_table() if row.format == "int16x8" and not row.refused]
    assert all(set(row.undelegated) == set(row.operators) for row in wide)
    assert {row.step for row in wide} == {None, 1 / 32768}


def test_the_parameters_of_the_papers_table():
    """SE-ResNet-50 has 25.6 million weights without SE; the paper rounds both."""
    squares = 3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2
    for ratio, _, millions in pages.table(RATIO_PAGE, "r | top-1"):
        assert abs(25.6 + 2 * squares / float(ratio) / 1e6 - float(millions)) < 0.15


@pytest.mark.parametrize("text", [GATES_PAGE, RATIO_PAGE], ids=["gates", "ratio"])
def test_the_figures_of_a_page(text):
    found = re.findall(r"!\[(.+?)\]\((images/.+?\.svg)\)", text)
    assert found
    for words, path in found:
        image = (pages.DOCS / path).read_text()
        assert len(words) > 40, "what is to be seen, for those who do not see it"
        assert len(image) < 60_000
        assert "fill: #ffffff" in image, "legible on a dark page, too"
        assert "<dc:date>" not in image
