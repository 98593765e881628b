"""Real processes, with targets that need no Keras, but for one that trains."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import pytest

from keras_se.errors import InputError
from tuning.processes.pool import Exit, ProcessPool

ROOT = Path(__file__).parents[3]
METHODS = ("fork", "spawn")
posix = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TARGETS = '''
import collections, json, os, pathlib, signal, subprocess, sys, threading, time

def save(payload):
    seen = {"payload": payload, "environment": dict(os.environ), "path": sys.path,
            "directory": os.getcwd(), "server": os.getppid(), "pid": os.getpid(),
            "main": sys.modules["__main__"].__dict__.get("__file__"), "stdin": sys.stdin.read(),
            "descriptors": sorted(os.readlink(f"/proc/self/fd/{d}") for d in range(3, 20)
                                  if os.path.exists(f"/proc/self/fd/{d}")
                                  or os.path.islink(f"/proc/self/fd/{d}"))}
    publish(payload["file"], json.dumps(seen))

def publish(file, text):
    pathlib.Path(file + ".part").write_text(text)
    os.replace(file + ".part", file)

def say(payload):
    print("to standard output")
    os.system("echo from a command")
    print("to standard error", file=sys.stderr)

def pid(payload):
    print(os.getpid(), flush=False)

def count(payload):
    print(*range(30), sep="\\n")

def forget(payload):
    os.remove(payload["log"])

def leave(payload):
    sys.exit(payload["code"])

def fail(payload):
    raise ValueError("no such luck")

def die(payload):
    os.kill(os.getpid(), getattr(signal, payload["signal"]))

def stay(payload):
    nested = subprocess.Popen(["sleep", "300"])
    save(payload | {"nested": nested.pid})
    time.sleep(300)

def meet(payload):
    pathlib.Path(payload["mine"]).touch()
    end = time.monotonic() + 30
    while not os.path.exists(payload["other"]):
        assert time.monotonic() < end, "nobody came"
        time.sleep(0.01)

def hold(payload):
    """Fails if another child holds the same device."""
    lock = os.path.join(payload["folder"], os.environ["CUDA_VISIBLE_DEVICES"])
    os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_FORCE_GPU_ALLOW_GROWTH"])
    time.sleep(0.1)
    os.remove(lock)

def train(payload):
    import keras, numpy
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    loss = model.fit(numpy.ones((32, 8)), numpy.ones((32, 1)), verbose=0).history["loss"]
    names = [pathlib.Path(f"/proc/self/task/{task}/comm").read_text().strip()
             for task in os.listdir("/proc/self/task")]
    save(payload | {"loss": loss, "threads": collections.Counter(names)})
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "pool_targets.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def make(target, slots=1, *, threads=1, preload=(), **arguments):
    return ProcessPool(
        slots, f"pool_targets:{target}", threads=threads, preload=preload, **arguments
    )


def run(folder, target, payload=None, **arguments):
    """How one child ended."""
    with make(target, **arguments) as pool:
        pool.start("only", payload or {}, folder / "log")
        (result,) = pool.wait()
        assert pool.wait() == []
    return result


def saved(file):
    """What a child has saved, once it has."""
    end = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.01)
    return json.loads(file.read_text())


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # init may take its time to bury an orphan


def assert_gone(*pids):
    end = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.01)


def script(folder, body):
    """A parent without a main guard."""
    (folder / "script.py").write_text(
        "import os, sys, time, pathlib\nfrom tuning.processes.pool import ProcessPool\n"
        f"folder = pathlib.Path({str(folder)!r})\n{body}"
    )
    return subprocess.Popen(
        [sys.executable, folder / "script.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


STAYING = """
pool = ProcessPool(2, "pool_targets:stay", threads=1, preload=(), start_method={method!r})
with pool:
    for key in "ab":
        pool.start(key, {{"file": str(folder / key)}}, folder / f"{{key}}.log")
    pool.wait()
