"""The report of a search: text, rows, and the page in a real browser."""

import csv
import dataclasses
import json
import math
import re

import pytest
from browser import opened, tables

from keras_se.errors import InputError
from tuning import Cheapest, ScoreTable, SearchResult, TrialRecord
from tuning.report.candidates import candidates, front, levels, pareto_front
from tuning.report.curves import read_curve
from tuning.result import Confirmation
from tuning.trials.records import FRESH, Records, run_key

SIZES = {2: 900, 4: 700, 8: 600, 16: 550}
FLOPS = {2: 9_000_000, 4: 7_000_000, 8: 5_500_000, 16: 6_500_000}  # 8 needs the fewest
MEANS = {2: 0.90, 4: 0.91, 8: 0.86, 16: 0.70}
JOB = 'objective = "cheapest:0.02:val_accuracy"\nepochs = 2\nseeds = [0, 1, 2]\n'


def record(ratio, seed, score=None, cause=""):
    label = f"ratio={ratio} <b>"  # names may hold markup
    key = f"r{ratio}"
    status = "failed" if score is None else "completed"
    return TrialRecord(
        key, label, {"se_ratio": ratio, "se_gate": "sigmoid"}, seed, status, score,
        metrics={} if score is None else {"val_accuracy": score, "loss": 1.5},
        parameters=SIZES[ratio], complexity=1024 / ratio, seconds=1.25, cause=cause,
        curve=f"curves/{run_key(key, seed)}.jsonl",
        test={"accuracy": 0.5} if seed >= FRESH else {}, flops=FLOPS[ratio],
    )  # fmt: skip


def all_records():
    for ratio, mean in MEANS.items():
        yield from (record(ratio, seed, mean + 0.001 * (seed - 1)) for seed in range(3))
    yield record(4, FRESH, 0.88)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "curves").mkdir()
    records = Records(tmp_path / "records", TrialRecord)
    for one in all_records():
        records.put(one)
        lines = [{"epoch": n, "score": one.score * n / 2} for n in (1, 2)]
        (tmp_path / one.curve).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


@pytest.fixture
def result(folder):
    records = tuple(all_records())
    rows = [[r.score for r in records if r.values["se_ratio"] == q][:3] for q in SIZES]
    labels = tuple(dict.fromkeys(r.label for r in records))
    costs = (tuple(SIZES.values()), tuple(1024 / q for q in SIZES))
    decision = Cheapest(0.02, metric="val_accuracy").choose(
        ScoreTable(labels, rows, *costs, direction="max")
    )
    failed = record(2, 3, cause="ValueError: no <luck>")
    return SearchResult(
        objective="cheapest:0.02:val_accuracy",
        metric="val_accuracy",
        direction="max",
        epochs=2,
        seeds=(0, 1, 2),
        records=(*records, failed),
        chosen=decision.chosen,
        values={"se_ratio": 4, "se_gate": "sigmoid"},
        plan=None,
        placement=None,
        decision=decision,
        sentence=decision.sentence,
        confirmation=Confirmation((FRESH,), 0.88, None, 0.91, {"accuracy": 0.5}),
        folder=folder,
    )


def test_the_front_has_what_no_other_beats_in_both(result):
    found = candidates(result)
    front = pareto_front(found, "max")
    assert [each.parameters for each in front] == [550, 600, 700]  # 900 is larger and worse
    assert [each.mean for each in front] == pytest.approx([0.70, 0.86, 0.91])
    assert [each.parameters for each in pareto_front(found, "max", ("flops",))] == [600, 700]
    # As a loss the smallest is the best of all, but for another that needs fewer operations.
    assert [each.parameters for each in pareto_front(found, "min")] == [550, 600]
    # Records from before there were FLOPs: these do not count then.
    old = dataclasses.replace(found[0], records=(dataclasses.replace(record(2, 0, 1), flops=None),))
    assert len(pareto_front([old, *found[1:]], "min")) == 1


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(1, 1), (1, 1)], [0]),
        ([(1, 2, 3), (1, 3, 2), (0, 9, 9), (1, 3, 3)], [0, 1, 2]),
        ([(2, 1), (1, 1), (0, 2)], [1, 2]),
    ],
)
def test_no_other_point_is_below_those_of_a_front(points, expected):
    assert front(points) == expected


def test_candidates_are_without_fresh_seeds(result):
    two, four, *_ = candidates(result)
    assert len(four.records) == 3
    assert four.deviation == pytest.approx(0.001)
    assert (len(two.records), len(two.scores), two.seconds) == (4, 3, 5.0)
    assert levels(candidates(result)).keys() == {"se_ratio"}  # all have one gate
    failed = dataclasses.replace(result, records=(record(2, 0, cause="x"),), decision=None)
    (only,) = candidates(failed)
    assert math.isnan(only.mean)
    assert (only.deviation, pareto_front([only], "max")) == (None, [])


def test_text_has_the_conclusion_first_and_80_columns(result):
    lines = str(result).splitlines()
    assert lines[0].startswith("Chosen: ratio=4 <b>. ")
    assert all(len(line) <= 80 for line in lines)
    rows = [line.split() for line in lines]
    assert ["ratio=4", "<b>", "700", "7", "256", "3", "0.91", "0.001"] in [row[:8] for row in rows]
    assert "1 failed: ValueError: no <luck>" in lines
    assert "14 trainings of 4 candidates, 18 s in all." in lines
    assert (
        "On 1 fresh seed: val_accuracy 0.88 (chosen by 0.91); on test data accuracy 0.5." in lines
    )
    shown = result._repr_html_()
    assert shown.startswith("<div>\n<p><strong>Chosen: ratio=4 &lt;b&gt;. ")
    (table,) = tables(shown)
    assert [row[0] for row in table[1:]] == [f"ratio={n} <b>" for n in (4, 2, 8, 16)]


