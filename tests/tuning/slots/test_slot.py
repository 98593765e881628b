"""Real processes. The calls load no Keras; trials that do are in `test_runners.py`."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

from tuning.slots import inside, slot
from tuning.slots.scratch import scratch_folder
from tuning.slots.slot import Ended, Slot
from tuning.slots.watchdog import watchdog

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """The slot calls a function that was pickled in the place of a run, and loads no job."""
    monkeypatch.setattr(inside, "load", ready)
    monkeypatch.setattr(inside, "work", call)


def ready(place):
    pass


def call(place, function):
    return pickle.dumps(pickle.loads(function)())


for function in (ready, call):  # the tests are no package, so by value
    function.__module__ = "__main__"


@pytest.fixture(scope="module")
def folder():
    with scratch_folder() as folder, watchdog(folder):
        yield folder


@pytest.fixture(scope="module")
def shared(folder):
    """One slot, since each process takes a second to start."""
    slot = Slot(folder / "slot", threads=3, device="5")
    yield slot
    slot.close()


def run(slot, function, timeout=None, wanted=lambda: True):
    found = slot.call("", cloudpickle.dumps(function), timeout, wanted)
    return found if isinstance(found, Ended) else pickle.loads(found)


def end(how):
    def trial():
        print("about to end")  # noqa: T201
        exec(how, {"os": os, "signal": signal, "sys": sys})  # noqa: S102

    trial.__module__ = "__main__"
    return trial


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_gone(*pids, within=5):
    limit = time.monotonic() + within
    while any(map(is_alive, pids)):
        assert time.monotonic() < limit, "it lives on"
        time.sleep(0.05)


def test_one_process_runs_call_after_call(shared, folder):
    def seen():
        import sys
        import tempfile

        names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "CUDA_VISIBLE_DEVICES")
        light = not {"keras", "tensorflow"} & set(sys.modules)
        return os.getpid(), light, tempfile.gettempdir(), *map(os.environ.get, names)

    first, second = run(shared, seen), run(shared, seen)
    assert first == second
    assert first[0] != os.getpid()
    assert first[1:] == (True, str(folder / "slot" / "tmp"), "3", "3", "5")


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"SIGKILL(-9)"),
        ("os._exit(7)", "EXIT(7)"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV(-11)"),
    ],
)
def test_a_process_that_dies_takes_one_call_with_it(shared, how, code):
    ended = run(shared, end(how))
    assert ended.kind == "died"
    assert ended.said.startswith(f"its process ended with {code}; it printed last: about to end")
    assert run(shared, lambda: 7) == 7


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_what_a_call_raises(shared, how, said):
    assert run(shared, end(how)) == Ended("raised", said)


def test_a_full_disk_is_told_from_other_errors(shared):
    ended = run(shared, end("import errno; raise OSError(errno.ENOSPC, 'No space')"))
    assert ended.kind == "disk"


# The second holds the GIL: no thread of the process can run.
LOOPS = ["while True: pass", "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_timeout_ends_a_loop_and_what_the_call_started(shared, tmp_path, loop, monkeypatch):
    monkeypatch.setattr(slot, "_GRACE", 0.5)
    nested = tmp_path / "nested"
    start = f"import subprocess; n = subprocess.Popen(['sleep', '300']); open({str(nested)!r}, 'w')"
    started = time.monotonic()
    assert run(shared, end(f"{start}.write(str(n.pid))\n{loop}"), timeout=1) == Ended("timeout")
    assert time.monotonic() - started < 20
    assert_gone(int(nested.read_text()))
    assert run(shared, lambda: 7) == 7


def test_a_call_that_nobody_wants_any_more(shared):
    limit = time.monotonic() + 1
    assert run(shared, lambda: time.sleep(300), wanted=lambda: time.monotonic() < limit) == Ended(
        "stopped"
    )


def test_a_process_is_replaced_after_some_calls(shared, monkeypatch):
    monkeypatch.setattr(slot, "_RECYCLE", 2)
    shared.close()
    pids = [run(shared, os.getpid) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert_gone(pids[0], pids[2])


def test_what_a_trial_leaves_in_memory_ends_no_process(shared):
    """With `psutil`, loky would end it at the first look, a second after the last one."""
    shared.close()

    def leave():
        import sys

        sys.left = bytes(b"x" * 400_000_000)
        time.sleep(1.1)
        return os.getpid()

    assert run(shared, leave) == run(shared, os.getpid)


def test_a_process_that_died_while_idle_is_replaced(shared):
    pid = run(shared, os.getpid)
    os.kill(pid, signal.SIGKILL)
    assert_gone(pid)
    assert run(shared, lambda: 7) == 7


def test_a_job_that_cannot_be_loaded(shared, monkeypatch):
    def fail(place):
        raise ModuleNotFoundError("No module named 'mine'")

    fail.__module__ = "__main__"
    monkeypatch.setattr(inside, "load", fail)
    assert run(shared, lambda: 7) == Ended("setup", "ModuleNotFoundError: No module named 'mine'")


def test_a_process_that_never_comes_to_the_job(shared, monkeypatch):
    die = end("os._exit(4)")
    monkeypatch.setattr(inside, "load", lambda place: die())
    inside.load.__module__ = "__main__"
    ended = run(shared, lambda: 7)
    assert ended.kind == "setup"
    assert ended.said.startswith("its process ended with EXIT(4)")


# --- The end of the parent ------------------------------------------------------------------------

PARENT = """
import contextlib, os, sys, tempfile
tempfile.tempdir = {folder!r}
import cloudpickle
from tuning.slots import inside
from tuning.slots.scratch import scratch_folder
from tuning.slots.slot import Slot
from tuning.slots.watchdog import watchdog
inside.load = lambda place: None
inside.work = lambda place, run: __import__("pickle").loads(run)()

def stay():
    import re, subprocess
    nested = subprocess.Popen(["sleep", "300"])
    with open({pids!r} + ".part", "w") as file:
        file.write(f"{{os.getpid()}} {{nested.pid}}")
    os.rename({pids!r} + ".part", {pids!r})
    re.match(r"(a+)+$", "a" * 60 + "b")  # holds the GIL

with scratch_folder() as folder, watchdog(folder):
    with contextlib.closing(Slot(folder / "slot", 1, None)) as slot:
        slot.call("", cloudpickle.dumps(stay), None, lambda: True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nobody_outlives_the_parent(tmp_path, number):
    """Not even a process that holds the GIL, nor what its call has started."""
    pids = tmp_path / "pids"
    (tmp_path / "parent.py").write_text(PARENT.format(folder=str(tmp_path), pids=str(pids)))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "parent.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    limit = time.monotonic() + 60
    while not pids.exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
    # As a terminal does; the parent is not waited for, and a zombie is dead, too.
    os.killpg(process.pid, number)
    assert_gone(process.pid, *map(int, pids.read_text().split()))
    process.wait()


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "keras-se-trials-dead").mkdir()
    (tmp_path / "keras-se-trials-dead" / ".lock").write_text("")
    (tmp_path / "keras-se-trials-new").mkdir()
    (tmp_path / "keras-se-trials-old").mkdir()
    os.utime(tmp_path / "keras-se-trials-old", (0, 0))
    with scratch_folder() as mine, scratch_folder() as second:
        assert set(tmp_path.iterdir()) == {mine, second, tmp_path / "keras-se-trials-new"}
    assert list(tmp_path.iterdir()) == [tmp_path / "keras-se-trials-new"]
