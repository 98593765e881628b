import os
import signal
import threading

import keras
import numpy as np
import pytest

from keras_se import files
from keras_se.errors import InputError
from keras_se.files import (
    load_model,
    model_bytes,
    output_folder,
    refuse_existing,
    replace_file,
    replacement,
    write_files,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_file(path, content, overwrite=False):
    return write_files({path: content}, overwrite)[0]


def full(*arguments):
    raise OSError(28, "No space left on device")


def test_a_file_is_written_and_replaced(tmp_path):
    for content in (b"", b"old", b"\xff\0new"):
        replace_file(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_bytes() == content
    with replacement(tmp_path / "a.json", suffix=".weights.h5") as temporary:
        assert temporary.name.endswith(".tmp.weights.h5")
        temporary.write_bytes(b"weights")
    assert (tmp_path / "a.json").read_bytes() == b"weights"
    assert names(tmp_path) == ["a.json"]
    with pytest.raises(FileNotFoundError, match="missing"):
        replace_file(tmp_path / "missing" / "a", b"")


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path, seen, done = tmp_path / "a.json", set(), threading.Event()
    contents = [bytes([65 + n]) * 100_000 for n in range(10)]
    replace_file(path, contents[0])

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        replace_file(path, content)
    done.set()
    reader.join()
    assert seen <= set(contents)
    assert seen


@pytest.mark.parametrize("write", [replace_file, write_file])
def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch, write):
    order, path = [], tmp_path / "a.h5"

    def synchronize(descriptor):
        order.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr("os.fsync", synchronize)
    monkeypatch.setattr("os.replace", lambda old, new: order.append(new))
    write(path, b"1")
    assert order == [str(tmp_path / f".a.h5.{os.getpid()}.tmp"), path, str(tmp_path)]


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


# Python 3.12 warns of a fork beside TensorFlow's threads; these children compute nothing.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("when", "content", "left"),
    [("before", b"old", 0), ("between", b"old", 1), ("after", b"new", 0)],
)
def test_killed_at_a_write(tmp_path, when, content, left):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        if when == "before":
            files._temporary = die
        if when == "between":
            os.replace = die
        replace_file(path, b"new")
        die()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_bytes() == content
    others = [other for other in tmp_path.iterdir() if other != path]
    assert len(others) == left
    for other in others:  # a name that a search removes, and no glob takes for a record
        assert other.match(".a.json.*.tmp")
        assert other not in tmp_path.glob("*.json")
        assert other.read_bytes() == b"new"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        replace_file(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("failing", ["a", "b"])
def test_of_several_files_all_are_written_or_none(tmp_path, monkeypatch, failing):
    (tmp_path / "b").write_bytes(b"old")
    contents = {tmp_path / "a": b"1", tmp_path / "b": b"2"}
    replace, failures = os.replace, [failing]

    def fail_once(old, new):
        if new.name in failures:
            failures.clear()
            full()
        replace(old, new)

    monkeypatch.setattr("os.replace", fail_once)
    with pytest.raises(OSError, match="No space left on device"):
        write_files(contents, overwrite=True)
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"old"
    assert write_files(contents, overwrite=True) == [None, tmp_path / "b.1"]
    assert names(tmp_path) == ["a", "b", "b.1"]


def test_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "run"
    with output_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["run"]


def test_existing_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("old")
    with (
        pytest.raises(
            InputError, match=r"must not exist yet; with overwrite it is renamed aside\. Rec"
        ),
        output_folder(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / "a").read_text() == "old"


def test_overwrite_renames_aside_and_loses_nothing(tmp_path):
    for text in ("first", "second", "third"):
        with output_folder(tmp_path / "run", overwrite=True) as folder:
            (folder / "a").write_text(text)
    kept = {path.name: (path / "a").read_text() for path in tmp_path.iterdir()}
    assert kept == {"run": "third", "run.1": "first", "run.2": "second"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_of_a_failure(tmp_path, error):
    with output_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("old")

    def fail():
        with output_folder(tmp_path / "run", overwrite=True) as folder:
            (folder / "a").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "a").read_text() == "old"


def test_file_is_refused_or_set_aside(tmp_path):
    path = tmp_path / "deep" / "a"
    write_file(path, b"1")
    with pytest.raises(InputError, match="must not exist yet"):
        write_file(path, b"2")
    assert path.read_bytes() == b"1"
    assert write_file(path, b"3", overwrite=True) == path.with_name("a.1")
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"a": b"3", "a.1": b"1"}


def test_a_dangling_link_is_an_existing_output(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="must not exist yet"):
        refuse_existing(tmp_path / "a", overwrite=False)


@pytest.mark.parametrize("name", [".", "..", "sub/.."])
def test_the_working_directory_is_never_set_aside(tmp_path, monkeypatch, name):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="must not be the working directory or one above it"):
        refuse_existing(name, overwrite=True)


def test_a_folder_is_never_replaced_by_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="must be the name of a file"):
        write_file(tmp_path / "a", b"1", overwrite=True)
    assert (tmp_path / "a").is_dir()


def test_a_file_lies_in_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(
        InputError, match=r"must lie in a folder\. Received: .*/a/b/c; .*/a is a file"
    ):
        write_file(tmp_path / "a" / "b" / "c", b"1")


def test_a_model_file_is_loaded_in_safe_mode(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)]).save(
        tmp_path / "lambda.keras"
    )
    with pytest.raises(InputError, match=r"loads in safe mode.* Received: .*lambda\.keras', which"):
        load_model(str(tmp_path / "lambda.keras"))
    (tmp_path / "a.keras").write_bytes(b"1")
    with pytest.raises(InputError, match=r"must be a \.keras file, a zip archive"):
        load_model(str(tmp_path / "a.keras"))
    with pytest.raises(InputError, match=r"must be an existing \.keras file"):
        load_model(str(tmp_path / "b.keras"))


def test_the_bytes_of_a_model_are_those_of_its_file(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    write_file(tmp_path / "a.keras", model_bytes(model))
    weights = load_model(str(tmp_path / "a.keras")).get_weights()
    np.testing.assert_array_equal(weights[0], model.get_weights()[0])
