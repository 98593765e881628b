"""Real searches, with keras-tuner, of networks that train in a second."""

import contextlib
import functools
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import warnings

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from keras_se import cost, insert
from keras_se.errors import InputError
from tuning import (
    Cheapest,
    NoCandidateError,
    SearchResult,
    SearchWarning,
    SEHyperModel,
    SESpace,
    StructuralRisk,
    search,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6, 6, 1)).astype("float32")
Y = (X.mean(axis=(1, 2, 3)) > 0).astype("int64")
TRAIN, VALIDATION = (X[:48], Y[:48]), (X[48:], Y[48:])
SPACE = SESpace((2, 4), ("one_plus_tanh",))
PAIR = SESpace((2,), ("one_plus_tanh",))
SMALL = SESpace((2,), ("one_plus_tanh",), baseline=False)  # one candidate
COMPILE = {
    "optimizer": "adam",
    "learning_rate": 0.05,
    "loss": {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "metrics": ["accuracy"],
    "run_eagerly": True,  # tracing a graph takes longer than a trial
}


def base():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


DATASET = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(8)


class Locked:
    """A builder that stays where it is."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self):
        return base()


def run(directory, model=base, space=SPACE, objective="cheapest:0.3", **arguments):
    given = {"epochs": 1, "compile": COMPILE, "fresh_seeds": 0, **arguments}
    data = given.pop("data", (TRAIN, VALIDATION))
    return search(model, *data, space, objective, directory=directory, **given)


def screen(directory, *arguments, **further):
    return run(directory, *arguments, seeds=1, **further)


def trained(directory):
    """The records of a folder, with the time at which each was written."""
    return {path: path.stat().st_mtime_ns for path in (directory / "records").iterdir()}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder, seen = tmp_path_factory.mktemp("search") / "a", []
    result = run(
        folder,
        objective=Cheapest(0.3, max_seeds=3),
        epochs=2,
        test=VALIDATION,
        fresh_seeds=2,
        on_trial=seen.append,
    )
    return result, seen, folder


# --- What a search does ---------------------------------------------------------------------------


def test_every_candidate_is_trained_from_every_seed_and_the_winner_anew(searched):
    result, seen, _ = searched
    assert len(seen) == 3 * 3 + 2
    runs = [(r.label, r.seed) for r in result.records if r.seed < 100]
    assert runs == [(c, s) for c in ("ratio=2", "ratio=4", "no SE") for s in (0, 1, 2)]
    fresh = [r for r in result.records if r.seed >= 100]
    assert {r.label for r in fresh} == {result.chosen}
    assert result.confirmation.seeds == tuple(r.seed for r in fresh)


def test_records_hold_the_score_all_costs_and_the_curve(searched):
    result, _, folder = searched
    for record in result.records:
        ratio = record.values.get("se_ratio")
        plan = {} if ratio is None else {"se_1": {"ratio": ratio}}
        model = insert(base(), plan=plan)
        assert record.parameters == model.count_params()
        assert record.flops == cost(model).flops
        assert record.complexity == (0 if ratio is None else 8**2 / ratio)
        lines = [json.loads(line) for line in (folder / record.curve).read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        assert record.score == min(line["val_loss"] for line in lines)
        assert record.metrics["val_loss"] == record.score
        assert record.epoch == 1 + [line["val_loss"] for line in lines].index(record.score)


def test_the_decision_is_that_of_the_rule_on_the_records(searched):
    result = searched[0]
    means = {
        label: np.mean([r.score for r in result.records if r.label == label and r.seed < 100])
        for label in ("ratio=2", "ratio=4", "no SE")
    }
    assert result.decision.best == min(means, key=means.get)
    assert [s.mean for s in result.decision.standings] == pytest.approx(list(means.values()))
    assert set(result.tied) <= set(means)
    assert result.sentence == result.decision.sentence


def test_the_confirmation_is_measured_on_the_test_data_with_the_weights_that_count(searched):
    result = searched[0]
    fresh = [r for r in result.records if r.seed >= 100]
    assert result.confirmation.mean == pytest.approx(np.mean([r.score for r in fresh]))
    assert result.confirmation.deviation == pytest.approx(np.std([r.score for r in fresh], ddof=1))
    for record in fresh:  # the test data are the validation data here
        assert record.test["loss"] == pytest.approx(record.score, abs=1e-6)
    assert result.confirmation.test["loss"] == pytest.approx(result.confirmation.mean, abs=1e-6)


def test_the_winner_is_the_model_of_the_first_fresh_seed(searched):
    result = searched[0]
    first = next(r for r in result.records if r.seed == result.confirmation.seeds[0])
    loss = result.model().evaluate(*VALIDATION, verbose=0)[0]
    assert loss == pytest.approx(first.score, abs=1e-6)


def test_the_plan_builds_the_winner(searched):
    result = searched[0]
    record = next(r for r in result.records if r.label == result.chosen)
    assert insert(base(), plan=result.plan).count_params() == record.parameters


def test_retraining_from_a_seed_of_the_search_gives_its_scores(searched):
    result, _, folder = searched
    record = next(r for r in result.records if r.label == result.chosen and r.seed == 1)
    last = json.loads((folder / record.curve).read_text().splitlines()[-1])
    again = result.retrain(1).evaluate(*VALIDATION, verbose=0)[0]
    assert again == pytest.approx(last["val_loss"], abs=1e-5)


def test_retraining_on_other_data_for_other_epochs(searched):
    seen = []
    counter = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    searched[0].retrain(0, train=(X, Y), epochs=3, callbacks=[counter])
    assert len(seen) == 3
    assert "val_loss" not in seen[0]


def test_json_round_trip(searched):
    result, _, folder = searched
    again = SearchResult.from_json((folder / "result.json").read_text())
    assert again == result
    with pytest.raises(InputError, match=r"[Rr]un the same search again.* read from JSON"):
        again.model()
    with pytest.raises(InputError, match=r"from_json needs JSON text .* Received: "):
        SearchResult.from_json('{"objective": 1}')


def test_weights_are_kept_of_the_best_and_of_the_fresh(searched):
    result, _, folder = searched
    kept = {path.name.partition(".")[0] for path in (folder / "weights").iterdir()}
    best = sorted((r for r in result.records if r.seed < 100), key=lambda r: r.score)[:3]
    fresh = [r for r in result.records if r.seed >= 100]
    assert kept == {f"{r.candidate}-s{r.seed}" for r in (*best, *fresh)}


# Of the state of the optimizer, as after a search of keras-tuner.
@pytest.mark.filterwarnings("ignore:Skipping variable loading:UserWarning")
def test_keras_tuner_gives_the_models_whose_weights_were_kept(searched):
    """By its own call, and those of the seeds without part in the choice where there are any."""
    result, _, folder = searched
    hypermodel = SEHyperModel(base, SPACE, compile=COMPILE)
    tuner = keras_tuner.Tuner(
        keras_tuner.oracles.RandomSearchOracle("val_loss"),
        hypermodel,
        directory=folder,
        project_name="keras_tuner",
    )
    trials = {t.trial_id: t.hyperparameters.values for t in tuner.oracle.trials.values()}
    winner = next(key for key, values in trials.items() if values == result.values)
    model = tuner.load_model(tuner.oracle.trials[winner])
    for own, loaded in zip(result.model().weights, model.weights, strict=True):
        np.testing.assert_array_equal(own, loaded)
    (best,) = tuner.get_best_models(1)
    label = result.decision.best
    assert best.count_params() == next(r.parameters for r in result.records if r.label == label)


def test_keras_tuner_reads_the_folder(searched):
    """By its own tools, which take the mean over the executions of a trial for its score."""
    result, _, folder = searched
    tuner = keras_tuner.RandomSearch(
        lambda hp: base(), "val_loss", directory=folder, project_name="keras_tuner"
    )
    assert len(tuner.oracle.trials) == 3
    best = tuner.oracle.get_best_trials(1)[0]
    assert best.score == pytest.approx(min(s.mean for s in result.decision.standings))
    values = tuner.get_best_hyperparameters()[0].values
    assert values == next(r.values for r in result.records if r.label == result.decision.best)
    executions = best.metrics.get_history("val_loss")[0].value
    assert len(executions) == 3


# --- Going on -------------------------------------------------------------------------------------


@pytest.fixture
def copied(searched, tmp_path):
    shutil.copytree(searched[2], tmp_path / "a", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "a"


@contextlib.contextmanager
def said():
    """The sentences of the `SearchWarning`s in a block."""
    sentences = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SearchWarning)
        yield sentences
    sentences += [str(w.message) for w in caught if w.category is SearchWarning]


def again(folder, **changes):
    arguments = {"epochs": 2, "test": VALIDATION, "fresh_seeds": 2, **changes}
    return run(folder, **{"objective": Cheapest(0.3, max_seeds=3), **arguments})


def test_a_search_that_is_done_trains_nothing(searched, copied):
    before = trained(copied)
    assert again(copied) == searched[0]
    assert trained(copied) == before


def test_another_rule_takes_the_same_records(copied):
    before, new = trained(copied), []
    result = again(copied, objective=StructuralRisk(0.01), on_trial=new.append)
    assert {path: trained(copied)[path] for path in before} == before
    assert all(record.seed >= 100 for record in new)  # the winner's, if it is another one
    assert result.objective == "risk:0.01:val_loss"
    fit = result.ratio_fit
    if result.chosen != "no SE":
        losses = [
            [r.score for r in result.records if r.label == f"ratio={q}" and r.seed < 100]
            for q in (2, 4)
        ]
        slope = (np.mean(losses[1]) - np.mean(losses[0])) / (4**2 / 2 - 2**2 / 2)
        assert fit.curvature == pytest.approx(slope)


def test_further_seeds_add_to_the_records(copied):
    before, new = trained(copied), []
    again(copied, seeds=4, fresh_seeds=0, on_trial=new.append)
    assert [record.seed for record in new] == [3, 3, 3]
    assert {path: trained(copied)[path] for path in before} == before


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "keras_tuner/oracle.json").write_text('{"trials'), "able to read"),
        (lambda f: next(f.glob("keras_tuner/trial_*/trial.json")).write_text(""), "able to read"),
        (lambda f: (f / "keras_tuner/tuner0.json").unlink(), "it was never completed"),
    ],
)
def test_a_damaged_folder_of_keras_tuner_is_made_anew(searched, copied, damage, says):
    before = trained(copied)
    damage(copied)
    with said() as sentences:
        assert again(copied) == searched[0]
    assert re.search(rf"{says}.*now keras_tuner\.1", sentences[0])
    assert trained(copied) == before
    assert (copied / "keras_tuner.1").exists()
    assert again(copied) == searched[0]  # with what was made anew


def test_a_missing_folder_of_keras_tuner_is_made_anew(searched, copied):
    before = trained(copied)
    shutil.rmtree(copied / "keras_tuner")
    assert again(copied) == searched[0]
    assert trained(copied) == before


def test_a_truncated_record_alone_is_trained_again(searched, copied):
    before = trained(copied)
    path = sorted(before)[0]
    path.write_text(path.read_text()[:40])
    with said() as sentences:
        result = again(copied)
    assert len(sentences) == 1
    assert path.name in sentences[0]
    assert result.decision == searched[0].decision
    rest = {p: t for p, t in trained(copied).items() if p in before and p != path}
    assert rest == {p: t for p, t in before.items() if p != path}


def test_a_trial_that_may_end_the_search_is_run_last_and_named(copied):
    """A kill leaves no more than a line of the trial that ran."""
    first, *_, last = sorted(trained(copied))
    for path in (first, last):
        path.unlink()
    seen = []
    with said() as sentences:
        (copied / "begun.log").write_text(f"{first.stem}\n" * 3)
        again(copied, on_trial=lambda r: seen.append(f"{r.candidate}-s{r.seed}"))
    assert set(seen) == {first.stem, last.stem}
    assert seen[-1] == first.stem
    assert len(sentences) == 1
    assert "ended without notice 3 times" in sentences[0]
    assert first.stem in sentences[0]
    before = trained(copied)
    again(copied)
    assert trained(copied) == before
    assert (copied / "begun.log").read_text() == ""


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"epochs": 3}, r"training\.epochs: 2 -> 3"),
        ({"space": SESpace((2, 8), ("one_plus_tanh",))}, r"space\.ratios: \[2, 4\] -> \[2, 8\]"),
        ({"data": ((X[:48] + 1, Y[:48]), VALIDATION)}, r"data\.train\.sha256"),
        ({"objective": "cheapest:0.3:val_accuracy"}, r'training\.metric: "val_loss" -> "val_acc'),
        ({"fit": {"class_weight": {0: 1, 1: 2}}}, r"training\.fit\.class_weight: null -> "),
        ({"compile": {**COMPILE, "learning_rate": 0.1}}, r"learning_rate: 0\.05 -> 0\.1"),
        ({"model": lambda: base()}, r"model\.name: .*:base\" -> "),
    ],
)
def test_another_job_is_refused_with_the_difference(copied, change, difference):
    before = trained(copied)
    with pytest.raises(InputError, match=rf"with the job that it began with.*{difference}"):
        again(copied, **change)
    assert trained(copied) == before


def test_a_change_that_is_accepted_is_noted_and_keeps_the_records(copied):
    before, new = trained(copied), []
    wider = SESpace((2, 4, 8), ("one_plus_tanh",))
    result = again(copied, space=wider, accept_change=True, fresh_seeds=0, on_trial=new.append)
    assert {(r.label, r.seed) for r in new} == {("ratio=8", seed) for seed in range(3)}
    assert [s.name for s in result.decision.standings] == ["ratio=2", "ratio=4", "ratio=8", "no SE"]
    assert {path: trained(copied)[path] for path in before} == before
    stored = json.loads((copied / "fingerprint.json").read_text())
    assert stored["accepted"][0]["changes"] == ["space.ratios: [2, 4] -> [2, 4, 8]"]
    again(copied, space=wider, fresh_seeds=0)  # from here on it is this job


def test_overwrite_renames_the_old_search_aside(copied):
    run(copied, base, SMALL, epochs=1, overwrite=True, seeds=1)
    assert (copied.with_name("a.1") / "result.json").exists()
    assert len(trained(copied)) == 1


# --- Seeds, choice and costs ----------------------------------------------------------------------


def test_seed_0_is_a_seed_like_any_other(tmp_path):
    scores = [screen(tmp_path / name, base, SMALL).records[0].score for name in "ab"]
    assert scores[0] == scores[1]
    other = run(tmp_path / "c", base, SMALL, seeds=[1])
    assert other.records[0].score != scores[0]


def test_fewer_than_three_seeds_are_a_screening(copied):
    result = again(copied, seeds=2, fresh_seeds=0)
    assert result.decision is None
    assert "a screening, which may be chance: it takes 3 or more" in result.sentence
    means = {
        label: np.mean([r.score for r in result.records if r.label == label and r.seed in (0, 1)])
        for label in ("ratio=2", "ratio=4", "no SE")
    }
    assert result.chosen == min(means, key=means.get)
    assert result.tied == tuple(means)


def test_a_metric_that_is_maximized(tmp_path):
    result = screen(tmp_path / "a", base, PAIR, "val_accuracy")
    assert result.objective == "cheapest:0.002:val_accuracy"
    assert result.direction == "max"
    best = max(r.score for r in result.records)
    assert best == max(r.score for r in result.records if r.label == result.chosen)


def test_too_coarse_a_measurement_asks_for_further_seeds(copied):
    seen, rule = [], Cheapest(1e-5, max_seeds=4)
    result = again(copied, objective=rule, fresh_seeds=0, on_trial=seen.append)
    decision = result.decision
    assert not decision.resolved
    assert decision.seeds == 4
    assert {r.seed for r in seen} == {3}
    assert {r.label for r in seen} == {*result.tied, *decision.undecided}
    tuner = keras_tuner.RandomSearch(
        lambda hp: base(), "val_loss", directory=copied, project_name="keras_tuner"
    )
    histories = [t.metrics.get_history("val_loss") for t in tuner.oracle.trials.values()]
    assert sorted(len(h[0].value) for h in histories)[-len(seen) :] == [4] * len(seen)


def test_the_risk_of_keras_tuners_folder_is_j(tmp_path):
    result = screen(tmp_path / "a", base, PAIR, StructuralRisk(0.01))
    tuner = keras_tuner.RandomSearch(
        lambda hp: base(),
        keras_tuner.Objective("J", "min"),
        directory=tmp_path / "a",
        project_name="keras_tuner",
    )
    risks = {r.label: r.score + 0.01 * r.complexity for r in result.records}
    assert tuner.oracle.get_best_trials(1)[0].score == pytest.approx(min(risks.values()))
    assert result.chosen == min(risks, key=risks.get)


# --- Failures -------------------------------------------------------------------------------------


def test_failed_candidates_are_recorded_and_end_nothing(tmp_path):
    def picky(model):
        ratio = getattr(model.layers[1], "ratio", None)
        if ratio == 2:
            raise MemoryError("there is no more of it")
        rate = 1e30 if ratio == 4 else 0.01
        model.compile(
            keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", run_eagerly=True
        )

    space = SESpace((2, 4, 8), ("one_plus_tanh",))
    result = screen(tmp_path / "a", base, space, compile=picky, max_parameters=110)
    causes = {r.label: r.cause for r in result.records}
    assert causes["ratio=2"] == "MemoryError: there is no more of it"
    assert causes["ratio=4"].startswith("OverBudgetError: 140 parameters, at most 110")
    assert result.chosen == "no SE"
    assert {r.status for r in result.records if r.cause} == {"failed"}
    assert screen(tmp_path / "a", base, space, compile=picky, max_parameters=110) == result


def test_a_trial_that_diverges_has_failed(tmp_path):
    def nan_loss(y, p):
        return keras.ops.mean(p) * math.nan

    with pytest.raises(NoCandidateError, match="val_loss was NaN or infinite in every epoch"):
        screen(
            tmp_path / "a",
            base,
            SMALL,
            compile=lambda model: model.compile("sgd", nan_loss, run_eagerly=True),
        )


def test_a_candidate_of_nan_outputs_does_not_win_by_its_accuracy(tmp_path):
    """NaN counts as class 0, which nine of ten samples have here."""
    y = (np.arange(64) % 10 == 0).astype("float32")[:, None]

    def build(hp):
        layers = [SMALL.block(hp, "se"), keras.layers.GlobalAveragePooling2D()]
        one = keras.initializers.Constant(1.0)
        out = keras.layers.Dense(1, activation="sigmoid", bias_initializer=one)
        model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3), *layers, out])
        rate = keras.optimizers.SGD(hp.Choice("lr", [1e-6, 1e30]))
        model.compile(rate, "binary_crossentropy", metrics=["accuracy"], run_eagerly=True)
        return model

    rule = Cheapest(0.02, metric="val_accuracy", max_seeds=3)
    data = ((X[:48], y[:48]), (X[48:], y[48:]))
    result = run(tmp_path / "a", build, None, rule, data=data, compile=None)
    causes = {r.values["lr"]: (r.status, r.cause) for r in result.records}
    cause = "FloatingPointError: the loss or val_accuracy was NaN or infinite in every epoch"
    assert causes == {1e-6: ("completed", ""), 1e30: ("failed", cause)}
    assert result.values["lr"] == 1e-6
    assert re.search(r"Dropped, without a score on every seed: .*lr=1e\+30", result.sentence)
    assert np.isfinite(result.model().predict(X[:4], verbose=0)).all()


@pytest.mark.parametrize("returns", ["loss", "score"])
def test_a_fit_that_hides_what_has_diverged_has_failed(tmp_path, returns):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Choice("a", [1])
            return base()

        def fit(self, hp, model, *args, **kwargs):
            if returns == "loss":
                return {"val_loss": 0.5, "loss": math.nan}
            model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
            return 0.5

    message = "val_loss was NaN or infinite" if returns == "loss" else "weights .* are not finite"
    with pytest.raises(NoCandidateError, match=message):
        screen(tmp_path / "a", Own(), None)


def test_a_search_in_which_all_fail_is_an_error_and_keeps_its_records(tmp_path):
    def impossible(logs):
        raise ValueError("nothing is for sale")

    fit = {"callbacks": [keras.callbacks.LambdaCallback(on_train_begin=impossible)]}
    for _ in range(2):
        with pytest.raises(NoCandidateError, match=r"3 failures, the first: .*nothing is for sale"):
            screen(tmp_path / "a", fit=fit)
    assert len(trained(tmp_path / "a")) == 3


def test_a_winner_that_cannot_be_evaluated_has_failed_on_its_fresh_seeds(tmp_path):
    wrong = (np.concatenate([X, X], axis=-1), Y)
    result = screen(tmp_path / "a", base, SMALL, test=wrong, fresh_seeds=1)
    assert result.confirmation is None
    fresh = result.records[-1]
    assert (fresh.status, fresh.score, fresh.metrics) == ("failed", None, {})
    assert fresh.parameters == result.records[0].parameters
    before = trained(tmp_path / "a")
    assert screen(tmp_path / "a", base, SMALL, test=wrong, fresh_seeds=1) == result
    assert trained(tmp_path / "a") == before
    assert result.model().built


def metric_of_my_own(y, p):
    return keras.ops.mean(p)


def compiled_with(**arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given = {"optimizer": "sgd", "loss": loss, "run_eagerly": True, **arguments}
    return lambda model: model.compile(**given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "cheapest:0.1:val_auc:max"}, r"Model\.fit logs\..*'val_auc', with logs \["),
        ({"objective": "val_acuracy:max"}, r"; did you mean 'val_accuracy'\?"),
        (
            {"objective": "val_my_own:min", "compile": compiled_with(metrics=[metric_of_my_own])},
            r"; did you mean 'val_metric_of_my_own'\?",
        ),
        ({"compile": compiled_with(metrics=["acuracy"])}, "interpret metric identifier: acuracy"),
        ({"compile": compiled_with(loss="mcse")}, "interpret loss identifier: mcse"),
        (
            {"data": ((np.repeat(X, 2, -1), Y), (np.repeat(X, 2, -1), Y))},
            r"one batch is tried before the first trial\. .* ValueError: .*shape",
        ),
        ({"data": ((X, Y + 6), VALIDATION)}, "Received a label value of 7 which is outside"),
        # A label of few samples, none of them in the first batch.
        ({"data": (TRAIN, (X, np.where(np.arange(64) == 60, 2, 0)))}, "a label value of 2 which"),
    ],
)
def test_what_one_batch_tells_is_refused_before_the_first_trial(tmp_path, arguments, message):
    if "did you mean 'val_metric" in message:
        message = r"with logs \['loss', 'metric_of_my_own', 'val_loss', 'val_metric_of_my_own'\]"
    with pytest.raises(InputError, match=message) as caught:
        screen(tmp_path / "a", base, **{"space": SMALL, **arguments})
    assert not isinstance(caught.value, NoCandidateError)
    assert not (tmp_path / "a").exists()


def test_a_candidate_that_alone_does_not_go_with_the_data_is_a_failure(tmp_path):
    def build(hp):
        size = hp.Choice("size", [5, 6])
        inputs = keras.Input((size, size, 1))
        outputs = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, outputs)

    result = screen(tmp_path / "a", build, None)
    assert [r.status for r in result.records] == ["failed", "completed"]


def test_a_callback_may_log_the_metric(tmp_path):
    class Logging(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = 0.5

    fit = {"callbacks": [Logging()]}
    result = screen(tmp_path / "a", base, SMALL, "cheapest:0.1:score:max", fit=fit)
    assert result.records[0].score == 0.5


@pytest.mark.parametrize(
    "metrics", [lambda: [keras.metrics.AUC(), keras.metrics.AUC(curve="PR")], lambda: ["AUC"]]
)
def test_metrics_that_keras_names_have_one_name_in_all_models(tmp_path, metrics):
    def binary():
        layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, "sigmoid")]
        return keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3), *layers])

    def compile(model):
        model.compile("sgd", "binary_crossentropy", metrics=metrics(), run_eagerly=True)

    data = ((X[:48], Y[:48, None]), (X[48:], Y[48:, None]))
    name = "val_AUC" if metrics() == ["AUC"] else "val_auc"
    objective = keras_tuner.Objective(name, "max")
    result = screen(
        tmp_path / "a", binary, PAIR, objective, data=data, compile=compile, test=data[1]
    )
    assert [r.completed for r in result.records] == [True, True]
    assert len({frozenset(r.metrics) for r in result.records}) == 1
    assert name in result.records[0].metrics
    assert (result.metric, result.direction) == (name, "max")


def test_a_trial_that_takes_too_long_has_failed(tmp_path):
    with pytest.raises(NoCandidateError, match="TimeoutError: not done after 1e-09 s"):
        screen(tmp_path / "a", base, SMALL, timeout=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"epochs must be at least 1\. Received: epochs=0"),
        ({"seeds": 0}, r"seeds must be a number of at least 1.*Received: seeds=0"),
        ({"seeds": [1, 1]}, r"different integers.*Received: seeds=\[1, 1\]"),
        ({"seeds": [1_000_000]}, "from 0 to 999,999"),
        ({"workers": 0}, r"workers must be at least 1\. Received: workers=0"),
        ({"oracle": "grid"}, r"oracle must be one of .*exhaustive.*Received: oracle='grid'"),
        ({"objective": "cheapest:x"}, "An objective must be .*cheapest:TOLERANCE"),
        ({"objective": "val_surprise"}, r"direction='min' or 'max'.*metric='val_surprise'"),
        ({"fit": {"epochs": 3}}, r"further arguments of Model\.fit, without.*\['epochs'\]"),
        ({"data": ((X[:5], Y), VALIDATION)}, r"one length, above 0\. Received: lengths \[5, 64\]"),
        ({"data": (TRAIN, None)}, "validation must be given"),
        ({"space": None}, "A search needs a space"),
        ({"model": 3}, r"a keras\.Model, a function that returns one.*Received: int"),
        ({"threads": 0}, r"threads must be at least 1"),
        ({"space": SESpace(tuple(range(1, 202)))}, "up to 200 combinations"),
        ({"workers": 2, "data": (TRAIN, DATASET)}, r"does not travel.*a function that returns it"),
        (
            {"workers": 2, "model": Locked()},
            r"cloudpickle must take .*cannot pickle '_thread\.lock'",
        ),
        ({"compile": {"loss": "mse", "speed": 1}}, "speed"),
        ({"keep_weights": -1}, r"keep_weights must be at least 0\. Received: keep_weights=-1"),
        ({"timeout": math.nan}, "timeout must be at least 0"),
        ({"batch_size": -2}, "batch_size must be at least 1"),
        ({"max_trials": 0}, r"max_trials must be at least 1\. Received: max_trials=0"),
        (
            {"max_seeds": 2},
            r"max_seeds must be at least 3, .* a screening has.*=2",
        ),
        ({"max_parameters": 0}, r"max_parameters must be at least 1\. Received: max_parameters=0"),
        ({"where": "middle"}, "where"),
        ({"model": lambda: insert(base(), 2)}, "insert needs a place without SE"),
        ({"compile": None}, "the base model must be compiled"),
    ],
)
def test_refusals_leave_no_folder(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


# --- Models, data and oracles ---------------------------------------------------------------------


def test_a_compiled_model_is_searched_from_its_weights(tmp_path):
    model = base()
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", run_eagerly=True)
    result = screen(tmp_path / "a", model, PAIR, compile=None)
    assert len({round(r.score, 6) for r in result.records}) == 1  # nothing is learned


def test_a_function_of_hyperparameters(tmp_path):
    def build(hp):
        x = inputs = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(hp.Choice("filters", [4, 8]), 3, activation="relu")(x)
        x = PAIR.block(hp, "first")(x)
        outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, outputs)

    result = screen(tmp_path / "a", build, None)
    labels = {r.label for r in result.records}
    assert labels == {
        *(f"filters={f}" for f in (4, 8)),
        *(f"no SE filters={f}" for f in (4, 8)),
    }
    assert result.plan is None
    assert result.model().count_params() == next(
        r.parameters for r in result.records if r.label == result.chosen
    )


def test_a_hypermodel_with_a_fit_of_its_own_is_heeded(tmp_path):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            model = base()
            model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
            hp.Choice("units", [1, 2, 3])
            return model

        def fit(self, hp, model, x, y, validation_data=None, **kwargs):
            assert len(x) == 48
            return {"val_loss": float(hp.get("units"))}

    result = screen(tmp_path / "a", Own(), None)
    assert [r.score for r in result.records] == [1.0, 2.0, 3.0]
    assert result.chosen == "units=1"


@pytest.mark.parametrize(
    ("heeds", "form", "score"),
    [
        (True, lambda history: history, None),
        (False, lambda history: history, None),
        (False, lambda history: [history, history], None),
        (True, lambda history: 0.25, 0.25),
        (False, lambda history: np.float32(0.25), 0.25),
        (False, lambda history: {"val_loss": 0.25, "other": 1}, 0.25),
        (False, lambda history: [0.25, {"val_loss": 0.75}], 0.5),
    ],
)
def test_what_a_fit_may_return(tmp_path, heeds, form, score):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Choice("a", [1])
            model = base()
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("adam", loss, run_eagerly=True)
            return model

        def fit(self, hp, model, *args, callbacks, **kwargs):
            history = model.fit(*args, **kwargs, callbacks=callbacks if heeds else None)
            self.best = min(history.history["val_loss"])
            return form(history)

    own = Own()
    (record,) = screen(tmp_path / "a", own, None, epochs=2).records
    assert record.score == pytest.approx(own.best if score is None else score)


class InFit(keras_tuner.HyperModel):
    """Hyperparameters where keras-tuner's guide puts those of the training."""

    def __init__(self):
        super().__init__()
        self.used, self.late = [], False

    def build(self, hp):
        inputs = keras.Input((6, 6, 1))
        features = SMALL.block(hp, "se")(keras.layers.Conv2D(4, 3)(inputs))
        features = keras.layers.GlobalAveragePooling2D()(features)
        model = keras.Model(inputs, keras.layers.Dense(2)(features))
        compiled_with()(model)
        return model

    def fit(self, hp, model, *args, **kwargs):
        kwargs["batch_size"] = hp.Choice("batch_size", [16, 48])
        twice = hp.Boolean("twice")
        with hp.conditional_scope("twice", [True]):
            if twice:
                kwargs["epochs"] = hp.Choice("more", [2])
        if self.late:
            hp.Choice("late", [1, 2])
        history = model.fit(*args, **kwargs)
        self.used.append((kwargs["batch_size"], len(history.epoch)))
        return history


def test_hyperparameters_in_fit_are_searched(tmp_path):
    own = InFit()
    result = screen(tmp_path / "a", own, None)
    assert len(result.records) == 2 * 2
    trials = own.used[-4:]
    assert [(r.values["batch_size"], r.values.get("more", 1)) for r in result.records] == trials
    assert len(set(trials)) == 4
    with_oracle = keras_tuner.oracles.RandomSearchOracle(max_trials=3, seed=1)
    result = screen(tmp_path / "b", InFit(), None, oracle=with_oracle)
    assert all("batch_size" in r.values for r in result.records)


def test_a_hyperparameter_in_fit_that_was_not_seen_before_is_refused(tmp_path):
    message = r"declare all its hyperparameters in a first training.* Received: late, which"
    own = InFit()
    with pytest.raises(NoCandidateError, match=message):
        screen(tmp_path / "a", own, None, on_start=lambda *_: setattr(own, "late", True))


@pytest.mark.parametrize(("returned", "kind"), [("good", "str"), (True, "bool"), ([None], "None")])
def test_what_a_fit_must_not_return(tmp_path, returned, kind):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Choice("a", [1])
            return base()

        def fit(self, hp, model, *args, **kwargs):
            return returned

    with pytest.raises(NoCandidateError, match=rf"must return a History, .* Received: {kind}"):
        screen(tmp_path / "a", Own(), None)


def test_data_as_functions_are_called_once_the_seed_is_set(tmp_path):
    drawn = []

    def data(seed):
        drawn.append((seed, float(np.random.rand()), float(tf.random.uniform(()))))
        return tf.data.Dataset.from_tensor_slices(TRAIN).batch(16)

    run(tmp_path / "a", base, PAIR, data=(data, lambda: VALIDATION), seeds=2)
    del drawn[0]  # of the batch that is tried first
    assert len(drawn) == 4
    assert len(set(drawn)) == 2  # by seed, whatever the candidate
    assert {seed for seed, _, _ in drawn} == {0, 1}


def test_candidates_of_a_seed_see_equal_batches_from_equal_base_weights(tmp_path):
    kernels, batches = [], []

    class Recorder(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            kernel = next(w for w in self.model.weights if w.path.endswith("conv/kernel"))
            kernels.append(kernel.numpy().tobytes())

    def loss(y_true, y_pred):
        tf.py_function(lambda y: batches.append(y.numpy().tobytes()), [y_true], [])
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    def named():
        conv = keras.layers.Conv2D(8, 3, activation="relu", name="conv")
        return keras.Sequential(
            [keras.Input((6, 6, 1)), conv, keras.layers.Flatten(), keras.layers.Dense(2)]
        )

    labels = np.arange(48)[:, None] % 2 + np.zeros((48, 24), "int64")
    labels[:, 1:] = RNG.integers(0, 2, (48, 23))  # every example can be told from its labels
    run(
        tmp_path / "a",
        named,
        seeds=2,
        batch_size=16,
        fit={"callbacks": [Recorder()]},
        data=((X[:48], Y[:48]), (X[:48], Y[:48])),
        compile=lambda model: model.compile("sgd", loss, run_eagerly=True),
        on_start=lambda *_: batches.clear(),  # of the pass before
    )
    by_candidate = [kernels[n : n + 2] for n in range(0, 6, 2)]
    assert by_candidate[0] == by_candidate[1] == by_candidate[2]
    assert by_candidate[0][0] != by_candidate[0][1]
    steps = len(batches) // 6
    runs = [batches[n * steps : (n + 1) * steps] for n in range(6)]
    assert runs[0] == runs[2] == runs[4]
    assert runs[1] == runs[3] == runs[5]
    assert runs[0] != runs[1]


def test_a_model_with_several_outputs_and_a_metric_of_one_of_them(tmp_path):
    def two():
        inputs = keras.Input((6, 6, 1), name="image")
        x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        outputs = {name: keras.layers.Dense(2, name=name)(x) for name in ("sign", "other")}
        return keras.Model({"image": inputs}, outputs)

    def compile_both(model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            "adam", {"sign": loss, "other": loss}, metrics={"sign": ["accuracy"]}, run_eagerly=True
        )

    part = ({"image": X}, {"sign": Y, "other": Y})
    result = screen(
        tmp_path / "a",
        two,
        SMALL,
        objective="val_sign_accuracy",
        data=(part, part),
        compile=compile_both,
    )
    assert result.direction == "max"
    assert all(r.score == r.metrics["val_sign_accuracy"] for r in result.records)


def test_main_effects_confirm_finalists_on_fresh_seeds(tmp_path):
    def deep():
        layers = [keras.layers.Conv2D(4, 3, activation="relu") for _ in range(2)]
        return keras.Sequential(
            [keras.Input((6, 6, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(2)]
        )

    space = SESpace((2, 4), ("one_plus_tanh",), per="site")
    result = screen(tmp_path / "a", deep, space, oracle="main_effects")
    first = {r.label for r in result.records if r.seed == 0}
    final = {r.label for r in result.records if r.seed >= 1_000_000}
    assert len(first) == 5  # base, two others, one uniform, no SE: the predicted is one of them
    assert "no SE" in final
    assert set(result.decision.tied) <= final
    assert result.decision.seeds >= 3
    assert result.chosen in final


def test_an_oracle_of_keras_tuner(tmp_path):
    def hyperband():
        return keras_tuner.oracles.HyperbandOracle("val_loss", max_epochs=2, seed=1)

    result = screen(tmp_path / "a", oracle=hyperband(), epochs=2)
    assert result.chosen in {r.label for r in result.records}
    before = trained(tmp_path / "a")
    assert screen(tmp_path / "a", oracle=hyperband(), epochs=2) == result
    assert trained(tmp_path / "a") == before
    # Hyperband keeps the epochs of a trial in its values.
    seen = []
    counter = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: seen.append(epoch))
    result.retrain(epochs=4, callbacks=[counter])
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["random", "bayesian", "hyperband"])
def test_oracles_by_name(tmp_path, name):
    budgets, before = [], {}
    for _ in range(2):
        more = {"oracle": name, "epochs": 3, "max_trials": 2, "on_start": budgets.append}
        result = screen(tmp_path / "a", **more)
        assert result.chosen in {r.label for r in result.records}
        assert name != "hyperband" or result.chosen.endswith(" epochs=1")
        assert not before or trained(tmp_path / "a") == before
        before = trained(tmp_path / "a")
    assert [(b.planned, len(b.records)) for b in budgets] == [(2, 0), (0, 2)]
    assert f'oracle = "{name}"\n' in (tmp_path / "a" / "job.toml").read_text()


def test_further_seeds_have_a_cap(tmp_path):
    budgets, new = [], []
    arguments = {"space": SMALL, "objective": "cheapest:0.0000001", "on_start": budgets.append}
    run(tmp_path / "a", **arguments, max_seeds=3, on_trial=new.append)
    assert (budgets[0].planned, budgets[0].at_most, len(new)) == (3, 3, 3)


# --- What a hostile reading found -----------------------------------------------------------------


def test_labels_of_class_weights_may_be_texts(tmp_path):
    losses = []
    for n, weights in enumerate((None, {0: 1.0, 1: 50.0}, {"0": 1.0, "1": 50.0})):
        fit = {"class_weight": weights}
        losses.append(screen(tmp_path / str(n), base, SMALL, fit=fit).records[0].metrics["loss"])
    assert losses[1] == losses[2] != losses[0]


def test_a_dataset_that_shuffles_is_given_as_a_function(tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices(TRAIN)
    with pytest.raises(InputError, match=r"one order for all candidates.*give a function"):
        screen(tmp_path / "a", data=(dataset.shuffle(48).batch(16), VALIDATION))
    once = dataset.shuffle(48, seed=1, reshuffle_each_iteration=False).batch(16)
    result = screen(tmp_path / "b", base, SMALL, data=(once, VALIDATION))
    assert all(r.completed for r in result.records)


def test_a_winner_without_weights_is_trained_to_its_best_epoch(tmp_path):
    steep = keras.callbacks.LearningRateScheduler(lambda epoch: (0.01, 5.0)[epoch])
    result = screen(
        tmp_path / "a", base, SMALL, epochs=2, keep_weights=0, fit={"callbacks": [steep]}
    )
    assert result.records[0].epoch == 1
    loss = result.model().evaluate(*VALIDATION, verbose=0)[0]
    assert loss == pytest.approx(result.records[0].score, abs=1e-5)


def test_weights_are_those_that_were_evaluated(tmp_path):
    """Keras swaps a moving average in for the validation, and out again."""

    def compile_ema(model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9)
        model.compile(optimizer, loss, metrics=["accuracy"], run_eagerly=True)

    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=False)
    result = screen(
        tmp_path / "a", base, SMALL, epochs=2, compile=compile_ema, fit={"callbacks": [swap]}
    )
    loss = result.model().evaluate(*VALIDATION, verbose=0)[0]
    assert loss == pytest.approx(result.records[0].score, abs=1e-5)


def test_a_model_that_is_trained_without_compile(tmp_path):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Choice("units", [1, 2])
            return base()

        def fit(self, hp, model, x, y, **kwargs):
            return float(hp.get("units"))

    result = screen(tmp_path / "a", Own(), None)
    assert result.chosen == "units=1"
    assert result.model().count_params() == result.records[0].parameters


def test_a_fit_that_returns_nan_has_failed(tmp_path):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Choice("units", [1, 2])
            model = base()
            model.compile("sgd", "mse", run_eagerly=True)
            return model

        def fit(self, hp, model, *args, **kwargs):
            return math.nan if hp.get("units") == 1 else 0.5

    result = screen(tmp_path / "a", Own(), None)
    assert [r.status for r in result.records] == ["failed", "completed"]
    assert "NaN or infinite" in result.records[0].cause


def changing(kind, number):
    """Jobs whose sources are the same and which do not do the same."""

    class Own(keras_tuner.HyperModel):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def build(self, hp):
            hp.Choice("a", [1])
            model = base()
            model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
            return model

    def compile_it(model):
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(number), loss, run_eagerly=True)

    def data(arrays):
        return arrays

    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: number)
    return {
        "hypermodel": {"model": Own(number), "space": None, "compile": None},
        "callback": {"fit": {"callbacks": [schedule]}},
        "compile": {"compile": compile_it},
        "data": {"data": (functools.partial(data, (X[:48] * number, Y[:48])), VALIDATION)},
    }[kind]