"""


@pytest.fixture(params=METHODS)
def staying(request, folder):
    """A parent with two children that stay, and the pids below it."""
    process = script(folder, STAYING.format(method=request.param))
    with process:
        children = [saved(folder / key) for key in "ab"]
        pids = {child["pid"] for child in children}
        pids |= {child["payload"]["nested"] for child in children}
        assert all(alive(pid) for pid in pids)
        yield process, request.param, children[0]["server"], pids
        process.kill()


@posix
@pytest.mark.parametrize("method", METHODS)
def test_a_child_gets_its_payload_and_the_view_of_its_parent(folder, method, monkeypatch):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    path = ["", *sys.path, "a.finder.__path_hook__"]
    monkeypatch.setattr(sys, "path", [*path, Path("no string")])
    payload = {"file": str(folder / "seen"), "nested": [1, 2.5, None, True, "ü"], "nan": math.nan}
    result = run(folder, "save", payload, start_method=method, threads=3)
    assert result == Exit("only", 0, False, "")
    seen = saved(folder / "seen")
    assert repr(seen["payload"]) == repr(payload)
    assert seen["path"] == path
    assert (seen["directory"], seen["main"], seen["stdin"]) == (str(elsewhere), None, "")
    names = ("TF_NUM_INTRAOP", "TF_NUM_INTEROP", "OMP_NUM", "OPENBLAS_NUM", "MKL_NUM")
    environment = seen["environment"]
    assert {environment[f"{name}_THREADS"] for name in names} == {"3"}
    assert (environment["KERAS_BACKEND"], environment["TF_CPP_MIN_LOG_LEVEL"]) == ("numpy", "3")
    assert len(seen["descriptors"]) == 1  # from the parent
    assert seen["descriptors"][0].startswith("pipe:")


def test_the_path_and_the_folder_are_those_of_the_start(folder, monkeypatch):
    """The server is older than they are."""
    with ProcessPool(1, "late:target", threads=1, preload=()) as pool:
        for number, code in enumerate((1, 0)):
            pool.start("key", {}, folder / "log")
            (result,) = pool.wait()
            assert result.code == code, result.tail
            (folder / f"late{number}").mkdir()
            (folder / f"late{number}" / "late.py").write_text(
                "import os\ndef target(payload): assert os.getcwd().endswith('late0')"
            )
            monkeypatch.syspath_prepend(folder / f"late{number}")
            monkeypatch.chdir(folder / f"late{number}")


@pytest.mark.parametrize("method", METHODS)
def test_all_that_a_child_says_is_in_its_log(folder, method, capfd):
    (folder / "log").write_text("there before\n")
    said = ["to standard output", "from a command", "to standard error"]
    assert run(folder, "say", start_method=method).tail.splitlines() == said
    assert (folder / "log").read_text().splitlines() == ["there before", *said]
    assert capfd.readouterr() == ("", "")


def test_the_tail_is_twenty_lines(folder):
    assert run(folder, "count").tail.split() == [str(number) for number in range(10, 30)]


def test_a_log_that_is_gone(folder):
    assert run(folder, "forget", {"log": str(folder / "log")}).tail == ""


def in_turn(folder, target, payloads, **arguments):
    """How the children of one pool ended, one after the other."""
    ended = []
    with make(target, **arguments) as pool:
        for payload in payloads:
            pool.start("only", payload, folder / "log")
            ended += pool.wait()
    return ended


@pytest.mark.parametrize("method", METHODS)
def test_the_code_of_a_system_exit(folder, method):
    codes = {0: 0, 7: 7, None: 0, -1: 255, "a reason": 1}
    ended = in_turn(folder, "leave", [{"code": c} for c in codes], start_method=method)
    assert [end.code for end in ended] == list(codes.values())
    assert [end.tail for end in ended] == ["", "", "", "", "a reason"]


@pytest.mark.parametrize("method", METHODS)
def test_the_traceback_of_an_exception(folder, method):
    result = run(folder, "fail", start_method=method)
    assert (result.code, result.timed_out) == (1, False)
    assert result.tail.startswith("Traceback (most recent call last):")
    assert result.tail.endswith("ValueError: no such luck")


@pytest.mark.parametrize("target", ["pool_targets:no_such_function", "no_such_module:no"])
def test_a_target_that_is_not_there(folder, target):
    with ProcessPool(1, target, threads=1, preload=()) as pool:
        pool.start("only", {}, folder / "log")
        (result,) = pool.wait()
    assert result.code == 1
    assert re.search("AttributeError: module|ModuleNotFoundError: No module", result.tail)


@posix
@pytest.mark.parametrize("method", METHODS)
def test_a_payload_larger_than_a_pipe_holds(folder, method):
    payload = {"file": str(folder / "seen"), "text": "x" * 10**6}
    assert run(folder, "save", MappingProxyType(payload), start_method=method).code == 0
    assert saved(folder / "seen")["payload"] == payload


@posix
@pytest.mark.parametrize("method", METHODS)
def test_the_signal_that_killed_a_child(folder, method):
    names = ("SIGKILL", "SIGSEGV", "SIGTERM")
    ended = in_turn(folder, "die", [{"signal": name} for name in names], start_method=method)
    codes = [(-getattr(signal, name), False) for name in names]
    assert [(end.code, end.timed_out) for end in ended] == codes


@posix
@pytest.mark.parametrize("method", METHODS)
def test_a_timeout_ends_a_child_and_what_it_started(folder, method):
    result = run(folder, "stay", {"file": str(folder / "a")}, start_method=method, timeout=2)
    assert (result.code, result.timed_out) == (-9, True)
    seen = saved(folder / "a")
    assert_gone(seen["pid"], seen["payload"]["nested"])


def test_a_timeout_spares_those_that_are_in_time(folder):
    assert run(folder, "say", timeout=60).timed_out is False


@pytest.mark.parametrize("method", METHODS)
def test_two_children_run_at_once(folder, method):
    with make("meet", 3, start_method=method) as pool:
        assert (pool.free, pool.busy) == (3, 0)
        for mine, other in ("ab", "ba"):
            payload = {"mine": str(folder / mine), "other": str(folder / other)}
            pool.start(mine, payload, folder / f"{mine}.log")
        assert (pool.free, pool.busy) == (1, 2)
        ended = pool.wait()
        assert pool.busy == 2 - len(ended)
        ended += pool.wait()
        assert {(end.key, end.code) for end in ended} == {("a", 0), ("b", 0)}
        assert (pool.free, pool.busy) == (3, 0)


@posix
@pytest.mark.parametrize("method", METHODS)
def test_close_ends_everything_and_a_pool_may_start_again(folder, method):
    pool = make("stay", 2, start_method=method)
    pids = set()
    for key in "ab":
        pool.start(key, {"file": str(folder / key)}, folder / "log")
        seen = saved(folder / key)
        pids |= {seen["pid"], seen["payload"]["nested"]}
    assert len(pids) == 4
    pool.close()
    assert not Path(f"/proc/{seen['pid']}").exists()  # not a zombie, either
    assert_gone(*pids)
    assert (pool.busy, pool.wait()) == (0, [])
    pool.close()
    with pool:
        pool.start("a", {"file": str(folder / "c")}, folder / "log")
        saved(folder / "c")


def test_close_does_not_wait_for_imports(folder):
    (folder / "slow_library.py").write_text("import time; time.sleep(60)")
    start = time.monotonic()
    with make("say", preload=["slow_library"]) as pool:
        pool.start("a", {}, folder / "log")
    assert time.monotonic() - start < 30


@posix
def test_nobody_trains_on_after_kill_9_of_the_parent(staying):
    process, _, _, pids = staying
    process.kill()
    assert_gone(*pids)


@posix
def test_nobody_trains_on_after_kill_9_of_parent_and_server(staying):
    process, method, server, pids = staying
    os.kill(server, signal.SIGKILL)  # of the parent itself when spawned
    process.kill()
    assert (server == process.pid) is (method == "spawn")
    assert_gone(*pids)


@posix
@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_the_parent_forked_does_not_stand_in_for_it(folder, method):
    """It holds the parent's ends of all pipes."""
    helper = "    if not os.fork(): time.sleep(300)\n    pool.wait()"
    body = STAYING.format(method=method).replace("    pool.wait()", helper)
    with script(folder, body) as process:
        pids = [saved(folder / key)["pid"] for key in "ab"]
        time.sleep(0.5)
        process.kill()
        assert_gone(*pids)
        os.killpg(process.pid, signal.SIGKILL)


