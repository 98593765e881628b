"""Kills searches with signal 9 at random times, and says what was lost.

Each mode starts one search again and again on one folder: in this process, with two workers (the
search or a slot is killed), on a Dask cluster of two workers (the search, a worker, both workers or
the scheduler). Printed: the kills, records that were lost or changed, trials trained again although
they had a record, processes that were alive five seconds after a kill of the search, files in the
temporary folder at the end, and whether the answer is that of a search that nobody killed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path


def main_of_search(workers: str, folder: str, seeds: int) -> None:
    """The search that is killed, a script as a user has it."""
    import keras
    import keras_tuner
    import numpy as np

    import tuning

    class Trial(keras_tuner.HyperModel):
        """A trial that waits instead of training; what else a search does is real."""

        def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
            number = hp.Choice("number", [1, 2, 3])
            return keras.Sequential([keras.Input((4,)), keras.layers.Dense(number)])

        def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, **_: object) -> float:
            time.sleep(0.3)
            return float(hp.get("number") + model.get_weights()[0].sum())

    if not workers.isdigit():
        from distributed import Client
    part = np.zeros((8, 4), "float32"), np.zeros(8)
    result = tuning.search(
        Trial(),
        part,
        part,
        objective="cheapest:0.3",
        epochs=1,
        seeds=seeds,
        fresh_seeds=1,
        workers=int(workers) if workers.isdigit() else Client(workers),
        threads=1,
        directory=folder,
        on_trial=lambda record: print(f"{record.candidate}-s{record.seed}", flush=True),
    )
    scores = {f"{r.label} {r.seed}": r.score and round(r.score, 5) for r in result.records}
    Path(folder, "answer.json").write_text(json.dumps([result.chosen, scores]))


def start(root: Path, log: str, *words: str) -> subprocess.Popen:
    """A process whose output goes to a file of its own folder."""
    (root / log).mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(root / log), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (root / log / "out").open("a") as out, (root / log / "err").open("a") as errors:
        command = [sys.executable, "-W", "ignore", *words]
        return subprocess.Popen(command, env=environment, stdout=out, stderr=errors, cwd=root / log)


class Mode:
    """One way to run the search, on one folder."""

    def __init__(self, root: Path, name: str, workers: str, seeds: int) -> None:
        self.root, self.name, self.workers, self.seeds = root, name, workers, seeds
        self.folder, self.cluster = root / f"run-{name}", []

    def search(self) -> subprocess.Popen:
        """Starts the search, and the cluster if it needs one."""
        words = [__file__, "--search", self.workers, str(self.folder), str(self.seeds)]
        if self.workers == "dask":
            if not self.cluster:
                self.start_cluster()
            words[2] = self.address
        return start(self.root, self.name, *words)

    def start_cluster(self) -> None:
        """A scheduler and two workers in folders of their own."""
        file = self.root / "scheduler.json"
        file.unlink(missing_ok=True)
        words = ["-m", "dask", "scheduler", "--port", "0", "--no-dashboard"]
        scheduler = start(self.root, "scheduler", *words, "--scheduler-file", str(file))
        while not (file.exists() and file.read_text().rstrip().endswith("}")):
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]
        words = ["-m", "dask", "worker", self.address, "--nthreads", "1", "--no-dashboard"]
        self.cluster = [scheduler, *(start(self.root, name, *words) for name in ("a", "b"))]

    def slots(self) -> dict[int, int]:
        """Processes of slots in the folders of this mode, and their parents."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                line, stat = (path / "cmdline").read_text(), (path / "stat").read_text()
                ours = str(self.root) in (path / "environ").read_text()
            except OSError:
                continue
            if "popen_loky" in line and ours and stat.rpartition(")")[2].split()[0] not in "ZX":
                found[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
        return found

    def records(self) -> dict[str, int]:
        """Each record, and when it was written."""
        return {p.stem: p.stat().st_mtime_ns for p in self.folder.glob("records/*.json")}

    def kill(self, process: subprocess.Popen) -> tuple[str, int]:
        """Kills something; returns what, and how many slots live on without their search."""
        slots = self.slots()
        what = "search"
        if self.workers == "2" and slots and random.random() < 0.3:
            what = "slot"
        elif self.workers == "dask" and slots:
            what = random.choice(["search", "worker", "both workers", "scheduler"])
        targets = [process.pid]
        if what == "slot":
            targets = [random.choice(list(slots))]
        elif what.endswith(("worker", "workers")):
            targets = sorted(set(slots.values()))[: 1 if what == "worker" else 2]
        elif what == "scheduler":
            targets = [self.cluster[0].pid]
        for pid in targets:
            os.kill(pid, signal.SIGKILL)
        if what not in ("search", "scheduler"):
            return what, 0
        process.wait(60)  # without a scheduler, the search ends by itself
        if what == "scheduler":
            for part in self.cluster:
                part.wait(60)
            self.cluster = []
        time.sleep(5)
        return what, len(self.slots())

    def run(self, kills: int) -> dict:
        """Kills the search so often, and lets it end."""
        said: Counter[str] = Counter()
        lost = orphans = 0
        known: dict[str, int] = {}
        process = self.search()
        for _ in range(kills):
            before = len(self.trained())
            while process.poll() is None and len(self.trained()) == before:
                time.sleep(0.05)
            time.sleep(random.uniform(0, 1.5))
            if process.poll() is not None:
                break
            what, alive = self.kill(process)
            said[what] += 1
            orphans += alive
            now = self.records()
            lost += sum(now.get(key) != written for key, written in known.items())
            known = now
            if process.poll() is not None:
                process = self.search()
        process.wait()
        for part in self.cluster:
            part.terminate()
            part.wait()
        trained = self.trained()
        left = [p.name for n in (self.name, "a", "b") for p in (self.root / n).glob("keras-se-*")]
        return {
            "kills": dict(said),
            "trials": len(trained),
            "lost": lost,
            "trained again": len(trained) - len(set(trained)),
            "alive": orphans,
            "files left": len(left),
            "exit": process.returncode,
        }

    def trained(self) -> list[str]:
        """The trials that have ended so far, over all starts."""
        out = self.root / self.name / "out"
        return out.read_text().splitlines() if out.exists() else []


def main() -> None:
    """Prints a line for each mode."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__} With KERAS_BACKEND=numpy, processes start in half of the time."
    )
    parser.add_argument("--inline", type=int, default=20)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--dask", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--search", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.search:
        main_of_search(arguments.search[0], arguments.search[1], int(arguments.search[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        whole = Mode(root, "whole", "1", arguments.seeds)
        whole.search().wait()
        expected = (whole.folder / "answer.json").read_text()
        for mode, workers in (("inline", "1"), ("workers", "2"), ("dask", "dask")):
            one = Mode(root, mode, workers, arguments.seeds)
            found = one.run(getattr(arguments, mode))
            answer = one.folder / "answer.json"
            same = answer.exists() and answer.read_text() == expected
            print(f"{mode}: {found}, same answer: {same}", flush=True)


if __name__ == "__main__":
    main()