def test_rows_and_csv_are_the_records(result, tmp_path):
    rows = result.table()
    assert len(rows) == 14
    assert rows[3] == {
        "label": "ratio=4 <b>", "candidate": "r4", "seed": 0, "status": "completed",
        "score": 0.909, "epoch": 0, "parameters": 700, "complexity": 256.0,
        "flops": 7_000_000, "seconds": 1.25, "cause": "",
        "value:se_gate": "sigmoid", "value:se_ratio": 4,
        "metric:loss": 1.5, "metric:val_accuracy": 0.909, "test:accuracy": None,
    }  # fmt: skip
    result.to_csv(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["score"] for row in read] == [
        "" if row["score"] is None else str(row["score"]) for row in rows
    ]
    with pytest.raises(InputError, match="must not exist yet"):
        result.to_csv(tmp_path / "a.csv")


def test_the_page(result, tmp_path):
    result.to_html(tmp_path / "search.html")
    page = opened(tmp_path / "search.html", width=360)
    assert (page.console, page.requests) == ([], [])
    assert page.width <= 360
    table, failures = page.tables
    assert [row[0] for row in table] == ["candidate", *(f"ratio={n} <b>" for n in (4, 2, 8, 16))]
    chosen = next(s for s in result.decision.standings if s.name == result.chosen)
    assert table[1] == [
        *("ratio=4 <b>", "700", "7", "256", "3", "0.91", "0.001"),
        *(f"{chosen.upper:.3g}", "3.8", "chosen, on the front"),
    ]
    assert failures[1] == ["ValueError: no <luck>", "1"]
    text = " ".join(re.sub(r"<[^>]+>", " ", page.dom.partition("<main>")[2]).split())
    assert text.index("Chosen: ratio=4") < text.index("Candidates") < text.index("Learning curves")
    name = result.folder.name
    assert page.headings[0] == f"h1 Search {name} for val_accuracy, cheapest:0.02:val_accuracy"
    assert f"<title>Search {name}: ratio=4 &lt;b&gt;</title>" in page.dom
    labels = [picture["aria-label"] for picture in page.pictures]
    assert labels[0].endswith("from 550 to 900; 3 are on the Pareto front.")
    assert labels[1].endswith("from 5,500,000 to 9,000,000; 2 are on the Pareto front.")
    assert labels[2] == "Mean val_accuracy by se_ratio: 2 0.9, 4 0.91, 8 0.86, 16 0.7."
    assert labels[3].startswith("val_accuracy by epoch of ratio=4 <b>, ")


def test_a_finished_folder_gives_its_result(result, folder):
    (folder / "result.json").write_text(result.to_json())
    assert SearchResult.from_folder(folder) == result


def test_a_search_that_has_not_finished_shows_what_it_has(folder, result):
    (folder / "records" / "r16-s2.json").unlink()  # not trained yet
    (folder / "records" / "r8-s0.json").write_text("{")  # damaged, and left to the search
    so_far = SearchResult.from_folder(folder)
    assert so_far.sentence.startswith("The search has not finished. So far: ")
    assert so_far.chosen == "ratio=4 <b>"
    assert [standing.parameters for standing in so_far.decision.standings] == [900, 700]
    assert len(so_far.records) == 11
    assert (folder / "records" / "r8-s0.json").read_text() == "{"
    assert str(so_far).startswith("Provisional: ratio=4 <b>. The search has not finished.")
    assert not so_far.finished
    assert result.finished
    page = so_far.page()
    assert "best so far, on the front" in page
    assert "hosen" not in page
    for path in (folder / "records").glob("r*-s[12].json"):
        path.unlink()
    few = SearchResult.from_folder(folder)
    assert few.decision is None
    assert few.sentence.endswith(
        "ratio=4 <b> has the best score of a single training, which may be chance: it takes 3 "
        "seeds or more to tell candidates apart."
    )
    # One seed has no spread, and nothing is compared.
    shown = few.page()
    assert not re.search("sd:|loses ≤|95 %", str(few) + shown)
    assert not {"sd", "loses ≤"} & set(tables(shown)[0][0])
    # Of equal scores a finished search takes the fewest parameters.
    path = folder / "records" / "r16-s0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": 0.909}))
    assert SearchResult.from_folder(folder).chosen == "ratio=16 <b>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "job.toml").unlink(), "needs the folder of a search.*FileNotFoundError"),
        (lambda f: (f / "job.toml").write_text("a ="), "needs the folder of a search.*TOML"),
        (lambda f: (f / "job.toml").write_text(JOB.replace("[0", '["a"')), "a list of seeds"),
        (
            lambda f: [path.unlink() for path in (f / "records").iterdir()],
            "a search with a completed trial.*with 0 records",
        ),
        (lambda f: (f / "result.json").write_text("{"), "needs the result.json"),
        (lambda f: (f / "result.json").write_text('{"schema": 9}'), "its schema is not 1"),
    ],
)
def test_folders_that_show_nothing(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message):
        SearchResult.from_folder(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"score": "x"}', "[" * 10_000])
def test_a_damaged_curve_is_no_curve(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    assert read_curve(tmp_path / "a.jsonl") == []
    assert read_curve(tmp_path / "missing.jsonl") == []
