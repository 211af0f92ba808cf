"""Scripts that the preloaded process runs, beside the same ones in a Python of their own: real processes and signals throughout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nonsmooth import preloading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts are preloaded on Linux only")

LIBRARY = Path(preloading.__file__).parents[2]
# In place of Snakemake.
RUN = "import sys; from nonsmooth import preloading; print(preloading.start(2), flush=True); sys.stdin.read()"
# Whether the process of the script was forked.
IS_FORKED = "import os, psutil; print('nonsmooth.preloading.server' in psutil.Process(os.getppid()).cmdline())\n"


class Run:
    """A run with a server, and the shell of its jobs."""

    def __init__(self, library: Path | str = LIBRARY) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(library), **dict.fromkeys(preloading.THREADS, "2")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN], env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.shell = Path(self.process.stdout.readline().strip())
        self.environment[preloading.VARIABLE] = str(self.shell.with_name("socket"))
        (self.server,) = psutil.Process(self.process.pid).children()

    def start(self, command: str, shell: str | None = None, **options) -> subprocess.Popen:
        """A job, started as Snakemake does it."""
        options = {"env": self.environment, "text": True, "stdout": -1, "stderr": -1, **options}
        return subprocess.Popen(command, shell=True, executable=shell or str(self.shell), **options)

    def finish(self, *arguments, **options) -> tuple[int, str, str]:
        process = self.start(*arguments, **options)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def close(self) -> None:
        self.process.communicate("")
        self.server.wait(10)


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    run = Run()
    yield run
    run.close()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """The command of a script."""

    def write(text: str) -> str:
        (tmp_path / "job.train.py").write_text(text)
        return f"{sys.executable} {tmp_path}/job.train.py"

    return write


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_scripts_are_forked(run: Run, script) -> None:
    assert run.finish(script(IS_FORKED)) == (0, "True\n", "")
    assert run.finish(script(IS_FORKED), shell="/bin/bash") == (0, "False\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "import sys; print(sys.argv, __name__, __file__, sys.path[0], sys.executable)",
        "import os; print(os.getcwd())",
        "import os; print(sorted(i for i in os.environ.items() if i[0] not in ('_', 'PWD', 'OLDPWD', 'SHLVL')))",
        "import sys; print('out'); print('error', file=sys.stderr)",
        "import sys; sys.stdout.write('no end of line'); sys.exit()",
        "import sys; sys.exit(7)",
        "import sys; sys.exit('one line')",
        "import logging; logging.warning('a warning')",
        "import atexit; atexit.register(print, 'at its end')",
        "import atexit, sys; atexit.register(print, 'at its end'); sys.exit(4)",
        "raise KeyboardInterrupt",
        "import signal; print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)])",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.kill(os.getpid(), 15)",
        "import os; os._exit(3)",
        "import sys; print(len(sys.stdin.read()))",
        "import torch; print(torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())",
        "import torch; torch.manual_seed(0); print(torch.randn(5, 300).matmul(torch.randn(300, 5)).sum().item().hex())",
        "import missing_module",
        "not Python",
        "from concurrent.futures import ThreadPoolExecutor as E; print(list(E(2).map(abs, [-1])))",
        "import multiprocessing as m\nif __name__ == '__main__': print(m.Pool(2).map(abs, [-1, -2]))",
        # The processes import the script, as those of a benchmark and of a DataLoader may.
        "import multiprocessing as m\ndef f(x): return -x\n"
        "if __name__ == '__main__': print(m.get_context('spawn').Pool(2).map(f, [-1, -2]))",
    ],
)
def test_a_script_does_what_it_does_by_itself(text: str, run: Run, script, tmp_path) -> None:
    command, folder = script(text), tmp_path / "folder with spaces"
    folder.mkdir()
    status, output, errors = run.finish(command, cwd=folder, stdin=subprocess.DEVNULL)
    expected = run.finish(command, cwd=folder, stdin=subprocess.DEVNULL, shell="/bin/bash")
    assert (status, output, errors.splitlines()[-1:]) == (*expected[:2], expected[2].splitlines()[-1:])


def test_an_exception_leaves_its_traceback(run: Run, script) -> None:
    status, output, errors = run.finish(script("def broken():\n    raise ValueError('of this')\n\nbroken()"))
    assert (status, output) == (1, "")
    assert 'job.train.py", line 2, in broken' in errors
    assert errors.rstrip().endswith("ValueError: of this")


@pytest.mark.parametrize(
    "command", ["false; echo not reached", "echo $((6 * 7)) | cat", "exit 3", "false | true", "echo $UNSET_VARIABLE"]
)
def test_other_commands_are_run_by_bash(command: str, run: Run) -> None:
    expected = run.finish(f"set -euo pipefail; {command}", shell="/bin/bash")
    assert run.finish(command)[:2] == expected[:2]


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_script_of_other_threads_has_a_python_of_its_own(threads: str, run: Run, script) -> None:
    environment = {**run.environment, **dict.fromkeys(preloading.THREADS, threads)}
    assert run.finish(script(IS_FORKED), env=environment) == (0, "False\n", "")


def test_what_scripts_import_is_imported_once(run: Run, script) -> None:
    """And what one of them does to it is not seen by the next."""
    text = "import wave; print(id(wave), hasattr(wave, 'changed')); wave.changed = True"
    first, second = run.finish(script(text)), run.finish(script(text))
    assert first == second
    assert first[1].endswith("False\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_for_the_shell_ends_the_script(number: signal.Signals, run: Run, script) -> None:
    job = run.start(script("import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
    process = psutil.Process(int(job.stdout.readline()))
    assert process.name() == "job.train.py"
    job.send_signal(number)
    assert job.wait(30) == -number
    wait_for(lambda: not process.is_running())


def test_a_script_can_save_its_work_when_it_is_ended(run: Run, script) -> None:
    handler = "lambda *_: (print('saved', flush=True), os._exit(143))"
    job = run.start(
        script(f"import os, signal, time; signal.signal(15, {handler}); print('on', flush=True); time.sleep(600)")
    )
    assert job.stdout.readline() == "on\n"
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=30)[0] == "saved\n"
    assert job.returncode == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, None])
def test_everything_ends_with_the_run(number: signal.Signals | None, script) -> None:
    """Also when it is killed."""
    run = Run()
    job = run.start(script("import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
    process = psutil.Process(int(job.stdout.readline()))
    if number is None:
        run.process.communicate("")
    else:
        run.process.send_signal(number)
        run.process.wait()
    assert job.wait(30) == 1
    assert "has ended" in job.stderr.read()
    wait_for(lambda: not process.is_running() and not run.server.is_running())
    assert not run.shell.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_server_ends_with_the_run_only(number: signal.Signals, script) -> None:
    """A terminal and a scheduler signal all processes of a group; Snakemake decides what goes on."""
    run = Run()
    run.finish(script("pass"))  # it is up
    run.server.send_signal(number)
    assert run.finish(script(IS_FORKED)) == (0, "True\n", "")
    run.close()
    assert not run.shell.parent.exists()


def test_a_script_ends_before_the_processes_that_it_leaves_behind(run: Run, script) -> None:
    text = "import os, time\nif pid := os.fork():\n print(pid, flush=True)\n os._exit(3)\nos.closerange(0, 3)\ntime.sleep(600)"
    status, output, _ = run.finish(script(text))
    left = psutil.Process(int(output))
    assert (status, left.is_running()) == (3, True)
    left.kill()


def test_a_shell_that_is_killed_with_its_script_disturbs_no_other(tmp_path) -> None:
    """The server learns of both ends after it has started another script, by which it has reaped what ended."""
    (tmp_path / "slow.py").write_text("import time; time.sleep(3)")
    (tmp_path / "third.py").write_text("import slow; print('third')")
    (tmp_path / "other.py").write_text("import sys; print('on', flush=True); print(sys.stdin.read())")
    (tmp_path / "job.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    run = Run(f"{tmp_path}{os.pathsep}{LIBRARY}")
    other, job = (
        run.start(f"{sys.executable} {tmp_path}/{name}.py", stdin=subprocess.PIPE) for name in ("other", "job")
    )
    assert other.stdout.readline() == "on\n"
    process = psutil.Process(int(job.stdout.readline()))
    third = run.start(f"{sys.executable} {tmp_path}/third.py")
    time.sleep(1)  # the server imports
    job.kill()
    process.kill()
    job.wait()
    assert third.communicate(timeout=30)[0] == "third\n"
    assert other.communicate("still there", timeout=30)[0] == "still there\n"
    assert other.returncode == third.returncode == 0
    run.close()


def test_a_shell_that_stalls_is_left_alone(script, monkeypatch) -> None:
    import socket

    run = Run()
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(run.environment[preloading.VARIABLE])
        socket.send_fds(other, [b"\n"], [0, 1, 2])
        other.send(b"{")
        assert run.finish(script("print('fine')")) == (0, "fine\n", "")
    run.close()


def test_without_the_server_scripts_run_by_themselves(script) -> None:
    run = Run()
    run.server.kill()
    wait_for(lambda: run.server.status() == psutil.STATUS_ZOMBIE)
    assert run.finish(script("print('all the same')")) == (0, "all the same\n", "")
    run.close()


def test_changed_code_is_not_run_as_it_was(script, tmp_path) -> None:
    library = tmp_path / "lib"
    shutil.copytree(LIBRARY / "nonsmooth", library / "nonsmooth", ignore=shutil.ignore_patterns("__pycache__"))
    module = library / "nonsmooth/numerics.py"
    text = IS_FORKED + "from nonsmooth import numerics; print(numerics.NUMERICS_VERSION)"
    run = Run(library)
    status, output, _ = run.finish(script(text))
    assert (status, output.split()[0]) == (0, "True")
    module.write_text(module.read_text() + "\nNUMERICS_VERSION = 'changed'\n")
    assert run.finish(script(text)) == (0, "False\nchanged\n", "")
    run.close()


def test_many_scripts_at_once(run: Run, script) -> None:
    command = script("import sys, time; time.sleep(0.2); print(sys.stdin.read()); sys.exit(5)")
    jobs = [run.start(command, stdin=subprocess.PIPE) for _ in range(20)]
    for number, job in enumerate(jobs):
        assert job.communicate(f"job {number}", timeout=60)[0] == f"job {number}\n"
        assert job.returncode == 5


def test_a_shell_that_says_nothing_disturbs_no_other(run: Run, script) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as other:
        other.connect(run.environment[preloading.VARIABLE])
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(run.environment[preloading.VARIABLE])
        other.send(b"nonsense")
    assert run.finish(script("print('fine')")) == (0, "fine\n", "")


def test_it_can_be_switched_off_and_does_without(monkeypatch, tmp_path) -> None:
    before = len(psutil.Process().children())
    monkeypatch.setenv(preloading.VARIABLE, "0")
    assert preloading.start(1) is None
    monkeypatch.delenv(preloading.VARIABLE)
    long = tmp_path / ("long" * 40)
    long.mkdir()
    monkeypatch.setattr(preloading.tempfile, "tempdir", str(long))
    assert preloading.start(1) is None
    assert list(long.iterdir()) == []
    assert len(psutil.Process().children()) == before
