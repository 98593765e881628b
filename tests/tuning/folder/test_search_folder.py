import json
import os
import re
import resource
import signal
import subprocess
import sys
import tomllib

import pytest
from faults import kill_at

from keras_se.errors import InputError
from tuning.folder.search_folder import folder_errors, open_folder, stored_threads

JOB = {"model": {"name": "a"}, "training": {"epochs": 3, "batch": None}, "threads": 2}
CHANGED = {"model": {"name": "b"}, "training": {"epochs": 3, "batch": 8}, "threads": 2}


def matched(folder, fingerprint=JOB, accept_change=False, overwrite=False):
    with open_folder(folder, overwrite) as opened:
        return opened.match_job(fingerprint, accept_change)


def stored(folder):
    return json.loads((folder / "fingerprint.json").read_text())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "searches" / "one"


def test_a_new_folder_is_matched(folder):
    with open_folder(folder) as opened:
        assert opened.path == folder
        digest = opened.match_job(JOB, accept_change=False)
    assert len(digest) == 12
    assert opened.fingerprint == digest
    assert stored(folder) == {"fingerprint": JOB, "accepted": []}
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {
        "records",
        "curves",
        "weights",
    }


def test_an_empty_folder_and_one_with_a_job(folder):
    folder.mkdir(parents=True)
    matched(folder)
    other = folder.with_name("two")
    other.mkdir()
    (other / "job.toml").write_text("epochs = 1")
    matched(other)


def test_the_same_job_goes_on(folder):
    digest = matched(folder)
    (folder / "records" / "a.json").write_text("kept")
    before = (folder / "fingerprint.json").stat().st_mtime_ns
    assert matched(folder, dict(reversed(JOB.items()))) == digest
    assert (folder / "fingerprint.json").stat().st_mtime_ns == before
    assert (folder / "records" / "a.json").read_text() == "kept"


def test_a_changed_job_is_refused(folder):
    matched(folder)
    message = (
        r"must resume with the job that it began with: .*\. Received: .*one with "
        r'model.name: "a" -> "b"; training.batch: null -> 8$'
    )
    with pytest.raises(InputError, match=message):
        matched(folder, CHANGED)
    assert stored(folder)["fingerprint"] == JOB


@pytest.mark.parametrize(
    ("fingerprint", "difference"),
    [
        ({**JOB, "threads": 3}, "threads: 2 -> 3"),
        ({**JOB, "more": [1]}, r"more: null -> \[1\]"),
        ({"model": JOB["model"], "threads": 2}, r'training: {"epochs": 3, "batch": null} -> null'),
        ({**JOB, "model": "a" * 80}, r'model: {"name": "a"} -> "a{56}\.\.\.$'),
    ],
)
def test_differences_are_named(folder, fingerprint, difference):
    matched(folder)
    with pytest.raises(InputError, match=difference):
        matched(folder, fingerprint)


def test_a_change_that_is_accepted_is_noted(folder):
    first = matched(folder)
    second = matched(folder, CHANGED, accept_change=True)
    assert first != second == matched(folder, CHANGED)
    found = stored(folder)
    assert found["fingerprint"] == CHANGED
    (note,) = found["accepted"]
    assert note["changes"] == ['model.name: "a" -> "b"', "training.batch: null -> 8"]
    assert note["when"].startswith("20")
    matched(folder, JOB, accept_change=True)
    assert len(stored(folder)["accepted"]) == 2
    matched(folder, JOB, accept_change=True)
    assert len(stored(folder)["accepted"]) == 2


def test_a_foreign_folder_is_refused(folder):
    folder.mkdir(parents=True)
    for name in ("thesis.tex", "a", ".job.toml.12.tmp"):
        (folder / name).write_text("mine")
    message = r"new, empty, or the folder of a search. Received: .*one, which holds a, thesis.tex$"
    with pytest.raises(InputError, match=message):
        matched(folder)
    assert sorted(p.name for p in folder.iterdir()) == [".job.toml.12.tmp", "a", "thesis.tex"]


def test_a_file_is_refused(folder):
    folder.parent.mkdir()
    folder.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="directory of a search must be a folder"):
            matched(folder, overwrite=overwrite)
    assert folder.read_text() == "mine"


def test_the_working_directory_is_refused(folder, monkeypatch):
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="must not be the working directory or one above it"):
        matched(folder.parent)


# Another search, without the seconds that an import of Keras takes.
HOLD = (
    "import sys, filelock\n"
    "with filelock.FileLock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()"
)


def test_a_folder_in_use_by_another_process(folder):
    matched(folder)
    command = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        for overwrite in (False, True):
            message = "One search at a time can use a folder. Received: .*one, which is in use"
            with pytest.raises(InputError, match=message):
                matched(folder, overwrite=overwrite)
        process.kill()
    assert folder.exists()
    matched(folder)  # a lock does not outlive its process


def test_a_folder_in_use_by_this_process(folder):
    with open_folder(folder), pytest.raises(InputError, match="in use"):
        matched(folder)
    matched(folder)


def test_an_error_gives_the_folder_back(folder):
    with pytest.raises(ZeroDivisionError), open_folder(folder):
        _ = 1 / 0
    matched(folder)


