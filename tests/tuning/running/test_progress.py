"""What one sees of a search, on a terminal and elsewhere."""

import io
import re

import pytest
from rich.console import Console
from tuning.running.progress import SearchProgress

from tuning import Budget, TrialRecord
from tuning.trials.records import FRESH


def console(is_terminal):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=80, highlight=False)


def record(label="ratio=4", seed=0, score=0.25, cause=""):
    status = "failed" if cause else "completed"
    return TrialRecord(
        label, label, {}, seed, status, None if cause else score, cause=cause, seconds=1.5
    )


def shown(screen, direction, records, planned=4, on_record=()):
    with SearchProgress(screen, "val_loss", direction) as progress:
        progress.start(Budget(planned, planned, tuple(on_record)))
        for one in records:
            progress.add(one)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue())


def test_plain_lines():
    records = [record(), record("ratio=8", 1), record(seed=1, cause="ValueError: no")]
    assert shown(console(False), "min", records).splitlines() == [
        "4 trainings to come.",
        "[1/4] ratio=4, seed 0: val_loss 0.25 (1.5 s)",
        "At 1.5 s a training, about 0:04.",
        "[2/4] ratio=8, seed 1: val_loss 0.25 (1.5 s)",
        "[3/4] ratio=4, seed 1: failed: ValueError: no",
    ]


def test_trials_on_record_are_said_and_counted():
    known = [record(seed=seed) for seed in range(12)]
    lines = shown(console(False), "min", [record(seed=12)], 6, known).splitlines()
    assert lines == [
        "6 trainings to come; 12 on record already, which are not run again. "
        "At 1.5 s a training, about 0:09.",
        "[13/18] ratio=4, seed 12: val_loss 0.25 (1.5 s)",
    ]


def test_trials_on_record_are_in_the_table_and_the_bar():
    known = [record(score=0.1), record("ratio=8"), record("c", cause="ValueError: no")]
    table = last_table(shown(console(True), "min", [record(seed=1, score=0.2)], 6, known))
    assert table[0].strip() == "best so far, of 2 candidates"
    rows = [line.split() for line in table]
    assert ["ratio=4", "2", "0.15"] in rows
    assert ["ratio=8", "1", "0.25"] in rows
    assert any("failed: ValueError: no" in line for line in table)
    assert "4/9" in table[-1]


def test_a_number_that_is_not_known_or_grows():
    assert "\n[1] ratio=4" in shown(console(False), "min", [record()], planned=None)
    lines = shown(console(False), "min", [record(seed=s) for s in range(3)], planned=2)
    found = [line.split()[0] for line in lines.splitlines() if line.startswith("[")]
    assert found == ["[1/2]", "[2/2]", "[3/3]"]


def last_table(printed):
    return printed[printed.rindex("best so far") :].splitlines()


@pytest.mark.parametrize(("direction", "first"), [("min", "ratio=8"), ("max", "ratio=4")])
def test_a_terminal_shows_the_best_mean_first(direction, first):
    records = [record(), record("ratio=8", score=0.1), record("ratio=8", 1, score=0.2)]
    table = last_table(shown(console(True), direction, records))
    assert table[0].strip() == "best so far, of 2 candidates"
    rows = [line.split() for line in table if line.strip().startswith("ratio")]
    assert rows[0][0] == first
    assert ["ratio=8", "2", "0.15"] in rows
    assert "3/4" in table[-1]
    assert "time left" in table[-1]


def test_fresh_seeds_are_no_part_of_the_best_mean():
    table = last_table(shown(console(True), "min", [record(), record(seed=FRESH, score=0.9)]))
    assert ["ratio=4", "1", "0.25"] in [line.split() for line in table]
    assert "2/4" in table[-1]


def test_a_terminal_shows_failures():
    table = last_table(shown(console(True), "min", [record(cause="ValueError: no")]))
    assert any("failed: ValueError: no" in line for line in table)


def test_words_of_the_user_are_no_markup():
    """A closing tag that nothing opened would end the search."""
    records = [record("name=[/b]"), record("name=[red]"), record("c", cause="bad [/x] thing")]
    table = "\n".join(last_table(shown(console(True), "min", records)))
    for words in ("name=[/b]", "name=[red]", "bad [/x] thing"):
        assert words in table


def test_a_terminal_is_left_as_it_was_by_an_error():
    screen = console(True)
    with pytest.raises(KeyError, match="a fault"), SearchProgress(screen, "val_loss", "min"):
        raise KeyError("a fault")
    assert screen.file.getvalue().endswith("\x1b[?25h")  # the cursor is shown again
