"""`python -m benchmarks`: a part of a quick run, and what is made of any run."""

import importlib
import json
import math
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import plots, tables
from benchmarks.harness.environment import Environment
from benchmarks.harness.page import page
from benchmarks.harness.results import Comparison, Results, Topic
from benchmarks.harness.timing import Summary, Work, measure, slopes
from benchmarks.topics import TOPICS
from keras_se.display.text import rendered

FOLDER = Path(__file__).parents[1] / "benchmarks"
TYPES = {
    "": {"schema": int, "quick": bool, "environment": dict, "topics": list},
    "environment": {
        "processor": str, "cores": int, "system": str, "python": str, "packages": dict,
        "load": float, "date": str,
    },
    "topic": {
        "name": str, "seconds": float, "comparisons": list, "missing": list, "failure": str,
    },
    "comparison": {"name": str, "case": str, "baseline": str, "variants": list},
    "variant": {"name": str, "seconds": list, "facts": dict},
}  # fmt: skip


def check(kind, content):
    """Whether a part of the JSON has these keys and types, and no others."""
    assert {key: type(value) for key, value in content.items()} == TYPES[kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A quick run of two topics on tiny sizes, in this process."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        block = importlib.import_module("benchmarks.topics.block")
        patch.setattr(block, "QUICK_MAPS", ((4, 4, 32),))
        patch.setattr(block, "MODES", {"forward": (False, False), "training": (True, False)})
        words = ["--quick", "--output", str(folder), "--json", str(folder / "copy" / "x.json")]
        code = main(["surgery", "block", *words], apart=False)
    assert code == 0
    assert (folder / "copy" / "x.json").read_text() == (folder / "results.json").read_text()
    return folder


@pytest.fixture(scope="module")
def content(folder):
    return json.loads((folder / "results.json").read_text())


def test_json_has_this_schema(content):
    assert content["schema"] == Results.schema == 1
    assert content["quick"] is True
    check("", content)
    check("environment", content["environment"])
    assert [topic["name"] for topic in content["topics"]] == ["block", "surgery"]
    for topic in content["topics"]:
        check("topic", topic)
        for comparison in topic["comparisons"]:
            check("comparison", comparison)
            for variant in comparison["variants"]:
                check("variant", variant)
                assert len(variant["seconds"]) == 3
                assert all(0.0 < seconds < 60.0 for seconds in variant["seconds"])


def test_the_page_is_made_of_the_json(folder, content):
    written = (folder / "RESULTS.md").read_text()
    assert written == page(Results.from_dict(content))
    assert "python -m benchmarks --quick block surgery" in written
    ratio = Results.from_dict(content).topics[1].comparisons[0].ratio("insert")
    assert f"insert {tables.words(ratio)}" in written
    content["topics"][1]["comparisons"][0]["variants"][-1]["seconds"] = [9.0, 9.0, 9.0]
    changed = page(Results.from_dict(content))
    assert "| insert | 9.00 s |" in changed
    assert "| insert | 9.00 s |" not in written


def test_the_page_shows_its_plots_which_are_the_same_again(folder, capsys):
    shown = re.findall(r"!\[.+\]\((.+\.svg)\)", (folder / "RESULTS.md").read_text())
    assert shown == ["plots/block.svg", "plots/surgery.svg"]
    before = {name: (folder / name).read_bytes() for name in shown}
    for name in shown:
        assert b"#ffffff" in before[name]
        (folder / name).unlink()
    assert main(["--again", "--output", str(folder)]) == 0
    assert {name: (folder / name).read_bytes() for name in shown} == before
    assert str(folder / "RESULTS.md") in capsys.readouterr().out


def test_the_variants_of_the_layer_are_all_there(content):
    for comparison in content["topics"][0]["comparisons"]:
        names = [variant["name"] for variant in comparison["variants"]]
        missing = [sentence.partition(":")[0] for sentence in content["topics"][0]["missing"]]
        assert names[0] == "SEBlock"
        assert names[-1] == "memory floor"
        assert sorted({"keras-cv", "kimm"} - set(names)) == sorted(missing)


@pytest.mark.skipif(not (FOLDER / "results.json").exists(), reason="no full run is kept")
def test_the_kept_page_is_made_of_the_kept_json():
    kept = Results.from_dict(json.loads((FOLDER / "results.json").read_text()))
    assert (FOLDER / "RESULTS.md").read_text() == page(kept)
    assert not kept.quick
    assert [topic.name for topic in kept.topics] == list(TOPICS)
    assert not any(topic.failure for topic in kept.topics)
    for topic in kept.topics:
        for plot in topic.module.plots(topic):
            assert (FOLDER / "plots" / f"{plot.name}.svg").exists()
        rounds = {len(v.seconds) for c in topic.comparisons for v in c.variants}
        if topic.name not in ("search", "growth"):
            assert min(rounds) >= 15


def test_other_schemas_and_topics_are_refused(capsys):
    with pytest.raises(ValueError, match=r"must have schema 1\. Received: 2"):
        Results.from_dict({"schema": 2})
    with pytest.raises(SystemExit):
        main(["blok"])
    assert "TOPIC must be one of ('block', " in capsys.readouterr().err


def test_a_topic_that_fails_is_said_and_the_code_is_1(tmp_path):
    failed = Topic("surgery", 0.0, (), failure="ValueError: no")
    results = Results(False, ENVIRONMENT, (failed,))
    assert "surgery: not measured. ValueError: no" in str(results)
    assert "Not measured: ValueError: no" in page(results)
    (tmp_path / "results.json").write_text(results.to_json())
    assert main(["--again", "--output", str(tmp_path)]) == 1


ENVIRONMENT = Environment("a processor", 2, "Linux", "3.11", {"kimm": ""}, 3.0, "2026-01-01")


def test_a_machine_that_was_busy_and_packages_that_miss_are_said():
    text = page(Results(True, ENVIRONMENT, ()))
    assert "kimm not installed" in text
    assert "Load before the run: 3.0. **The machine was not idle.**" in text
    assert "**A quick run" in text


def test_rounds_go_through_all_variants_in_turn():
    order = []
    works = {name: Work(order.append, prepare=lambda name=name: name) for name in "abc"}
    found = measure(works, rounds=4)
    assert "".join(order) == "abc" + "abc" + "acb" + "cab" + "cba"
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys("abc", 4)


def test_short_work_is_called_often_and_its_preparation_is_off_the_clock():
    calls = []
    measure({"a": Work(lambda: calls.append(1))}, rounds=1)
    assert len(calls) > 1000
    slow = {"a": Work(lambda _: None, prepare=lambda: sum(range(10**6)))}
    assert min(measure(slow, rounds=5)["a"]) < 1e-3


def test_the_interval_of_a_median_covers_it_as_the_binomial_distribution_says():
    assert Summary.of([1, 2, 3]) == Summary(2, 1, 3, None, None, 3)
    assert Summary.of([5, 4, 3, 2, 1]).least is None  # 1 - 2 / 2**5 is below .95
    six, fifteen = Summary.of(range(6)), Summary.of(range(15))
    assert (six.least, six.most) == (0, 5)
    assert (fifteen.least, fifteen.most) == (3, 11)
    outside = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert outside <= 0.05 < outside + 2 * math.comb(15, 4) / 2**15
    assert (fifteen.median, fifteen.low, fifteen.high) == (7, 3.5, 10.5)
    assert [fifteen.against(value) for value in (2, 7, 12)] == [1, 0, -1]


def test_ratios_are_of_one_round():
    seconds = {"a": (1.0, 10.0, 100.0), "b": (2.0, 20.0, 200.0)}
    found = Comparison.of("x", seconds, "a").ratio("b")
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_slopes_are_powers():
    sizes = (1, 10, 100)
    found = slopes(sizes, [[3.0 * n**1.5, 5.0 * n**0.5] for n in sizes])
    assert (found.low, found.high) == pytest.approx((0.5, 1.5))


def test_growth_is_told_over_all_sizes_and_at_the_end():
    seconds = {"1": [1.0] * 15, "10": [1.0] * 15, "100": [100.0] * 15}
    facts = {name: {"size": int(name)} for name in seconds}
    comparison = Comparison.of("sites", seconds, facts=facts)
    _, table = tables.markdown(tables.of_growth([comparison]))
    assert table.splitlines()[-1] == "| sites | 1-100 | 1.00 s | 100 s | 1.00 | 2.00 | 2.00-2.00 |"


def test_words_tell_only_what_the_rounds_show():
    more, none = Summary.of([1.2] * 15), Summary.of([0.9, 1.1] * 8)
    assert tables.words(more) == "1.20 (1.20-1.20: more)"
    assert tables.words(none) == "1.00 (0.90-1.10: no difference seen)"
    assert tables.words(Summary.of([1.2, 1.3])) == "1.25 (1.20-1.30)"


def test_tables_have_80_columns_and_are_paragraphs_of_markdown():
    facts = {"a_b": {"operators": 7}, "c": {}}
    seconds = {"a_b": [1e-3] * 15, "c": [0.5] * 15}
    comparison = Comparison.of("both", seconds, "a_b", facts=facts)
    parts = list(tables.of_comparison(comparison, ["operators"]))
    assert max(map(len, rendered(parts).splitlines())) <= 80
    sentence, table = tables.markdown(parts)
    assert sentence == "both, 15 rounds; ratios to a\\_b."
    assert table.splitlines()[0] == "|  | time | ratio | quartiles | 95 % | operators |"
    assert "| a\\_b | 1.00 ms | 1.00 | 1.00-1.00 | 1.00-1.00 | 7 |" in table
    assert "| c | 500 ms | 500 | 500-500 | 500-500 | - |" in table


def test_plots_do_not_change_from_one_drawing_to_the_next():
    comparison = Comparison.of("x", {"a": [1.0] * 6, "b": [2.0] * 6}, "a")
    first, second = (plots.ratios("x", [comparison], "time").svg for _ in range(2))
    assert first == second
    assert plots.ratios("y", [comparison], "time").svg != first
