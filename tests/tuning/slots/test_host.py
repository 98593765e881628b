"""The slots of a process. What they call loads no Keras."""

import os
import pickle
import threading
import time

import cloudpickle
import pytest

from tuning.slots import host, inside
from tuning.slots.host import Host, Limits, close_here, forget_here, run_here
from tuning.slots.parcel import Parcel
from tuning.slots.slot import Ended

PARCEL = Parcel("a", b"", [])


@pytest.fixture(autouse=True)
def light(monkeypatch):
    def load(place):
        pass

    def work(place, function):
        return pickle.dumps(pickle.loads(function)(place))

    for name, function in (("load", load), ("work", work)):
        function.__module__ = "__main__"
        monkeypatch.setattr(inside, name, function)


def seen(place):
    return os.getpid(), os.path.exists(place), os.environ.get("CUDA_VISIBLE_DEVICES")


seen.__module__ = "__main__"
SEEN = cloudpickle.dumps(seen)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_as_many_slots_as_calls_at_a_time_with_a_device_each():
    started = threading.Barrier(2)
    here = Host(["4", "7"])
    try:
        found = []

        def call():
            started.wait()
            found.append(pickle.loads(here.run(PARCEL, SEEN, Limits())))

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {device for _, _, device in found} == {"4", "7"}
        assert all(there for _, there, _ in found)
        pid = pickle.loads(here.run(PARCEL, SEEN, Limits()))[0]
        assert pid in {pid for pid, *_ in found}
        assert pickle.loads(here.run(PARCEL, SEEN, Limits(threads=2)))[0] not in {
            p for p, *_ in found
        }
    finally:
        here.close()
    assert not any(is_alive(pid) for pid, *_ in found)


def test_close_ends_what_runs():
    here, ended = Host(), []
    stay = cloudpickle.dumps(lambda place: time.sleep(300))
    thread = threading.Thread(target=lambda: ended.append(here.run(PARCEL, stay, Limits())))
    thread.start()
    time.sleep(2)
    here.close()
    thread.join(10)
    assert ended == [Ended("stopped")]


def test_a_job_that_is_forgotten_leaves_no_process_and_no_file(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    try:
        pid, _, device = pickle.loads(run_here(PARCEL, SEEN, Limits()))
        assert device == "3"
        assert is_alive(pid)
        folder = host._host._folder
        forget_here("a")
        assert not is_alive(pid)
        # A trial that was under way.
        assert not is_alive(pickle.loads(run_here(PARCEL, SEEN, Limits()))[0])
        assert not (folder / "a").exists()
    finally:
        close_here()
    assert not folder.exists()
    close_here()
    forget_here("a")
