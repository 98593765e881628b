"""Real searches, with keras-tuner, of networks that train in a second."""

import json

import keras
import keras_tuner
import numpy as np
import pytest

from keras_se import insert
from keras_se.errors import InputError
from tuning import SESpace, search

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6, 6, 1)).astype("float32")
Y = (X.mean(axis=(1, 2, 3)) > 0).astype("int64")
SPACE = SESpace((2, 4), ("sigmoid", "one_plus_tanh"))


def base():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


def compile_it(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)


def run(directory, space=SPACE, *, objective="val_loss", compile=compile_it, **arguments):
    train, validation = (X[:48], Y[:48]), (X[48:], Y[48:])
    return search(
        base, train, validation, space, objective,
        epochs=2, compile=compile, directory=directory, **arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    seen = []
    folder = tmp_path_factory.mktemp("search") / "records"
    return run(folder, on_trial=seen.append), seen, folder


def test_every_combination_is_trained_once(searched):
    result, seen, _ = searched
    settings = [(trial.settings["ratio"], trial.settings["gate"]) for trial in result.trials]
    assert settings == [(r, g) for r in SPACE.ratios for g in SPACE.gates]
    assert tuple(seen) == result.trials
    assert {trial.status for trial in result.trials} == {"completed"}


def test_records_hold_the_metrics_and_the_size(searched):
    for trial in searched[0].trials:
        assert set(trial.metrics) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert trial.parameters == insert(base(), **trial.settings).count_params()


def test_the_best_has_the_lowest_objective(searched):
    result = searched[0]
    best = min(result.trials, key=lambda trial: trial.metrics["val_loss"])
    assert result.settings == best.settings
    assert result.plan == {"se_1": best.settings}
    assert (result.objective, result.epochs, result.seed) == ("val_loss", 2, 0)


def test_json(searched):
    content = json.loads(searched[0].to_json())
    assert content["plan"] == searched[0].plan
    assert len(content["trials"]) == 4


def test_one_seed_gives_one_result_and_another_seed_another(searched, tmp_path):
    small = SESpace((2,), ("sigmoid", "one_plus_tanh"))
    again, other = (run(tmp_path / str(seed), small, seed=seed) for seed in (0, 1))
    first = [trial.metrics["val_loss"] for trial in searched[0].trials[:2]]
    assert [trial.metrics["val_loss"] for trial in again.trials] == pytest.approx(first, abs=1e-5)
    assert other.trials[0].metrics["val_loss"] != pytest.approx(first[0], abs=1e-4)


def test_an_accuracy_is_maximized(tmp_path):
    objective = keras_tuner.Objective("val_accuracy", "max")
    result = run(tmp_path / "a", objective=objective)
    best = max(trial.metrics["val_accuracy"] for trial in result.trials)
    chosen = [trial for trial in result.trials if trial.settings == result.settings]
    assert chosen[0].metrics["val_accuracy"] == best


def test_a_failed_candidate_does_not_end_the_search(tmp_path, capsys):
    def picky(model):
        if model.layers[1].gate == "sigmoid":
            raise ValueError("sigmoid is not for sale")
        compile_it(model)

    result = run(tmp_path / "a", compile=picky)
    assert [trial.status for trial in result.trials] == ["failed", "completed"] * 2
    assert "sigmoid is not for sale" in result.trials[0].cause
    assert result.trials[0].metrics == {}
    assert result.settings["gate"] == "one_plus_tanh"


def test_a_search_in_which_all_fail_is_an_error(tmp_path):
    def impossible(model):
        raise ValueError("nothing is for sale")

    with pytest.raises(InputError, match=r"must finish.* 4 failures, the first: .*nothing is for"):
        run(tmp_path / "a", compile=impossible)
    assert not (tmp_path / "a").exists()  # the next try needs the name


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((X[:5], Y), r"arrays \(x, y\) of one length, above 0\. Received: lengths \[5, 64\]"),
        ((X[:0], Y[:0]), r"Received: lengths \[0, 0\]"),
        ((np.full_like(X, np.nan), Y), "x of train must be finite"),
    ],
)
def test_bad_arrays_are_refused_before_any_training(tmp_path, train, message):
    with pytest.raises(InputError, match=message):
        search(base, train, (X, Y), SPACE, epochs=1, compile=compile_it, directory=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_cause_of_a_failure_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="the first: Received a label value of 7 which is outside"):
        search(base, (X, Y + 6), (X, Y), SESpace((2,), ("sigmoid",)), epochs=1,
               compile=compile_it, directory=tmp_path / "a")  # fmt: skip


def test_records_of_another_search_are_left_alone(searched):
    folder = searched[2]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(InputError, match="a new folder for its records"):
        run(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_no_epochs(tmp_path):
    with pytest.raises(InputError, match=r"epochs must be at least 1\. Received: epochs=0"):
        search(base, (X, Y), (X, Y), SPACE, epochs=0, compile=compile_it, directory=tmp_path / "a")
