import os
import signal
import subprocess
import sys
import threading

import pytest

from tuning.trials import durable
from tuning.trials.durable import FAULT_POINTS, WRITES, fault_point, settle, write_durably

# Python 3.12 warns of a fork beside TensorFlow's threads; these children compute nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

OF_WRITES = [point for point in FAULT_POINTS if point.split(".")[0] in WRITES]


@pytest.fixture(autouse=True)
def no_fault(monkeypatch):
    monkeypatch.delenv("KERAS_SE_FAULT", raising=False)


def ended(code, fault=None, *arguments):
    """How an interpreter ends that loads nothing but the module: 0, or minus the signal."""
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_SE_FAULT"}
    if fault is not None:
        environment["KERAS_SE_FAULT"] = fault
    lines = "import sys\nfrom pathlib import Path\nfrom tuning.trials.durable import *\n"
    run = subprocess.run(
        [sys.executable, "-c", lines + code, *map(str, arguments)],
        env=environment, cwd=os.getcwd(), capture_output=True, check=False,
    )  # fmt: skip
    return run.returncode


def forked(work, fault):
    """How a copy of this process ends that is killed at a point; cheaper than an interpreter."""
    child = os.fork()
    if child == 0:
        os.environ["KERAS_SE_FAULT"] = fault
        durable._passed.clear()
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"", b"old", b"\xff\0new"):
        write_durably(path, content, "record")
        assert path.read_bytes() == content
    assert names(tmp_path) == ["a.json"]


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path, seen, done = tmp_path / "a.json", set(), threading.Event()
    contents = [bytes([65 + n]) * 100_000 for n in range(20)]
    write_durably(path, contents[0], "record")

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        write_durably(path, content, "record")
    done.set()
    reader.join()
    assert seen <= set(contents)
    assert seen


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(
        durable.os, "fsync", lambda file: order.append(os.readlink(f"/proc/self/fd/{file}"))
    )
    monkeypatch.setattr(durable.os, "replace", lambda old, new: order.append(new))
    path = tmp_path / "a.h5"
    write_durably(path, b"1", "weights")
    assert order == [str(tmp_path / f".a.h5.{os.getpid()}.tmp"), path, str(tmp_path)]


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize(
    ("when", "content", "left"),
    [("before", b"old", 0), ("between", b"old", 1), ("after", b"new", 0)],
)
def test_killed_at_a_write(tmp_path, name, when, content, left):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    ending = forked(lambda: write_durably(path, b"new", name), f"{name}.{when}")
    assert ending == -signal.SIGKILL
    assert path.read_bytes() == content
    others = [other for other in tmp_path.iterdir() if other != path]
    assert len(others) == left
    for other in others:  # a name that a project removes, and no glob takes for a record
        assert other.match(".a.json.*.tmp")
        assert other not in tmp_path.glob("*.json")
        assert other.read_bytes() == b"new"


def test_the_list_of_points_is_what_there_is():
    assert len(set(FAULT_POINTS)) == len(FAULT_POINTS) == 3 * len(WRITES) + 4
    source = "".join(
        path.read_text() for path in durable.Path(durable.__file__).parent.glob("*.py")
    )
    for point in set(FAULT_POINTS) - set(OF_WRITES):
        assert source.count(f'fault_point("{point}")') == 1, point


@pytest.mark.parametrize("point", FAULT_POINTS)
def test_each_point_kills(point):
    assert forked(lambda: fault_point(point), point) == -signal.SIGKILL


def test_another_point_does_not_kill(tmp_path):
    path = tmp_path / "a"
    assert forked(lambda: write_durably(path, b"1", "record"), "result.before") == 0
    assert path.read_bytes() == b"1"


@pytest.mark.parametrize(
    ("fault", "written"),
    [("record.before", 0), ("record.before:1", 0), ("record.before:3", 2), ("record.after:3", 3)],
)
def test_the_nth_time(tmp_path, fault, written):
    code = "for n in range(5): write_durably(Path(sys.argv[1], str(n)), b'', 'record')"
    assert ended(code, fault, tmp_path) == -signal.SIGKILL
    assert names(tmp_path) == [str(n) for n in range(written)]


def test_a_count_that_is_not_reached(tmp_path):
    code = "for n in range(5): write_durably(Path(sys.argv[1], str(n)), b'', 'record')"
    assert ended(code, "record.before:6", tmp_path) == 0
    assert len(names(tmp_path)) == 5


def test_other_points_do_not_count(tmp_path):
    path = tmp_path / "a"
    code = "for n in ('job', 'record', 'job'): write_durably(Path(sys.argv[1]), n.encode(), n)"
    assert ended(code, "job.before:2", path) == -signal.SIGKILL
    assert path.read_bytes() == b"record"


def test_without_the_variable_nothing_happens():
    assert ended("for point in FAULT_POINTS: fault_point(point)") == 0
    before = dict(durable._passed)
    for point in FAULT_POINTS:
        fault_point(point)
    assert durable._passed == before


def test_keras_is_not_loaded():
    assert ended("import sys; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)") == 0


def test_a_failed_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(old, new):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_durably(path, b"new", "record")
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing"):
        write_durably(tmp_path / "missing" / "a", b"", "record")


def test_settle_takes_the_place_of_a_file(tmp_path):
    temporary, path = tmp_path / ".a.tmp", tmp_path / "a"
    temporary.write_bytes(b"new")
    path.write_bytes(b"old")
    settle(temporary, path, "weights")
    assert (names(tmp_path), path.read_bytes()) == (["a"], b"new")
