"""JSON texts of reports have the keys and types that `docs/reports.md` says, and no others."""

import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_se import SEBlock, compression_report, cost, deploy, fold, to_tflite, verify
from keras_se.litert import npu
from keras_se.sites.site import Site
from keras_se.sites.statistics import gate_statistics
from keras_se.sites.statistics import to_json as statistics_json
from tuning import Cheapest, DeployedRecord, ScoreTable, SearchResult, TrialRecord
from tuning.choice.ratio_fit import RatioFit
from tuning.result import Confirmation

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reports.md").read_text()
PLAIN = {"text": str, "boolean": bool, "integer": int, "number": (int, float)}


def documented(text):
    """The documented types of the keys, by heading."""
    sections = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)[1:]
    return {
        name: dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", body, flags=re.MULTILINE))
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


class Reader:
    """Reads JSON by documented types; `wrong` has what does not fit, `met` the objects met."""

    def __init__(self, text=TEXT):
        self.types, self.wrong, self.met = documented(text), [], set()

    def read(self, kind, value, where=""):
        if kind.endswith(" or null") and value is None:
            return
        # "map of number or null" is a map whose numbers may be null.
        head, _, inner = kind.partition(" of ")
        if head == "map" and isinstance(value, dict):
            for name, part in value.items():
                self.read(inner, part, f"{where}.{name}")
        elif head in ("list", "pair") and isinstance(value, list):
            kinds = inner.removesuffix(" or null") if head == "pair" else inner
            parts = kinds.split(" and ") if " and " in kinds else [kinds] * len(value)
            if head == "pair" and len(value) != 2:
                self.wrong.append(f"{where}: {value}")
            if head == "pair" and " and " in kinds and kind.endswith(" or null"):
                parts[-1] += " or null"
            for part, one in zip(parts, value, strict=True):
                self.read(part, one, f"{where}[]")
        elif (name := kind.removesuffix(" or null")) in self.types and isinstance(value, dict):
            self.read_object(name, value, where)
        elif not self.fits(name, value):
            self.wrong.append(f"{where}: {kind}: {value!r}")

    def read_object(self, name, value, where):
        self.met.add(name)
        types = dict(self.types[name])
        if where and "schema" not in value:  # a report inside of another
            types.pop("schema", None)
        if set(types) != set(value):
            self.wrong.append(f"{where} {name}: {sorted(set(types) ^ set(value))}")
        for key in set(types) & set(value):
            self.read(types[key], value[key], f"{where}.{key}")

    @staticmethod
    def fits(kind, value):
        if kind == "value":
            return isinstance(value, str | int | float)
        if kind == "number" and isinstance(value, dict):
            return value in ({"float": "inf"}, {"float": "-inf"})
        is_right = isinstance(value, PLAIN.get(kind, ()))
        return is_right and isinstance(value, bool) == (kind == "boolean")


def gate_report(model, images):
    file = to_tflite(model, "int8", images[100:])
    rng = np.random.default_rng(0)
    x, stress = 1.5 * images[:100], {"dark": 0.1 * images[:100]}  # brighter than the file takes
    return verify(model, file, x, rng.integers(0, 10, 100), trained=model, stress=stress)


def search_result():
    values = {"se_ratio": 2, "se_gate": "sigmoid"}
    scores = [[0.5, 0.4, 0.45], [0.6, 0.7, 0.5]]
    table = ScoreTable(("a", "b"), scores, (30, 20), (2.0, 1.0))
    decision = Cheapest(0.01, metric="val_loss").choose(table)
    records = [
        TrialRecord(
            name, name, values, seed, "completed", score,
            metrics={"loss": math.nan}, test={"loss": 1.0}, flops=9,
        )
        for name, row in zip("ab", scores, strict=True)
        for seed, score in enumerate(row)
    ]  # fmt: skip
    judged = DeployedRecord(
        candidate="a", label="a", seed=0, format="int8", passed=True, verdict="v", latency=0.5
    )
    return SearchResult(
        "cheapest", "val_loss", "min", 1, (0, 1, 2), tuple(records), decision.chosen, values,
        {"se_1": {"ratio": 2, "use_bias": True}}, "standard", decision, "a sentence",
        Confirmation((7,), 0.5, None, 0.4, {"loss": 1.0}),
        RatioFit(-1.0, (-2.0, math.inf), None, 0.5, math.inf, (2.0, math.inf)),
        (judged,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def reports(networks, images):
    model = networks["sigmoid"]
    small = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    return {
        "GateReport": gate_report(model, images),
        "CompressionReport": compression_report(model, model, images[:64]),
        "Folding": fold(model, images[:64], tolerance=math.inf),
        "Deployment": deploy(to_tflite(model, "float32"), images[100:], images[:100]),
        "NpuReport": npu(to_tflite(model, "int8", images[100:])),
        "CostReport": cost(small),
        "SearchResult": search_result(),
    }


def test_reports_have_the_documented_keys_and_types(reports):
    reader = Reader()
    for name, report in reports.items():
        content = json.loads(report.to_json())
        assert content["schema"] == report.schema
        reader.read_object(name, content, "")
    labels, gates = np.arange(4) % 2, np.linspace(0.1, 0.9, 12).reshape(4, 3)
    site = gate_statistics(Site("se_1", 3, 1, "sigmoid", "conv", "se"), gates, labels)
    for worth in (None, {"se_1": 1.0}):
        (content,) = json.loads(statistics_json([site], worth))
        reader.read_object("GateStatistics", content, "gates")
    assert reader.wrong == []
    assert reader.met == set(reader.types)  # all that is documented was seen
    assert None not in vars(reports["GateReport"].outcome).values()


def test_this_guard_can_fail(reports):
    report, rows = reports["CostReport"], TEXT.splitlines(keepends=True)
    missing = "".join(row for row in rows if not row.startswith("| `se_macs`"))
    for text, said in (
        (missing, " CostReport: ['se_macs']"),
        (TEXT.replace("| `uncounted` | list of text", "| `uncounted` | text"), ".uncounted: text"),
        (TEXT.replace("| `se_flops` | integer", "| `se_flops` | boolean"), ".se_flops: boolean"),
    ):
        reader = Reader(text)
        reader.read_object("CostReport", json.loads(report.to_json()), "")
        assert len(reader.wrong) == 1
        assert reader.wrong[0].startswith(said)
