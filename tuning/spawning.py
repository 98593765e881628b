"""Child processes: one launched for each trial, and what every child does, however it was made.

A child imports its target and calls it, as `python -c` would: nothing is pickled, and the
parent's `__main__` is never imported again. It holds one end of a pipe, whose other end nobody but
its parent holds. When the parent ends, be it by `kill -9`, the kernel closes that pipe, and the
child ends itself.
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
from os import _exit as leave  # public: its name is from C
from typing import IO, Any, NoReturn

Ended = tuple[str, int, bool]  # key, exit code, whether it ran out of time
TICK = 0.02  # seconds between two looks at the children
_COUNTS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


class Spawner:
    """Starts a fresh interpreter for each child; each device has one child at a time."""

    def __init__(self, threads: int, devices: Sequence[str] = ()) -> None:
        self._threads = threads
        self._devices = list(devices)
        self._children: dict[str, _Child] = {}

    def start(self, request: Mapping[str, Any]) -> None:
        """Starts a child.

        Args:
            request: What `run_request` takes, and `timeout`, in seconds or None.
        """
        device = self._devices[0] if self._devices else None
        with open(request["log"], "ab") as log:
            process = launch("tuning.spawning", (), self._threads, log, log, _visible(device))
        del self._devices[:1]
        deadline = time.monotonic() + (request["timeout"] or float("inf"))
        self._children[request["key"]] = _Child(process, device, deadline)
        send(process, request)

    def wait(self) -> list[Ended]:
        """Blocks until a child has ended.

        Returns:
            The children that have.
        """
        while not (ended := [key for key, child in self._children.items() if child.has_ended()]):
            time.sleep(TICK)
        return [self._bury(key) for key in ended]

    def close(self) -> None:
        """Kills the children."""
        for child in self._children.values():
            child.kill()
        for key in tuple(self._children):
            self._bury(key)

    def _bury(self, key: str) -> Ended:
        child = self._children.pop(key)
        code = child.process.wait()
        close_pipes(child.process)
        if child.device is not None:
            self._devices.append(child.device)
        return key, code, child.timed_out and code != 0


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    device: str | None
    deadline: float
    timed_out: bool = False

    def has_ended(self) -> bool:
        """Kills the child if its time is over."""
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
    """Starts a fresh interpreter that finds what this one finds and calls `main` of a module.

    Args:
        module: Dotted name of the module.
        arguments: Arguments of its `main`.
        threads: Threads of each of the libraries that compute.
        stdout: As `subprocess.Popen` takes it.
        stderr: Likewise.
        variables: More environment variables.

    Returns:
        The process, with a pipe to its standard input, in a session of its own: Ctrl-C in the
        terminal reaches only its parent.
    """
    code = (
        f"import sys; sys.path[:] = {search_path()!r}; import {module} as m; m.main(*{arguments!r})"
    )
    counts = dict.fromkeys(_COUNTS, str(threads))
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **counts, **(variables or {})}
    return subprocess.Popen(  # noqa: S603 (our own interpreter and module)
        [sys.executable, "-P", "-u", "-c", code],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=True,
    )


def search_path() -> list[str]:
    """Where this process finds modules; it skips what is no string, as the import system does."""
    return [entry for entry in sys.path if isinstance(entry, str)]


def send(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    """Writes a request as a line of JSON; that a process has died is for `wait` to find out."""
    pipe = process.stdin
    if pipe is not None:
        with suppress(BrokenPipeError):
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Closes the parent's ends of a process's pipes, also when the process has died."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def kill_group(pid: int) -> None:
    """Kills a child that has not been waited for, and the processes that it started."""
    with suppress(ProcessLookupError, PermissionError):  # no group yet, or none any more
        os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def redirect(source: int, *descriptors: int) -> None:
    """Points descriptors at what `source` is open for, and closes `source`."""
    for descriptor in descriptors:
        os.dup2(source, descriptor)
    os.close(source)


def main() -> None:
    """A spawned child: reads its request from standard input and runs it."""
    request = json.loads(sys.stdin.buffer.readline())
    lifeline = os.dup(0)
    run_request(request, lifeline)


def run_request(request: Mapping[str, Any], lifeline: int) -> NoReturn:
    """Calls the target, and ends this process.

    The exit code is 0 when the target returns, that of a `SystemExit`, and 1 after the traceback
    of any other exception. Nothing that was registered to run at exit runs.

    Args:
        request: `target`, "package.module:function"; its `payload`; `path` and `directory`, the
            parent's search path and working directory.
        lifeline: Descriptor that is at its end when the parent has gone.
    """
    code, ends = 1, (lifeline, os.getppid())
    try:
        redirect(os.open(os.devnull, os.O_RDONLY), 0)
        threading.Thread(target=_end_with, args=ends, daemon=True).start()
        os.chdir(request["directory"])
        sys.path[:] = request["path"]
        importlib.invalidate_caches()  # the server may have looked before a module was written
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
            leave(code)


def _exit_code(error: SystemExit) -> int:
    """As the interpreter has it: a message is printed, and counts as 1."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _end_with(lifeline: int, parent: int) -> None:
    if sys.platform == "win32":
        os.read(lifeline, 1)
    else:
        # The pipe alone is not proof: a process that the parent forked holds its other end, too.
        while os.getppid() == parent and not select.select([lifeline], [], [], 1)[0]:
            pass
        os.killpg(0, signal.SIGKILL)
    leave(1)


def _visible(device: str | None) -> dict[str, str]:
    if device is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": device, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