@posix
def test_ctrl_c_reaches_the_parent_alone(staying, folder):
    process, _, _, pids = staying
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1].strip().endswith("KeyboardInterrupt")
    assert_gone(*pids)
    assert [(folder / f"{key}.log").read_text() for key in "ab"] == ["", ""]


@pytest.mark.parametrize("method", METHODS)
def test_a_script_without_main_guard(folder, method):
    body = f"""
print("once", flush=True)
with ProcessPool(2, "pool_targets:say", threads=1, preload=(), start_method={method!r}) as pool:
    for key in "ab":
        pool.start(key, {{}}, folder / "log")
    print(sorted(end.code for end in pool.wait() + pool.wait()))
print([name for name in ("keras", "tensorflow", "multiprocessing") if name in sys.modules])
"""
    with script(folder, body) as process:
        out, err = process.communicate(timeout=60)
    assert out.splitlines()[0] == "once"
    assert out.splitlines()[-1] == "[]"
    assert out.count("once") == 1
    assert err == ""


@posix
@pytest.mark.parametrize("seen_by", ["wait", "start"])
def test_a_server_that_is_killed(folder, seen_by):
    with make("stay", 4) as pool:
        for key in "ab":
            pool.start(key, {"file": str(folder / key)}, folder / f"{key}.log")
        children = [saved(folder / key) for key in "ab"]
        server = children[0]["server"]
        assert server == children[1]["server"]
        os.kill(server, signal.SIGKILL)
        assert_gone(server, *(child["pid"] for child in children))
        if seen_by == "start":
            pool.start("c", {"file": str(folder / "c")}, folder / "c.log")
        reason = "The server of the child processes ended with code -9."
        assert pool.wait() == [Exit(key, -9, False, reason) for key in "ab"]
        if seen_by == "wait":
            pool.start("c", {"file": str(folder / "c")}, folder / "c.log")
        assert saved(folder / "c")["server"] != server
        assert pool.busy == 1
        os.kill(saved(folder / "c")["server"], signal.SIGKILL)
        assert_gone(saved(folder / "c")["server"])
        pool.start("d", {"file": str(folder / "d")}, folder / "d.log")
        pool.close()
        assert (pool.busy, pool.wait()) == (0, [])
        pool.start("c", {"file": str(folder / "e")}, folder / "e.log")  # another of that name
        os.killpg(saved(folder / "e")["pid"], signal.SIGTERM)
        assert pool.wait() == [Exit("c", -15, False, "")]


