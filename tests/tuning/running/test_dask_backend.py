"""A real scheduler and two workers in folders of their own, which share nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("dask_search.py")
posix = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def start(folder, *words):
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": "numpy",  # loaded in half of the time; nothing is trained
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
        "TMPDIR": str(folder),
    }
    with (folder / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE if words[0].endswith(".py") else subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )


class Cluster:
    """A scheduler and two workers, each with a nanny."""

    def __init__(self, root):
        self.root, self.processes = root, []

    def start(self):
        words = ["-m", "dask", "scheduler", "--port", "0", "--no-dashboard"]
        file = self.root / "scheduler.json"
        file.unlink(missing_ok=True)
        self.processes = [start(self.root / "scheduler", *words, "--scheduler-file", str(file))]
        wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        words = ["-m", "dask", "worker", self.address, "--nthreads", "1", "--no-dashboard"]
        self.processes += [start(self.root / name, *words) for name in "ab"]

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


def wait_for(condition, seconds=120):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.1)


def slots():
    """Processes of slots of the workers, and the workers that they belong to."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line, parent = (path / "cmdline").read_text(), (path / "stat").read_text()
            where = os.readlink(path / "cwd")
        except OSError:
            continue
        if "popen_loky" in line and "dask_cluster" in where:
            found[int(path.name)] = int(parent.rpartition(")")[2].split()[1])
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("dask_cluster"))
    with ExitStack() as stack:
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster


@posix
def test_kills_of_worker_parent_and_scheduler_change_nothing(cluster, tmp_path):
    shutil.copy(SCRIPT, tmp_path / "script.py")
    lines = []

    def searching(records):
        """A search of which so many trials have ended, while others run."""
        process = start(tmp_path, "script.py", cluster.address, "run", "3")
        lines.extend(process.stdout.readline().strip() for _ in range(records))
        wait_for(slots)
        return process

    with start(tmp_path, "script.py", "1", "inline", "0"), searching(1) as process:
        wait_for(lambda: len(slots()) == 2)
        # Both workers, which have the job; their nannies replace them.
        for worker in set(slots().values()):
            os.kill(worker, signal.SIGKILL)
        lines.append(process.stdout.readline().strip())
        process.kill()
        wait_for(lambda: not slots())
        lines += process.communicate()[0].splitlines()
    with searching(1) as process:
        cluster.stop()
        lines += process.communicate(timeout=120)[0].splitlines()
        assert process.returncode == 1
    assert "InputError: The scheduler of a search must stay" in (tmp_path / "errors").read_text()
    wait_for(lambda: not slots())
    cluster.start()
    with start(tmp_path, "script.py", cluster.address, "run", "0") as process:
        lines += process.communicate(timeout=120)[0].splitlines()
    assert process.returncode == 0, (tmp_path / "errors").read_text()
    assert len(lines) <= len(set(lines)) == 6  # none is trained twice
    found, expected = (
        json.loads((tmp_path / name / "answer.json").read_text()) for name in ("run", "inline")
    )
    assert found["chosen"] == expected["chosen"]
    assert found["scores"] == pytest.approx(expected["scores"], abs=1e-6)
