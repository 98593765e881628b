"""What a notebook shows, in a real kernel: reports as tables, a search and long calls as they go.

The notebook of `examples` runs first, in the same kernel: its start takes longest.
"""

import copy
import os
import sys
from pathlib import Path

import nbformat
import pytest
from browser import tables
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

FIRST_HOUR = nbformat.read(Path(__file__).parents[1] / "examples/first_hour.ipynb", as_version=4)
CELLS = {
    "setup": """
import time
import keras, keras_tuner, numpy as np
import keras_se, tuning
from keras_se.display import progress

class Own(keras_tuner.HyperModel):
    def build(self, hp):
        hp.Choice("units", [1, 2])
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp, model, *arguments, **further):
        time.sleep(0.5)
        return float(hp.get("units"))
""",
    "report": """
keras_se.cost(keras.Sequential([keras.Input((8, 8, 4)), keras_se.SEBlock(2, name="<b>")]))
""",
    "search": """
import tempfile
data = np.zeros((8, 4), "float32"), np.zeros((8, 2), "float32")
with tempfile.TemporaryDirectory() as folder:
    result = tuning.search(
        Own(), data, data, epochs=1, seeds=1, fresh_seeds=0, directory=f"{folder}/a"
    )
result
""",
    "call": """
progress._AFTER = 0.0
with progress.showing("call"):
    for _ in progress.counted(range(4), 4, "part"):
        time.sleep(0.3)
""",
    "silent": """
with progress.showing("call", progress=False):
    time.sleep(0.3)
""",
}


class Client(NotebookClient):
    """Keeps what was shown and replaced again, by number of the cell."""

    def process_message(self, message, cell, index):
        if message["msg_type"] in ("display_data", "update_display_data"):
            self.shown.setdefault(index, []).append(message["content"]["data"])
        return super().process_message(message, cell, index)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """By name, the outputs of each cell, and what it showed while it ran."""
    given = copy.deepcopy(FIRST_HOUR.cells)
    first_hour = {f"first hour {number}": cell for number, cell in enumerate(given)}
    cells = first_hour | {name: new_code_cell(cell) for name, cell in CELLS.items()}
    book = new_notebook(cells=list(cells.values()))
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = Client(book, timeout=300, kernel_name="python3", resources=folder)
    client.shown = {}
    client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    return {
        name: (cell.get("outputs", []), client.shown.get(number, []))
        for number, (name, cell) in enumerate(zip(cells, book.cells, strict=True))
    }


def test_the_first_hour_ends_with_a_file_that_passes(notebook):
    outputs = [o for name, (found, _) in notebook.items() if "first hour" in name for o in found]
    text = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "largest change of an output 0.0" in text
    results = [o.data for o in outputs if o.output_type == "execute_result"]
    cost, report = (data["text/html"] for data in results if "text/html" in data)
    assert [row[0] for row in tables(cost)[0]][:4] == ["site", "se_1", "se_2", "se_3"]
    assert "Ship" in report
    assert results[-1]["text/plain"] == "True"
    assert "survives" in {row[-1] for row in tables(report)[0]}


def test_the_first_hour_stores_no_outputs():
    code = [cell for cell in FIRST_HOUR.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_a_report_is_a_table(notebook):
    (output,), _ = notebook["report"]
    (table,) = tables(output.data["text/html"])
    assert table[0][:3] == ["site", "channels", "width"]
    assert table[1][:4] == ["se_1", "4", "2", "22"]
    assert output.data["text/plain"].startswith("CostReport(")


def test_a_search_shows_its_trials_and_then_its_result(notebook):
    outputs, shown = notebook["search"]
    texts = [each["text/plain"] for each in shown]
    assert any("units=1, seed 0: epoch 1 of 1" in text for text in texts)
    assert any("best so far, of 1 candidates" in text for text in texts)
    *stay, result = outputs
    last, *said = [output.data["text/plain"] for output in stay]
    # The last drawing stays, with the lines of the budget.
    assert "best so far, of 2 candidates" in last
    assert "2/2" in last
    assert [line.partition(" train")[0].split()[0] for line in said] == ["2", "At"]
    (table,) = tables(result.data["text/html"])
    assert [row[0] for row in table] == ["candidate", "units=1", "units=2"]


def test_a_long_call_shows_how_far_it_is_and_leaves_nothing(notebook):
    outputs, shown = notebook["call"]
    texts = [each["text/plain"] for each in shown]
    assert any("call: part" in text and "50%" in text for text in texts)
    assert not any("100%" in text for text in texts)
    assert [o.data["text/plain"].strip() for o in outputs] == [""]
    assert notebook["silent"] == ([], [])
