"""Processes for tests that would cost seconds of imports each: a server imports once and forks a child for each.

    python = WarmPython()
    process = python.start(["-m", "deepsup", "methods"], stdout=file)
    process.wait()

A child has its own environment, arguments, streams and end, as a fresh interpreter has, but not a fresh `sys.modules`: tests of
what is imported, and one of each command that starts processes, start real ones.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

ROOT = Path(__file__).parents[2]
IMPORTED = ("lightning_fabric", "sklearn.datasets", "deepsup.settings.configs", "deepsup.training.runs")


class Process:
    """A child of the server, with what tests and comparisons use of `subprocess.Popen`."""

    def __init__(self, server: socket.socket, request: dict[str, Any], streams: Sequence[int]) -> None:
        here, there = socket.socketpair()
        socket.send_fds(server, [b"x"], [*streams, there.fileno()])
        there.close()
        self._socket, self._talk = here, here.makefile("rw", encoding="utf-8")
        self._talk.write(json.dumps(request) + "\n")
        self._talk.flush()
        self.pid = int(self._talk.readline())
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def send(self, number: int) -> None:
        """Send it a signal, unless it was waited for."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; minus the number of a signal. `TimeoutError` after so many seconds, when it was killed."""
        if self.returncode is None:
            self._socket.settimeout(timeout)
            try:
                self.returncode = int(self._talk.readline())
            except TimeoutError:
                self.kill()
                raise
            finally:
                self._talk.close()
                self._socket.close()
        return self.returncode


class WarmPython:
    """The server, seen from the tests."""

    def __init__(self) -> None:
        self._socket, there = socket.socketpair()
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_python", str(there.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )
        there.close()
        assert self._socket.recv(1), "the server did not come up"  # how long it imports is nobody's duration

    @classmethod
    def reached(cls, server: socket.socket) -> WarmPython:
        """Another process's server, through the socket that `fileno` gave it."""
        python = cls.__new__(cls)
        python._socket = server
        return python

    def fileno(self) -> int:
        """The socket's number, to be passed to a process that shall start others through this server."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self._server.wait(timeout=20)

    def start(
        self,
        words: Sequence[str],  # as after `python`: a script or `-m` and a module, and its arguments
        *,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = 1,
        stderr: int | IO[Any] = 2,
        env: dict[str, str] | None = None,
    ) -> Process:
        """Start a command; `subprocess.PIPE` and `DEVNULL` mean what they mean there."""
        request = {"words": list(words), "env": dict(os.environ) | (env or {}), "cwd": os.getcwd()}
        theirs, ours = [], {}
        for name, stream in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if stream == subprocess.PIPE:
                ends = os.pipe()
                read, write = ends
                theirs.append(read if name == "stdin" else write)
                ours[name] = open(write, "w", encoding="utf-8") if name == "stdin" else open(read, encoding="utf-8")
            elif stream == subprocess.DEVNULL:
                theirs.append(os.open(os.devnull, os.O_RDWR))
            else:
                theirs.append(os.dup(stream if isinstance(stream, int) else stream.fileno()))
        process = Process(self._socket, request, theirs)
        for number in theirs:
            os.close(number)
        for name, file in ours.items():
            setattr(process, name, file)
        return process

    def popen(self, command: Sequence[str], *, text: bool, encoding: str, **options: Any) -> Process:
        """`subprocess.Popen` as a comparison calls it."""
        assert command[0] == sys.executable
        return self.start(
            command[2:] if command[1] == "-P" else command[1:], **options
        )  # its paths are set by the server

    def instead_of_subprocess(self) -> SimpleNamespace:
        """What stands in for the module `subprocess` where workers are started."""
        return SimpleNamespace(Popen=self.popen, PIPE=subprocess.PIPE)


def serve(requests: socket.socket) -> None:
    """Fork a watcher for every request, until the tests have ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    for name in IMPORTED:
        importlib.import_module(name)
    requests.send(b"x")
    while True:
        word, files, _, _ = socket.recv_fds(requests, 1, 4)
        if not word:
            return
        if os.fork() == 0:
            with suppress(BrokenPipeError):  # whoever asked was killed
                watch(*files)
            os._exit(0)
        for number in files:
            os.close(number)


def watch(stdin: int, stdout: int, stderr: int, talk: int) -> None:
    """Fork the child itself, tell its number and, when it has ended, its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=talk).makefile("rw", encoding="utf-8") as tell:
        line = tell.readline()
        if not line:  # whoever asked was killed
            os._exit(0)
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request, (stdin, stdout, stderr))
        for number in (stdin, stdout, stderr):
            os.close(number)  # or a pipe would not end with the child
        tell.write(f"{child}\n")
        tell.flush()
        tell.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
    os._exit(0)


def run(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Be the process that was asked for, and end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    words, code = request["words"], 0
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.orig_argv[:] = [sys.executable, *words]
    sys.path[:0] = [p for p in request["env"].get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    words = words[1:] if words[0] == "-P" else words  # the current folder is on no path here
    sys.argv = words[1:] if words[0] == "-m" else words
    try:
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