def test_overwrite_renames_aside(folder):
    for number in range(3):
        matched(folder, {**JOB, "threads": number}, overwrite=True)
        (folder / "records" / f"{number}.json").write_text("")
    found = [
        stored(folder.with_name(name))["fingerprint"]["threads"] for name in ("one.1", "one.2")
    ]
    assert found == [0, 1]
    assert stored(folder)["fingerprint"]["threads"] == 2
    assert (folder.with_name("one.1") / "records" / "0.json").exists()
    assert [p.name for p in (folder / "records").iterdir()] == ["2.json"]


def test_temporary_files_are_removed(folder):
    matched(folder)
    left = [
        ".fingerprint.json.1.tmp",
        "records/.a-s0.json.12.tmp",
        ".begun.log.3.tmp",
        "weights/.a-s0.12.tmp.weights.h5",
    ]
    kept = ["records/a-s0.json", "records/a-s0.damaged.1", "weights/a-s0.weights.h5"]
    for name in left + kept:
        (folder / name).write_text("")
    matched(folder)
    assert [name for name in left if (folder / name).exists()] == []
    assert all((folder / name).exists() for name in kept)


# Python 3.12 warns of a fork beside TensorFlow's threads; this child computes nothing.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_while_the_folder_was_matched(folder):
    """What is left is neither foreign nor another job's."""
    for point in ("before", "between", "after"):
        child = os.fork()
        if child == 0:
            kill_at(f"fingerprint.{point}")
            matched(folder)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert (folder / "fingerprint.json").exists() == (point == "after")
    matched(folder)


@pytest.mark.parametrize(
    "content",
    [
        b'{"fingerprint": {',
        b"{}",
        b"null",
        b"\xff\xfe",
        b'{"fingerprint": 1, "accepted": []}',
        b'{"fingerprint": {}, "accepted": 1}',
    ],
)
def test_a_damaged_fingerprint_is_named(folder, content):
    matched(folder)
    (folder / "fingerprint.json").write_bytes(content)
    message = r"must be a complete JSON file. Move it away .* Received: .*one/fingerprint.json: "
    with pytest.raises(InputError, match=message):
        matched(folder)
    with pytest.raises(InputError, match=message):
        stored_threads(folder)
    assert (folder / "fingerprint.json").read_bytes() == content
    # What the sentence says works, in a folder that holds results.
    (folder / "fingerprint.json").rename(folder / "fingerprint.old")
    (folder / "result.json").write_text("{}")
    (folder / "keras_tuner").mkdir()
    matched(folder)


def test_stored_threads(folder):
    assert stored_threads(folder) is None
    matched(folder)
    assert stored_threads(folder) == 2
    matched(folder, {}, accept_change=True)
    assert stored_threads(folder) is None


def test_the_job_is_a_file(folder):
    kept = {"model": "a:b", "epochs": 3, "fit": {"shuffle": True}, "seeds": [0, 1]}
    content = {**kept, "test": None, "fit": {"verbose": None, "shuffle": True}}
    with open_folder(folder) as opened:
        opened.write_job(content)
        before = (folder / "job.toml").stat().st_mtime_ns
        opened.write_job(content)
        assert (folder / "job.toml").stat().st_mtime_ns == before
        assert tomllib.loads((folder / "job.toml").read_text()) == kept
        opened.write_job({"model": "c:d"})
        assert tomllib.loads((folder / "job.toml").read_text()) == {"model": "c:d"}


def used(folder, use):
    with folder_errors(folder), open_folder(folder) as opened:
        use(opened)


def test_a_disk_without_room(folder):
    message = r"with room on its disk\. Mend that, .*Received: '.*one': File too large$"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def match(opened):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            opened.match_job(JOB, accept_change=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(InputError, match=message):
        used(folder, match)
    matched(folder)


@pytest.mark.parametrize("name", ["below/run", "x" * 300, "a\0b"])
def test_names_that_no_folder_can_have(folder, name):
    folder.parent.mkdir()
    (folder.parent / "below").write_text("mine")
    wanted = folder.parent / name
    with pytest.raises(InputError, match="must be one that can be read and written"):
        used(wanted, lambda opened: None)


@pytest.mark.parametrize("name", ["records", "curves", "weights", ".lock", "job.toml"])
def test_a_name_in_the_folder_that_is_taken(folder, name):
    matched(folder)
    path = folder / name
    if path.is_dir():
        path.rmdir()
        path.write_text("mine")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    with pytest.raises(InputError, match=f"Received: '.*{re.escape(name)}': "):
        used(folder, lambda opened: opened.write_job({"model": "a:b"}))


def test_faults_elsewhere_are_not_those_of_the_folder(folder):
    for error in (FileNotFoundError(2, "No", "/data/x.npz"), ValueError("x"), OSError("x")):
        with pytest.raises(type(error)) as caught, folder_errors(folder):
            raise error
        assert caught.value is error


def test_overwrite_touches_no_folder_that_is_no_search(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"new, empty, or the folder of a search.*thesis\.tex"):
        matched(folder, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_job_with_holes_is_written(folder):
    with open_folder(folder) as opened:
        opened.write_job({"compile": {"loss": ["mse", None]}, "test": None})
    assert tomllib.loads((folder / "job.toml").read_text()) == {
        "compile": {"loss": ["mse", "none"]}
    }


def test_names_that_are_taken_by_something_else(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(folder.parent / "nowhere")
    with pytest.raises(InputError, match="must be a folder"):
        matched(folder)
    folder.unlink()
    matched(folder)
    (folder / ".a.tmp").mkdir()
    (folder / "fingerprint.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="must be a complete JSON file"):
        matched(folder)
