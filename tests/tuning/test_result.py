import json
import math

import pytest

from keras_se.errors import InputError
from tuning import Cheapest, ScoreTable, SearchResult, StructuralRisk, TrialRecord
from tuning.choice.ratio_fit import RatioFit
from tuning.result import Confirmation

SETTINGS = {"ratio": 2, "gate": "sigmoid", "squeeze": "avg"}


def record(label="ratio=2", seed=0, **changes):
    values = {"se_ratio": int(label[-1])}
    given = {"score": 0.5, "epoch": 1, "metrics": {"val_loss": 0.5}, **changes}
    return TrialRecord(label, label, values, seed, "completed", **given)


def result(**changes):
    given = {
        "objective": "cheapest:0.1:val_loss",
        "metric": "val_loss",
        "direction": "min",
        "epochs": 3,
        "seeds": (0,),
        "records": (record(), record("ratio=4")),
        "chosen": "ratio=2",
        "values": {"se_ratio": 2},
        "plan": {"se_1": SETTINGS, "se_2": SETTINGS},
        "placement": "standard",
        "decision": None,
        "sentence": "a sentence",
        **changes,
    }
    return SearchResult(**given)


def test_json_holds_everything():
    content = json.loads(result().to_json())
    records = content.pop("records")
    assert content == {
        "schema": 1,
        "objective": "cheapest:0.1:val_loss",
        "metric": "val_loss",
        "direction": "min",
        "epochs": 3,
        "seeds": [0],
        "chosen": "ratio=2",
        "values": {"se_ratio": 2},
        "plan": {"se_1": SETTINGS, "se_2": SETTINGS},
        "placement": "standard",
        "decision": None,
        "sentence": "a sentence",
        "confirmation": None,
        "ratio_fit": None,
        "deployed": [],
    }
    assert [TrialRecord.from_dict(r) for r in records] == list(result().records)


@pytest.mark.parametrize("rule", [Cheapest(0.001), StructuralRisk(0.1)])
def test_round_trip(rule):
    table = ScoreTable(("a", "b"), [[1, 2, 3], [1, 2, 4]], (3, 2), (2.0, 1.0))
    whole = result(
        decision=rule.choose(table),
        confirmation=Confirmation((7, 8), 0.25, 0.5, 0.125, {"loss": 1.5}),
        ratio_fit=RatioFit(-1.0, (-2.0, math.inf), None, 0.5, math.inf, (2.0, math.inf)),
        placement=None,
        plan=None,
    )
    assert SearchResult.from_json(whole.to_json()) == whole


def test_numbers_that_json_does_not_know_become_null():
    text = result(records=(record(metrics={"val_loss": math.nan, "loss": math.inf}),)).to_json()
    assert json.loads(text)["records"][0]["metrics"] == {"val_loss": None, "loss": None}
    assert "NaN" not in text
    assert "Infinity" not in text


def test_settings_are_those_of_every_site():
    assert result().settings == SETTINGS
    assert result(plan={}).settings == {}
    for plan in (None, {"se_1": SETTINGS, "se_2": {**SETTINGS, "ratio": 4}}):
        with pytest.raises(InputError, match=r"the same for all sites.* candidate 'ratio=2'"):
            _ = result(plan=plan).settings


def test_all_that_finished_are_tied_in_a_screening():
    failed = TrialRecord("c", "ratio=8", {}, 0, "failed", cause="no")
    records = (*result().records, record(seed=1), failed)
    assert result(records=records).tied == ("ratio=2", "ratio=4")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"records": 3}', "null"])
def test_what_is_no_result(text):
    with pytest.raises(InputError, match=r"from_json needs JSON text .* Received: "):
        SearchResult.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": 3}, "chosen is not text"),
        ({"direction": "up"}, "direction is not one of"),
        ({"plan": {"se_1": 4}}, "plan.se_1 is not an object"),
        ({"records": {}}, "it has other fields than a result"),
        ({"job": {}}, "it has other fields than a result"),
        ({"records": [{}]}, "it has other fields than a record"),
        ({"decision": {"chosen": "a"}}, "decision has other fields than Decision"),
        ({"seeds": [2**70]}, "more than 64 bits"),
    ],
)
def test_a_field_of_another_type_is_named(change, message):
    content = json.loads(result().to_json()) | change
    with pytest.raises(InputError, match=f"from_json needs JSON text .* Received: .*{message}"):
        SearchResult.from_json(json.dumps(content))


def test_a_terminal_is_told_nothing_by_names():
    named = result(chosen="\x1b]0;title\x07", sentence="a\x9b31m")
    assert str(named).startswith("Chosen: ]0;title. a31m")
