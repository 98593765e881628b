"""`keras-se report`, of a folder with records."""

import csv
import json

import pytest

from tuning import SearchResult, TrialRecord
from tuning.cli import run
from tuning.trials.records import Records


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search").mkdir()
    records = Records(tmp_path / "search" / "records", TrialRecord)
    (tmp_path / "search" / "job.toml").write_text(
        'objective = "cheapest:0.1:val_loss"\nepochs = 1\nseeds = [0, 1, 2]\n'
    )
    for ratio in (2, 4):
        for seed in range(3):
            record = TrialRecord(
                f"r{ratio}", f"ratio={ratio}", {"se_ratio": ratio}, seed, "completed",
                0.01 * ratio + 0.001 * seed, parameters=100 // ratio,
            )  # fmt: skip
            records.put(record)
    return tmp_path


def test_text_page_rows_and_json(folder, capsys):
    files = ["--html", "a.html", "--csv", "a.csv", "--json", "a.json", "--tensorboard", "board"]
    assert run(["report", "search", *files]) == 0
    result = SearchResult.from_folder("search")
    assert capsys.readouterr().out == f"{result}a.html\na.csv\na.json\nboard\n"
    assert result.chosen == "ratio=4"
    assert "The search has not finished. So far: " in (folder / "a.html").read_text()
    assert len(list(csv.reader((folder / "a.csv").read_text().splitlines()))) == 7
    assert json.loads((folder / "a.json").read_text())["chosen"] == "ratio=4"
    # Looking changes nothing, and what was written is not written over.
    assert sorted(path.name for path in (folder / "search").iterdir()) == ["job.toml", "records"]
    assert run(["report", "search", "--html", "a.html"]) == 2
    assert "must not exist yet" in capsys.readouterr().err
    assert len([path for path in (folder / "board").iterdir() if path.is_dir()]) == 6
    assert run(["report", "search", "--tensorboard", "board", "--csv", "b.csv"]) == 2
    assert not (folder / "b.csv").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("report nowhere", "needs the folder of a search, with its job.toml"),
        ("report search --html a.txt", "a page file must end in .html. Received: 'a.txt'"),
    ],
)
def test_bad_input(folder, capsys, words, sentence):
    assert run(words.split()) == 2
    assert sentence in capsys.readouterr().err
