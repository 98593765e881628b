"""A search is killed with signal 9 at every named point, and started again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import faults
import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("killed_search.py")
ONCE = ("job", "fingerprint", "result")  # written once in a search
# Early and late in turn, so that each write has both.
TIMES = [(p, 1 if p.startswith(ONCE) else (1, 6)[n % 2]) for n, p in enumerate(faults.POINTS)]
RANDOM = ("record.after", "trial.opened", "trial.measured", "oracle.before")
CASES = [
    ("workers", "+".join(["begun.after:3"] * 3)),  # first, for it takes longest
    *(("exhaustive", f"{point}:{number}") for point, number in TIMES),
    *(("exhaustive", f"record.after:{number}") for number in (6, 13, 16, 19)),
    *(("random", f"{point}:3") for point in RANDOM),
    # Six kills of one folder: in one trial, and in the middle of six.
    ("exhaustive", "+".join(["begun.after:1"] * 6)),
    ("random", "+".join(["begun.after:2"] * 6)),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What became of each case, and of a search that nobody killed."""
    root = tmp_path_factory.mktemp("killed")
    cases = [(oracle, "") for oracle in ("exhaustive", "random")] + CASES
    named = [(f"case{n}", oracle, fault) for n, (oracle, fault) in enumerate(cases)]
    process = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, root],
        # Nothing is computed, and with NumPy a model is built in no time.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(Path(faults.__file__).parent), str(ROOT))),
            "KERAS_BACKEND": "numpy",
        },
        input=json.dumps(named),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    found = {}
    for name, oracle, fault in named:
        path = root / f"{name}.report"
        assert path.exists(), process.stderr[-3000:]
        found[oracle, fault] = json.loads(path.read_text())
    return found


def test_the_search_that_nobody_killed(reports):
    """It is long enough to be killed: further seeds are asked for, a candidate fails."""
    report = reports["exhaustive", ""]
    assert (report["killed"], report["again"]) == (0, 0)
    assert report["answer"]["records"] > 17  # five candidates on three seeds, two fresh, and more
    assert None in report["answer"]["scores"].values()
    assert report["most_trainings"] == 1


@pytest.mark.parametrize(("oracle", "fault"), CASES)
def test_nothing_is_lost_and_nothing_is_trained_twice(reports, oracle, fault):
    # Where a trial runs changes nothing.
    report, whole = reports[oracle, fault], reports[oracle.replace("workers", "exhaustive"), ""]
    assert report["killed"] == -9
    assert report["again"] == 0
    assert report["touched"] == []
    assert report["trained_twice"] == []
    assert report["most_trainings"] <= 2 + fault.count("+")
    assert report["answer"] == whole["answer"]
    assert report["leftovers"] == []


def test_the_kills_came_at_different_times(reports):
    """That the guard above can fail: records were there, and were not."""
    finished = {report["finished_before"] for report in reports.values()}
    assert {0, 2, 3, 5, 6, 13, 16, 19} <= finished


def test_the_folder_of_keras_tuner_is_set_aside_only_where_it_was_never_completed(reports):
    asides = {fault for (_, fault), report in reports.items() if report["asides"]}
    assert asides <= {"oracle.before:1", "oracle.after:1"}
