import json

from tuning import SearchResult, TrialRecord


def test_json_holds_everything():
    trial = TrialRecord({"ratio": 2}, "completed", {"val_loss": 0.5}, 100)
    result = SearchResult("val_loss", 0, 3, (trial,), {"ratio": 2}, {"se_1": {"ratio": 2}})
    assert json.loads(result.to_json()) == {
        "objective": "val_loss",
        "seed": 0,
        "epochs": 3,
        "trials": [
            {
                "settings": {"ratio": 2},
                "status": "completed",
                "metrics": {"val_loss": 0.5},
                "parameters": 100,
                "cause": "",
            }
        ],
        "settings": {"ratio": 2},
        "plan": {"se_1": {"ratio": 2}},
    }


def test_numbers_that_json_does_not_know_become_null():
    trial = TrialRecord({"ratio": 2}, "completed", {"val_loss": float("nan")}, 100)
    text = SearchResult("val_loss", 0, 3, (trial,), {}, {}).to_json()
    assert json.loads(text)["trials"][0]["metrics"] == {"val_loss": None}
    assert "NaN" not in text
