"""A job in a file: what it may hold, and what is said of everything else."""

import inspect
import json

import pytest

from keras_se.errors import InputError
from tuning import SESpace, search
from tuning.commands.job_file import job_arguments, read_job, read_space

WHOLE = {"model": "m:build", "data": "x.npz", "epochs": 2, "directory": "run"}


def test_every_argument_of_a_search_that_a_file_can_hold_has_its_place():
    space = {"ratios": [2], "gates": ["sigmoid"]}
    content = {
        **WHOLE,
        "test": "m:test",
        "objective": "risk:0.1",
        "seeds": [3, 5],
        "workers": 2,
        "oracle": "main_effects",
        "compile": {"loss": "mse"},
        "fit": {"shuffle": False},
        "batch_size": 8,
        "fresh_seeds": 0,
        "where": ["conv"],
        "max_parameters": 9,
        "keep_weights": 0,
        "deployed": "int8",
        "max_seeds": 5,
        "max_trials": 9,
        "threads": 1,
        "timeout": 2.5,
        "data_id": "v1",
        "modules": ["m"],
        "space": space,
    }
    arguments = job_arguments(content, "a file")
    assert arguments.pop("space") == SESpace((2,), ("sigmoid",))
    assert arguments.pop("model_or_builder") == "m:build"
    assert arguments.pop("train") == "x.npz"
    kept = {k: v for k, v in content.items() if k not in ("model", "data", "space")}
    assert arguments == kept
    of_search = set(inspect.signature(search).parameters)
    live = {"overwrite", "accept_change", "retry_failed", "on_trial", "on_start", "progress"}
    assert of_search - live == {*kept, "model_or_builder", "train", "space", "validation"}


def test_parts_of_data_by_themselves():
    content = {k: v for k, v in WHOLE.items() if k != "data"}
    arguments = job_arguments({**content, "train": "m:train", "validation": "m:val"}, "a file")
    assert (arguments["train"], arguments["validation"]) == ("m:train", "m:val")


def test_the_directory_is_the_files_own(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    text = 'model = "m:build"\ndata = "x.npz"\nepochs = 2\n'
    for name in ("run/job.toml", "job.toml"):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert read_job(tmp_path / "run" / "job.toml")["directory"] == str(tmp_path / "run")
    with pytest.raises(InputError, match=r"must set directory, such as.* 'job.toml' without"):
        read_job((tmp_path / "job.toml").relative_to(tmp_path))
    (tmp_path / "job.toml").write_text(text + 'directory = "run"\n')
    assert read_job(tmp_path / "job.toml")["directory"] == "run"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"speed": 1}, "A job can set model, data, train.* Received: speed in 'a file'"),
        ({"overwrite": True}, "Received: overwrite in"),
        ({"epochs": 2.0}, "epochs of a job must be int. Received: 2.0 in"),
        ({"workers": True}, "workers of a job must be int. Received: True in"),
        ({"seeds": "3"}, "seeds of a job must be int or list. Received: '3' in"),
        ({"modules": [1]}, r"modules of a job must be a list of names. Received: \[1\] in"),
        ({"where": ["conv", 2]}, "where of a job must be a list of names"),
        ({"train": "m:f"}, "stands for train and validation. Received: data and train in"),
        ({"train": "m:f", "validation": "m:g"}, "Received: data and train and validation in"),
        (
            {"model": "a live Sequential"},
            "can be resumed only from Python. Received: model = 'a live Se",
        ),
        (
            {"compile": "a live f.<locals>.g"},
            "can be resumed only from Python. Received: compile = ",
        ),
        ({"fit": {"callbacks": ["a live Stop"]}}, "Received: fit = 'a live Stop' in 'a file'"),
        ({"compile": {"metrics": {"a": ["a live F1"]}}}, "Received: compile = 'a live F1'"),
        ({"space": {"ratio": [2]}}, "A space must be a mapping with keys among"),
    ],
)
def test_what_a_job_cannot_hold(entry, message):
    with pytest.raises(InputError, match=message):
        job_arguments({**WHOLE, **entry}, "a file")


@pytest.mark.parametrize(("name", "missing"), [(n, n) for n in WHOLE])
def test_what_a_job_needs(name, missing):
    with pytest.raises(InputError, match=f"A job needs {missing}. Received: 'a file' without"):
        job_arguments({k: v for k, v in WHOLE.items() if k != name}, "a file")


@pytest.mark.parametrize("content", [b"epochs = = 1", b"epochs = 1\nepochs = 2", b"\xff", None])
def test_a_file_that_is_no_toml(tmp_path, content):
    path = tmp_path / "job.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=f"A job must be a TOML file. Received: '{path}': "):
        read_job(path)


def test_a_space_in_a_file(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps({"ratios": [4], "per": "site"}))
    assert read_space(str(path)) == SESpace((4,), per="site")
    for text, message in (("[", "must be a JSON file"), ("[4]", "JSON object.* Received: list")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_space(str(path))