@pytest.mark.parametrize("kind", ["hypermodel", "callback", "compile", "data"])
def test_what_functions_and_objects_hold_is_part_of_the_job(tmp_path, kind):
    first = screen(tmp_path / "a", **{"space": SMALL, **changing(kind, 0.5)})
    assert screen(tmp_path / "a", **{"space": SMALL, **changing(kind, 0.5)}) == first
    with pytest.raises(InputError, match=r"with the job that it began with.* -> "):
        screen(tmp_path / "a", **{"space": SMALL, **changing(kind, 0.25)})


def test_the_same_network_built_twice_is_the_same_job(tmp_path):
    def named():
        layers = [keras.layers.Conv2D(4, 3), keras.layers.Activation("relu")]
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((6, 6, 1)), *layers, *head])

    results = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        results.append(screen(tmp_path / "a", named(), SMALL))
    assert results[0] == results[1]


def test_an_endless_validation_is_ended_by_the_timeout(tmp_path):
    endless = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(8).repeat()
    with pytest.raises(NoCandidateError, match=r"TimeoutError: not done after 1\.5 s"):
        screen(tmp_path / "a", base, SMALL, data=(TRAIN, endless), timeout=1.5)


def test_models_without_an_input_shape(tmp_path):
    def build(hp):
        units = hp.Choice("units", [2, 8])
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(units)])
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        return model

    result = screen(tmp_path / "a", build, None, max_parameters=100)
    assert [r.parameters for r in result.records] == [74, 296]
    assert result.records[1].cause.startswith("OverBudgetError: 296 parameters")
    assert result.model().count_params() == 74