@posix
def test_a_server_that_is_killed_while_nothing_runs(folder):
    with make("save") as pool:
        servers = []
        for name in "ab":
            pool.start(name, {"file": str(folder / name)}, folder / "log")
            assert [end.code for end in pool.wait()] == [0]
            servers.append(saved(folder / name)["server"])
            os.kill(servers[-1], signal.SIGKILL)
            assert_gone(servers[-1])
            assert pool.wait() == []
        assert servers[0] != servers[1]


def test_a_library_that_cannot_be_imported(folder):
    result = run(folder, "say", preload=["no_such_library"])
    assert result.code == -9
    assert "ModuleNotFoundError: No module named 'no_such_library'" in result.tail
    assert result.tail.endswith("The server of the child processes ended with code 1.")


def test_what_a_library_prints_is_no_report(folder, capfd):
    (folder / "chatty.py").write_text("import os; print('hello'); os.write(1, b'again')")
    assert run(folder, "say", preload=["chatty"]).code == 0
    assert capfd.readouterr() == ("", "")


def test_each_child_has_a_device_of_its_own(folder):
    with make("hold", 2, devices=("0", "5")) as pool:
        ended = []
        for key in range(6):
            while not pool.free:
                ended += pool.wait()
            pool.start(str(key), {"folder": str(folder)}, folder / f"{key}.log")
        while pool.busy:
            ended += pool.wait()
    assert [end.tail for end in ended if end.code] == []
    assert len(ended) == 6
    assert {end.tail for end in ended} == {"0 true", "5 true"}


