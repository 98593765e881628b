import pytest

from keras_se.errors import InputError
from tuning.space import SESpace
from tuning.trials.data import TrialData
from tuning.trials.job import Job

DATA = TrialData("json:loads", "json:loads")


def job(**arguments):
    settings = {"space": SESpace(), "metric": "val_loss", "direction": "min", "epochs": 1}
    return Job("json:dumps", DATA, **settings, **arguments)


def test_what_other_processes_are_told(tmp_path):
    given = job(fit={"class_weight": {0: 1.0, 1: 2.0}}, where=("a", "b"))
    names = given.named(tmp_path)
    assert names["where"] == ["a", "b"]
    assert Job.from_names(names).fit_arguments()["class_weight"] == {0: 1.0, 1: 2.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fit": {"validation_freq": {1: 2}}}, r"must be plain values.*fit\['validation_freq'\]="),
        ({"fit": {"callbacks": lambda: []}}, r"imports what it needs by name.*fit\['callbacks'\]"),
        ({"where": float("nan")}, "imports what it needs by name.*Received: where, float"),
    ],
)
def test_what_other_processes_cannot_be_told(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        job(**arguments).named(tmp_path)


def test_the_arguments_that_a_search_sets():
    with pytest.raises(InputError, match=r"fit must hold further .*, without x, y.*\['x'\]"):
        job(fit={"x": 1})