def test_the_objective_of_an_oracle(tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle
    with pytest.raises(InputError, match=r"must be that of the search, 'val_loss'.*'val_accuracy'"):
        screen(tmp_path / "a", oracle=oracle("val_accuracy", max_trials=2))
    result = screen(tmp_path / "a", oracle=oracle(max_trials=2))
    assert len(result.records) == 2


def test_callbacks_write_into_a_folder_of_each_trial(tmp_path):
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)
    result = screen(tmp_path / "a", base, PAIR, fit={"callbacks": [log, backup]})
    assert all(r.completed for r in result.records)
    for record in result.records:
        key = f"{record.candidate}-s{record.seed}"
        logged = (tmp_path / key / "log.csv").read_text().splitlines()
        assert len(logged) == 1 + 1
        assert repr(record.metrics["val_loss"])[:8] in logged[1]
        assert (tmp_path / "backup" / key / "latest.weights.h5").exists()
    assert not (tmp_path / "log.csv").exists()


MIRRORED = """
import keras, numpy as np, tensorflow as tf, tuning
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
x = np.random.default_rng(0).normal(size=(32, 6, 6, 1)).astype("float32")
y = (x.mean((1, 2, 3)) > 0).astype("int32")
used = []

class Spy(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        used.append(self.model.distribute_strategy.num_replicas_in_sync)

def build():
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    with strategy.scope():
        return keras.Sequential([keras.Input((6, 6, 1)), *layers, keras.layers.Dense(2)])

def compile(model):
    model.compile("sgd", "mse", jit_compile=False)

space = tuning.SESpace((2,), ("one_plus_tanh",))
data = (x, y[:, None]), (x, y[:, None])
result = tuning.search(build, *data, space, epochs=1, seeds=1, fresh_seeds=0, compile=compile,
                       fit={"callbacks": lambda: [Spy()]}, batch_size=16, directory="a")
print("replicas", used, [r.cause for r in result.records], result.model().built)
"""


def test_candidates_stay_in_the_scope_of_a_distribution_strategy(tmp_path):
    (tmp_path / "script.py").write_text(MIRRORED)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["replicas [2, 2] ['', ''] True"], done.stderr


def test_a_callback_that_exits_ends_its_trial_only(tmp_path):
    def leave(epoch, logs):
        raise SystemExit("enough")

    leaving = keras.callbacks.LambdaCallback(on_epoch_end=leave)
    with pytest.raises(NoCandidateError, match="SystemExit: enough"):
        screen(tmp_path / "a", base, SMALL, fit={"callbacks": [leaving]})


def test_test_data_that_come_later_are_said_to_be_missing(tmp_path):
    screen(tmp_path / "a", base, SMALL, fresh_seeds=1)
    with said() as sentences:
        result = screen(
            tmp_path / "a", base, SMALL, fresh_seeds=1, test=VALIDATION, accept_change=True
        )
    assert "remove the winner's records of seeds from 2000000 on" in sentences[0]
    assert result.confirmation.test == {}


def test_a_hypermodel_that_does_not_build(tmp_path):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            raise ValueError("no network today")

    with pytest.raises(InputError, match=r"build the model once, .*ValueError: no network today"):
        screen(tmp_path / "a", Own(), None)
