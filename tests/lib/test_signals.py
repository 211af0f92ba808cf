import signal
import subprocess
import sys

WORKER = "import time; time.sleep(600)"
PROGRAM = f"""
import signal, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}])

def save(*_):
    print("worker", worker.poll(), flush=True)
    worker.kill()
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
signal.pause()
"""
PARENT = f"""
import signal, subprocess, sys
from nonsmooth.signals import pass_on

pass_on(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *_: None)
shell = subprocess.Popen(["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", {PROGRAM!r}])
print("status", shell.wait(), flush=True)
"""


def test_a_parent_that_waits_passes_the_signal_on_to_the_program_but_not_to_its_workers():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGTERM)
        output, _ = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert output.splitlines() == ["worker None", "status 143"]
