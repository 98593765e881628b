"""A process that imports Keras once and is forked for each trial.

It has one thread and never runs an operation, so TensorFlow starts in the child as if just
imported. Requests and reports are lines of JSON in standard input and output.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import _exit as exit_at_once  # public: its name is from C
from pathlib import Path
from typing import IO, Any

from tuning.processes.spawning import (
    TICK,
    ExitStatus,
    close_pipes,
    kill_group,
    launch,
    redirect,
    run_request,
    send,
)


class ForkServer:
    """The parent's side. Starts the server on first use, and again if it has died."""

    def __init__(self, threads: int, preload: Sequence[str]) -> None:
        self._threads = threads
        self._preload = tuple(preload)
        self._server: tuple[subprocess.Popen[bytes], IO[bytes]] | None = None
        self._logs: dict[str, Path] = {}
        self._ended: list[ExitStatus] = []

    def start(self, request: Mapping[str, Any]) -> None:
        """Sends the server a request to fork a child."""
        # A new server does not know the children of a dead one: report them as lost first.
        if self._server is not None and self._server[0].poll() is not None:
            lost = self._ended
            while self._logs:
                lost = lost + self._next()
            self.close()
            self._ended = lost
        process, _ = self._running_server()
        self._logs[request["key"]] = Path(request["log"])
        send(process, request)

    def wait(self) -> list[ExitStatus]:
        """Blocks until a child has ended, and returns all that have."""
        ended, self._ended = self._ended or self._next(), []
        return ended

    def close(self) -> None:
        """Stops the server, which kills its children."""
        self._logs, self._ended = {}, []
        if self._server is None:
            return
        process, messages = self._server
        process.terminate()  # works only during its imports, when it has no children
        close_pipes(process)
        process.wait()
        messages.close()
        self._server = None

    def _running_server(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._server is None:
            # A file and not a pipe, which would block the server when it is full.
            messages = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
            process = launch(
                "tuning.processes.fork_server",
                self._preload,
                self._threads,
                subprocess.PIPE,
                messages,
            )
            self._server = process, messages
        return self._server

    def _next(self) -> list[ExitStatus]:
        stdout = self._running_server()[0].stdout
        line = stdout.readline() if stdout is not None else b""
        # A line without its end is the last one of a server that was killed.
        ended = json.loads(line) if line.endswith(b"\n") else self._lost()
        for key, *_ in ended:
            del self._logs[key]
        return [(key, code, timed_out) for key, code, timed_out in ended]

    def _lost(self) -> list[ExitStatus]:
        process, messages = self._running_server()
        code = process.wait()
        messages.seek(0)
        reason = f"The server of the child processes ended with code {code}.\n".encode()
        reason = messages.read() + reason
        for log in self._logs.values():
            with log.open("ab") as file:
                file.write(reason)
        return [(key, -signal.SIGKILL, False) for key in self._logs]


def main(*preload: str) -> None:
    """Runs the server. The modules in `preload` must not start threads when imported."""
    reports = os.dup(1)
    # An import may print, which must not mix with the reports.
    os.dup2(2, 1)
    # Libraries only: a module of the user may compute when imported, and the threads that this
    # starts do not survive a fork.
    for module in preload:
        importlib.import_module(module)
    # From here on the end of standard input stops the server, so that it can kill its children.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children: dict[int, _Child] = {}
    try:
        _serve(children, reports)
    finally:
        for pid in children:
            kill_group(pid)
        for pid in children:
            os.waitpid(pid, 0)
    exit_at_once(0)


@dataclass
class _Child:
    key: str
    deadline: float
    timed_out: bool = False


def _serve(children: dict[int, _Child], reports: int) -> None:
    parent, parent_pipe, pending = os.getppid(), os.pipe(), b""
    # The end of the input alone does not show that the parent has died: a process that the
    # parent forked holds the other end of the pipe, too.
    while os.getppid() == parent:
        if select.select([0], [], [], TICK if children else 1)[0]:
            received = os.read(0, 1 << 16)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = _fork(request, parent_pipe, reports)
                deadline = time.monotonic() + (request["timeout"] or float("inf"))
                children[pid] = _Child(request["key"], deadline)
        if ended := _ended(children):
            os.write(reports, json.dumps(ended).encode() + b"\n")


def _fork(request: Mapping[str, Any], parent_pipe: tuple[int, int], reports: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        # A group of its own, so that `kill_group` also reaches processes that the child starts.
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        redirect(os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1, 2)
        # The child must not hold the write end: it could then never see the server die.
        os.close(reports)
        os.close(parent_pipe[1])
        run_request(request, parent_pipe[0])
    finally:
        exit_at_once(1)


def _ended(children: dict[int, _Child]) -> list[ExitStatus]:
    """Kills children that are out of time, and removes and returns those that have ended."""
    ended = []
    for pid, child in list(children.items()):
        if time.monotonic() > child.deadline and not child.timed_out:
            child.timed_out = True
            kill_group(pid)
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            code = os.waitstatus_to_exitcode(status)
            # A child may succeed just before it is killed.
            ended.append((child.key, code, child.timed_out and code != 0))
            del children[pid]
    return ended