def test_the_children_on_devices_would_notice(folder):
    """The guard above can fail: two at a time on one device."""
    (folder / "0").touch()
    result = run(folder, "hold", {"folder": str(folder)}, devices=["0"])
    assert result.tail.splitlines()[-1].startswith("FileExistsError")


def resources():
    descriptors = len(os.listdir("/proc/self/fd"))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return descriptors, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@posix
@pytest.mark.parametrize(("method", "children"), [("fork", 60), ("spawn", 8)])
def test_many_children_leave_nothing_behind(folder, method, children):
    before, ended = None, []
    with make("pid", 4, start_method=method) as pool:
        for key in range(children + 4):
            while not pool.free:
                ended += pool.wait()
            if key == 4:
                before = resources()
            pool.start(str(key), {}, folder / f"{key}.log")
            if key < 4:
                ended += pool.wait()
        while pool.busy:
            ended += pool.wait()
        after = resources()
        assert not any(Path(f"/proc/{int(end.tail)}").exists() for end in ended)
    assert len({end.tail for end in ended}) == children + 4
    assert {end.code for end in ended} == {0}
    assert after[0] == before[0]
    assert after[1] - before[1] < 4


@posix
def test_a_forked_child_trains(folder):
    payload = {"file": str(folder / "seen")}
    with make("train", preload=["keras"]) as pool:
        for name in "ab":
            pool.start(name, payload, folder / "log")
            (result,) = pool.wait()
            assert result.code == 0, result.tail
            seen = saved(folder / "seen")["payload"]
            assert math.isfinite(seen["loss"][0])
            # One more than was asked for; by default there is one more than the machine has cores.
            assert seen["threads"]["tf_Compute"] == 2


@posix
def test_a_child_needs_a_key_and_a_slot(folder):
    rule = "^start needs a new key and a free slot. Received: key="
    with make("stay", 2) as pool:
        pool.start("a", {"file": str(folder / "a")}, folder / "log")
        with pytest.raises(InputError, match=rule + r"'a', while \['a'\] run in 2 slots$"):
            pool.start("a", {}, folder / "log")
        pool.start("b", {"file": str(folder / "b")}, folder / "log")
        with pytest.raises(InputError, match=rule + r"'c', while \['a', 'b'\] run in 2 slots$"):
            pool.start("c", {}, folder / "log")


NUMBERS = "^slots and threads must be at least 1, and timeout above 0. Received: "
DEVICES = "^Each slot needs its own device. Received: "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slots": 0}, NUMBERS + "slots=0, threads=1, timeout=None$"),
        ({"threads": 0}, NUMBERS + "slots=1, threads=0, timeout=None$"),
        ({"timeout": 0}, NUMBERS + "slots=1, threads=1, timeout=0$"),
        ({"timeout": math.nan}, NUMBERS + "slots=1, threads=1, timeout=nan$"),
        ({"slots": 2, "devices": ["0"]}, DEVICES + r"slots=2, devices=\('0',\)$"),
        ({"devices": ["0", "0"]}, DEVICES + r"slots=1, devices=\('0', '0'\)$"),
    ],
)
def test_arguments_that_break_a_rule(arguments, message):
    with pytest.raises(InputError, match=message):
        make("say", **arguments)


def test_without_fork_every_child_is_spawned(folder, monkeypatch):
    monkeypatch.delattr(os, "fork")
    assert run(folder, "save", {"file": str(folder / "seen")}).code == 0
    assert saved(folder / "seen")["server"] == os.getpid()
