"""The process that imports what scripts import, and forks for each of them."""

from __future__ import annotations

import ast
import atexit
import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path

import nonsmooth

LIBRARY = os.path.dirname(nonsmooth.__file__) + os.sep
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
# As this process got them: a run in the background of a script ignores Ctrl+C.
HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
# Seconds in which a shell has to say what it wants.
PATIENCE = 10.0


@dataclass
class Request:
    """What a shell asks for.

    Attributes:
        arguments: the path of the script, as `sys.argv`.
        folder: the working folder.
        environment: all variables.
        files: descriptors of its standard input, output and error.
    """

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    files: list[int]

    @classmethod
    def receive(cls, shell: socket.socket) -> Request:
        """Raises OSError, ValueError or TypeError if the shell ends meanwhile."""
        _, files, *_ = socket.recv_fds(shell, 1, 3)
        with shell.makefile("rb") as stream:
            return cls(**json.loads(stream.readline()), files=files)


def preload(script: str) -> None:
    """Import what a script imports at its top. What cannot be imported is left to the script itself."""
    try:
        statements = ast.parse(Path(script).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    for statement in statements:
        with suppress(Exception, SystemExit):
            match statement:
                case ast.Import(names=names):
                    for name in names:
                        importlib.import_module(name.name)
                case ast.ImportFrom(module=str(package), names=names, level=0):
                    module = importlib.import_module(package)
                    for name in names:
                        if not hasattr(module, name.name):
                            importlib.import_module(f"{package}.{name.name}")
    # The children need not copy the memory of what a collection would touch.
    gc.freeze()


def modified(path: str) -> int:
    """When a file was changed, 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class Server:
    """Serves shells that connect to a socket until its standard input ends."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._imported: dict[str, int] = {}

    def serve(self) -> None:
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                # What came before it in this round may have ended it.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def _accept(self) -> None:
        shell, _ = self._listener.accept()
        request = None
        with suppress(OSError, ValueError, TypeError):
            shell.settimeout(PATIENCE)
            request = Request.receive(shell)
            shell.settimeout(None)
            if self._can_run(request):
                self._start(request, shell)
                shell = None
        for descriptor in request.files if request else []:
            os.close(descriptor)
        if shell is not None:
            shell.close()

    def _can_run(self, request: Request) -> bool:
        """Whether the script would import here what it would import by itself: for as many threads, and the same code."""
        if request.environment.get("OMP_NUM_THREADS") != os.environ["OMP_NUM_THREADS"]:
            return False
        preload(request.arguments[0])
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if path and path.startswith(LIBRARY):
                self._imported.setdefault(path, modified(path))
        return all(modified(path) == since for path, since in self._imported.items())

    def _start(self, request: Request, shell: socket.socket) -> None:
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(request, shell, os.getpid()))
        process.start()
        with suppress(OSError):  # it has been killed, which `_heed` will learn
            shell.sendall(b"accepted\n")
        self._selector.register(shell, selectors.EVENT_READ, partial(self._heed, shell, process))
        # Not `process.sentinel`, which processes that the script leaves behind keep open.
        ended = os.pidfd_open(process.pid)
        self._selector.register(ended, selectors.EVENT_READ, partial(self._end, shell, process, ended))

    def _run(self, request: Request, shell: socket.socket, server: int) -> None:
        """Be the process of a script."""
        for number, handler in HANDLERS.items():
            signal.signal(number, handler)
        prctl = ctypes.CDLL(None).prctl
        # End with the server, as it ends with the run.
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:
            raise SystemExit(128 + signal.SIGTERM)
        prctl(PR_SET_NAME, os.path.basename(request.arguments[0])[-15:].encode())
        shell.close()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()
        for target, descriptor in enumerate(request.files):
            os.dup2(descriptor, target)
            os.close(descriptor)
        sys.stdin = os.fdopen(0, closefd=False)  # `multiprocessing` has put another in its place
        os.chdir(request.folder)
        os.environ.clear()
        os.environ.update(request.environment)
        sys.argv = request.arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
        atexit._clear()  # what libraries have registered is this server's
        is_interrupted = False
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except KeyboardInterrupt:
            traceback.print_exc()
            is_interrupted = True
        finally:
            atexit._run_exitfuncs()
        if is_interrupted:
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    def _heed(self, shell: socket.socket, process: ForkProcess) -> None:
        """Send signals on, or kill where the shell has been killed."""
        numbers = b""
        with suppress(OSError):
            numbers = shell.recv(64)
        if not numbers:
            self._selector.unregister(shell)
        for number in numbers or [signal.SIGKILL]:
            if process.is_alive():
                os.kill(process.pid, number)

    def _end(self, shell: socket.socket, process: ForkProcess, ended: int) -> None:
        self._selector.unregister(ended)
        os.close(ended)
        with suppress(KeyError):  # killed
            self._selector.unregister(shell)
        process.join()
        with suppress(OSError):
            shell.sendall(f"{process.exitcode}\n".encode())
        shell.close()
        process.close()


if __name__ == "__main__":
    descriptor, folder = sys.argv[1:]
    # These are for the scripts and for Snakemake, with which this ends.
    for number in HANDLERS:
        signal.signal(number, signal.SIG_IGN)
    try:
        Server(socket.socket(fileno=int(descriptor))).serve()
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        traceback.print_exc()
        # Snakemake still needs the shell, which runs scripts by themselves now.
        os.unlink(os.path.join(folder, "socket"))
    finally:
        # Children end by themselves; `multiprocessing` would wait for them.
        os._exit(0)
