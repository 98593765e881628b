"""What one sees of a search, on a terminal and elsewhere."""

import io
import re
import time

import keras
import numpy as np
import pytest
from rich.console import Console
from terminals import pipe, terminal

import keras_se
import tuning
from keras_se.display import progress as steps
from keras_se.display import screen as screens
from keras_se.errors import InputError
from tuning import Budget, TrialRecord
from tuning.running.progress import SearchProgress
from tuning.trials.combination import Combination
from tuning.trials.perform import Epochs, Run
from tuning.trials.records import FRESH

X = np.random.default_rng(0).normal(size=(16, 6, 6, 1)).astype("float32")
PART = X, np.zeros(16, "int64")


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    """Cursors may move on the terminal, and lines come soon elsewhere."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(screens, "_FIRST_LINE", 0.3)


def console(is_terminal):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=80, highlight=False)


def record(label="ratio=4", seed=0, score=0.25, cause=""):
    status = "failed" if cause else "completed"
    return TrialRecord(
        label, label, {}, seed, status, None if cause else score, cause=cause, seconds=1.5
    )


def shown(screen, direction, records, planned=4, on_record=()):
    with SearchProgress("val_loss", direction, to=screen) as progress:
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
    with pytest.raises(KeyError, match="a fault"), SearchProgress("val_loss", "min", to=screen):
        raise KeyError("a fault")
    assert screen.file.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def running(*epochs, label="ratio=2", of=5):
    run = Run(Combination(label, label, {"tuner/epochs": of}), 0)
    return lambda: [(run, Epochs(*epochs))]


def drawn_with(trials, planned=2, records=(), doing=""):
    screen = console(True)
    with SearchProgress("val_loss", "min", 9, screen) as progress:
        progress.start(Budget(planned, planned), trials)
        for one in records:
            progress.add(one)
        progress.do(doing)
        time.sleep(0.6)
        shown = screen.file.getvalue()
    return last_table(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ((0,), "ratio=2, seed 0: epoch 1 of 5"),
        ((3, 0.125), "ratio=2, seed 0: epoch 4 of 5, val_loss 0.125"),
        ((5, 0.1), "ratio=2, seed 0: epoch 5 of 5, val_loss 0.1"),
        ((7, None), "ratio=2, seed 0: epoch 7 of 5"),  # the user's own `fit` does as it likes
        ((None,), "ratio=2, seed 0: running"),
    ],
)
def test_a_running_trial_shows_its_epoch(epochs, words):
    assert words in [line.rstrip() for line in drawn_with(running(*epochs))]


def test_a_bar_is_not_full_while_trials_run():
    done = [record(), record(seed=1)]
    assert "2/3" in drawn_with(running(1), 2, done)[-1]  # one more than was planned
    full = "━" * 12
    for table in (drawn_with(running(1), 2, done), drawn_with(list, 2, done, "writing")):
        assert full not in table[-1] or "writing" in table[-1]
    assert "time left" not in drawn_with(list, 2, done, "writing")[-1]


def test_epochs_of_running_trials_count_for_the_time_left():
    assert "time left 0:0" in drawn_with(running(4), 1)[-1]
    assert "time left" not in drawn_with(running(0), 1)[-1]  # nothing is known yet


def base():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


class Slow(keras.callbacks.Callback):
    """Takes its time after each epoch, and looks at the gates in it."""

    def on_epoch_end(self, epoch, logs=None):
        keras_se.read_gates(self.model, X)
        time.sleep(0.4)


def search(folder, **given):
    return tuning.search(
        base,
        PART,
        PART,
        tuning.SESpace((2,), ("one_plus_tanh",), baseline=False),
        epochs=3,
        seeds=1,
        fresh_seeds=0,
        threads=1,
        directory=folder,
        compile={
            "optimizer": "sgd",
            "loss": {
                "class_name": "SparseCategoricalCrossentropy",
                "config": {"from_logits": True},
            },
            "run_eagerly": True,
        },
        fit={"callbacks": [Slow()]},
        **given,
    )


def test_a_search_shows_its_trials_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steps, "_AFTER", 0.0)
    with terminal(monkeypatch, 120) as shown:
        search(tmp_path / "a")
    text = "\n".join(shown.lines)
    assert "1 training to come." in text
    assert re.search(r"seed 0: epoch 2 of 3, val_loss 0\.\d+$", text, re.MULTILINE)
    assert "read_gates" not in text
    assert "1/1" in shown.lines[-1]
    assert shown.raw.count("\x1b[?25h") == 1
    assert capsys.readouterr().out == ""


def test_a_search_says_its_trials_elsewhere(tmp_path, monkeypatch, capsys):
    with pipe(monkeypatch) as stream:
        search(tmp_path / "a")
        lines = stream.getvalue().splitlines()
        stream.truncate(0)
        search(tmp_path / "b", progress=False)
        assert stream.getvalue() == ""
    clock = r"\d\d:\d\d:\d\d"
    trial = rf"{clock} search: 0 of 1 trials(, about 0:0\d left)?; .*, seed 0: epoch [123] of 3.*"
    assert any(re.fullmatch(trial, line) for line in lines)
    assert any(re.match(r"\[1/1\] .*, seed 0: val_loss 0", line) for line in lines)
    assert capsys.readouterr().out == ""


def test_a_search_shows_the_epochs_of_trials_in_other_processes(tmp_path, monkeypatch):
    with terminal(monkeypatch, 120) as shown:
        search(tmp_path / "a", workers=2)
    text = "\n".join(shown.lines)
    assert re.search(r"seed 0: epoch [23] of 3, val_loss 0\.\d+$", text, re.MULTILINE)


def test_another_place_must_be_a_console(tmp_path):
    with pytest.raises(InputError, match=r"a rich\.console\.Console\. Received: progress='yes'"):
        search(tmp_path / "a", progress="yes")
