"""A project of keras-tuner that is damaged in any way is set aside, and made anew."""

import itertools
import json
import re
import shutil
import warnings

import pytest
from slots import make_oracle, run_search

from tuning import SearchWarning
from tuning.running.project import open_tuner
from tuning.trials.records import Records, TrialRecord

KINDS = ("exhaustive", "main_effects", "random", "bayesian", "hyperband", "live")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each oracle, with the trials in it."""
    folders = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        tuner, _ = run_search(folder, make_oracle(kind), (0, 1), last_first=False)
        folders[kind] = folder, state(tuner)
    return folders


def state(tuner):
    trials = tuner.oracle.trials.values()
    return sorted((str(t.hyperparameters.values), t.status, float(t.score)) for t in trials)


def remove(path):
    path.unlink()


def become_folder(path):
    path.unlink()
    path.mkdir()


def dangle(path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write(content):
    return lambda path: path.write_bytes(content)


OF_A_FILE = {
    "removed": remove,
    "a folder": become_folder,
    "a link to nothing": dangle,
    "truncated": truncate,
    "empty": write(b""),
    "binary": write(bytes(range(256))),
    "null": write(b"null"),
    "list": write(b"[]"),
    "object": write(b"{}"),
    "nested": write(b"[" * 100_000),
}


def keys_of(content, above=()):
    """The place of every value of nested JSON objects and lists."""
    # Of a list the first: the others are like it.
    parts = content.items() if isinstance(content, dict) else enumerate(content[:1])
    for name, value in parts:
        yield (*above, name)
        if isinstance(value, dict | list):
            yield from keys_of(value, (*above, name))


def changed(path, place, value):
    content = part = json.loads(path.read_text())
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    path.write_text(json.dumps(content))


def goes_on(damaged, kind, expected, what, again=True):
    """Searches on; returns whether the project was set aside, and says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SearchWarning)
        tuner, begun = run_search(damaged, make_oracle(kind), (0, 1), last_first=False)
    assert begun == [], what
    assert state(tuner) == expected, what
    aside = (damaged / "keras_tuner.1").exists() or (damaged / "keras_tuner.1").is_symlink()
    assert len(caught) == aside, what
    for warning in caught:
        assert re.search(r"the search makes a new one.*now keras_tuner\.1$", str(warning.message))
    if again:  # what was made anew, or mended, is whole
        with warnings.catch_warnings():
            warnings.simplefilter("error", SearchWarning)
            tuner, begun = run_search(damaged, make_oracle(kind), (0, 1), last_first=False)
        assert (begun, state(tuner)) == ([], expected), what
    return aside


def copied(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


@pytest.mark.parametrize("kind", ["exhaustive", "live"])
def test_files(made, tmp_path, kind):
    folder, expected = made[kind]
    trial = "trial_0001" if kind == "exhaustive" else "trial_1"
    names = ["oracle.json", "tuner0.json", f"{trial}/trial.json"]
    for name in names:
        for how, damage in OF_A_FILE.items():
            damaged = copied(folder, tmp_path / "a")
            damage(damaged / "keras_tuner" / name)
            aside = goes_on(damaged, kind, expected, (name, how))
            # This file holds nothing, so what else it may hold is no harm.
            assert (
                aside
                or (name, how) in {("tuner0.json", "list"), ("tuner0.json", "null")}
                or ((name, how) == ("tuner0.json", "object"))
            )


@pytest.mark.parametrize("kind", ["exhaustive", "live"])
def test_values(made, tmp_path, kind):
    """Each value in the files, replaced by one of another type."""
    folder, expected = made[kind]
    project = folder / "keras_tuner"
    files = [project / "oracle.json", *sorted(project.glob("trial_*/trial.json"))[:1]]
    odd = itertools.cycle(["odd", None, [[]]])
    for path in files:
        for place in keys_of(json.loads(path.read_text())):
            damaged, value = copied(folder, tmp_path / "a"), next(odd)
            changed(damaged / path.relative_to(folder), place, value)
            goes_on(damaged, kind, expected, (path.name, place, value), again=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole(made, tmp_path, kind):
    folder, expected = made[kind]

    def replaced(make):
        damaged = copied(folder, tmp_path / "a")
        shutil.rmtree(damaged / "keras_tuner")
        make(damaged / "keras_tuner")
        return goes_on(damaged, kind, expected, make)

    assert replaced(lambda path: path.write_text("mine"))
    assert replaced(lambda path: path.symlink_to("nowhere"))
    assert replaced(lambda path: path.mkdir())
    assert not replaced(lambda path: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_that_is_missing(made, tmp_path, kind):
    folder, expected = made[kind]
    damaged = copied(folder, tmp_path / "a")
    shutil.rmtree(sorted(damaged.glob("keras_tuner/trial_*"))[1])
    assert goes_on(damaged, kind, expected, "a folder")


class NetworkError(Exception):
    """Of a service that the oracle asks."""


def test_a_fault_of_the_oracle_is_none_of_the_files(made, tmp_path, monkeypatch):
    folder, _ = made["live"]
    folder = copied(folder, tmp_path / "a")
    asking = make_oracle("live")

    def populate_space(self, trial_id):
        raise NetworkError

    monkeypatch.setattr(type(asking), "populate_space", populate_space)
    asking.max_trials = 9
    with pytest.raises(NetworkError):
        open_tuner(asking, folder, Records(folder / "records", TrialRecord), lambda record: {})
    assert not (folder / "keras_tuner.1").exists()


def test_scores_are_those_of_the_records(made, tmp_path):
    folder, expected = made["exhaustive"]
    for place, value in ((("score",), 0.5), (("status",), "FAILED"), (("status",), "RUNNING")):
        damaged = copied(folder, tmp_path / "a")
        changed(damaged / "keras_tuner/trial_0001/trial.json", place, value)
        assert not goes_on(damaged, "exhaustive", expected, place)
