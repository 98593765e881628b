"""Child processes: one fresh interpreter per trial, and the code that every child runs.

A child imports and calls its target. It pickles nothing and never imports the parent's `__main__`
again. Each child holds one end of a pipe whose other end only its parent holds. When the parent
ends, even by `kill -9`, the kernel closes the pipe and the child exits.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import _exit as exit_at_once  # public: its name is from C
from typing import IO, Any, NoReturn

ExitStatus = tuple[str, int, bool]  # key, exit code, whether it ran out of time
TICK = 0.02  # seconds between two looks at the children
_COUNTS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


class Spawner:
    """Starts a fresh interpreter for each child; a device serves one child at a time."""

    def __init__(self, threads: int, devices: Sequence[str] = ()) -> None:
        self._threads = threads
        self._devices = list(devices)
        self._children: dict[str, _Child] = {}

    def start(self, request: Mapping[str, Any]) -> None:
        """Starts a child for a request of `run_request`, with `key`, `log` and `timeout` added."""
        device = self._devices[0] if self._devices else None
        with open(request["log"], "ab") as log:
            process = launch(
                "tuning.processes.spawning", (), self._threads, log, log, _visible(device)
            )
        del self._devices[:1]
        deadline = time.monotonic() + (request["timeout"] or float("inf"))
        self._children[request["key"]] = _Child(process, device, deadline)
        send(process, request)

    def wait(self) -> list[ExitStatus]:
        """Blocks until at least one child has ended and returns all that have."""
        while not (ended := [key for key, child in self._children.items() if child.has_ended()]):
            time.sleep(TICK)
        return [self._reap(key) for key in ended]

    def close(self) -> None:
        """Kills all children."""
        for child in self._children.values():
            child.kill()
        for key in tuple(self._children):
            self._reap(key)

    def _reap(self, key: str) -> ExitStatus:
        child = self._children.pop(key)
        code = child.process.wait()
        close_pipes(child.process)
        if child.device is not None:
            self._devices.append(child.device)
        # A child may finish just before the kill: exit code 0 means that it was in time.
        return key, code, child.timed_out and code != 0


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    device: str | None
    deadline: float
    timed_out: bool = False

    def has_ended(self) -> bool:
        """Returns whether the child has ended, after killing it if its time is over."""
        if self.process.poll() is None and not self.timed_out and time.monotonic() > self.deadline:
            self.timed_out = True
            self.kill()
        return self.process.returncode is not None

    def kill(self) -> None:
        if sys.platform == "win32":
            self.process.kill()
        elif self.process.poll() is None:
            kill_group(self.process.pid)


def launch(
    module: str,
    arguments: Sequence[str],
    threads: int,
    stdout: int | IO[bytes],
    stderr: IO[bytes],
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a fresh interpreter with the parent's search path and calls `main` of a module."""
    code = (
        f"import sys; sys.path[:] = {search_path()!r}; import {module} as m; m.main(*{arguments!r})"
    )
    # The user's TF_CPP_MIN_LOG_LEVEL wins over the default here, but not the user's thread counts.
    counts = dict.fromkeys(_COUNTS, str(threads))
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **counts, **(variables or {})}
    # `-P`: Python itself must not put the working directory on the search path.
    return subprocess.Popen(  # noqa: S603 (our own interpreter and module)
        [sys.executable, "-P", "-u", "-c", code],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=True,  # Ctrl-C in the terminal reaches only the parent
    )


def search_path() -> list[str]:
    """Returns the entries of `sys.path` that are strings."""
    # The import system ignores other entries, too, and JSON cannot hold them.
    return [entry for entry in sys.path if isinstance(entry, str)]


def send(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    """Writes a request to the process as one line of JSON."""
    pipe = process.stdin
    if pipe is not None:
        with suppress(BrokenPipeError):  # `wait` reports a process that has died
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Closes the parent's ends of the pipes to a process."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # closing flushes, which fails if the process has died
                pipe.close()


def kill_group(pid: int) -> None:
    """Kills a child that was not waited for, and all processes that it started."""
    with suppress(ProcessLookupError, PermissionError):  # no group yet, or no longer
        os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def redirect(source: int, *descriptors: int) -> None:
    """Points descriptors at the file that `source` refers to, and closes `source`."""
    for descriptor in descriptors:
        os.dup2(source, descriptor)
    os.close(source)


def main() -> None:
    """Reads a request from standard input and runs it, in a spawned child."""
    request = json.loads(sys.stdin.buffer.readline())
    parent_pipe = os.dup(0)  # `run_request` replaces standard input by the null device
    run_request(request, parent_pipe)


def run_request(request: Mapping[str, Any], parent_pipe: int) -> NoReturn:
    """Calls the target of a request and ends this process with its exit code."""
    code, watched = 1, (parent_pipe, os.getppid())
    try:
        redirect(os.open(os.devnull, os.O_RDONLY), 0)
        threading.Thread(target=_exit_with_parent, args=watched, daemon=True).start()
        os.chdir(request["directory"])
        sys.path[:] = request["path"]
        importlib.invalidate_caches()  # a forked child inherits caches older than the module
        module, name = request["target"].split(":")
        getattr(importlib.import_module(module), name)(request["payload"])
        code = 0
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            exit_at_once(code)  # skips exit handlers


def _exit_code(error: SystemExit) -> int:
    # Like the interpreter: print a message and exit with 1.
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _exit_with_parent(parent_pipe: int, parent: int) -> None:
    if sys.platform == "win32":
        os.read(parent_pipe, 1)
    else:
        # Also watch the parent's id: a process that the parent forked keeps the pipe open.
        while os.getppid() == parent and not select.select([parent_pipe], [], [], 1)[0]:
            pass
        os.killpg(0, signal.SIGKILL)
    exit_at_once(1)


def _visible(device: str | None) -> dict[str, str]:
    if device is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": device, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
