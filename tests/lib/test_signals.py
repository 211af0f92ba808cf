import signal
import subprocess
import sys

PARENT = """
import signal, subprocess, sys
from nonsmooth.signals import pass_on

pass_on(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *_: print("parent waits", flush=True))
grandchild = "trap 'echo grandchild saves; exit 143' TERM; echo ready; while :; do sleep 0.1; done"
process = subprocess.Popen(["sh", "-c", f'bash -c "{grandchild}"; exit $?'])
print("status", process.wait(), flush=True)
"""


def test_a_parent_that_only_waits_passes_the_signal_on():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGTERM)
        output, _ = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert {"parent waits", "grandchild saves"} <= set(output.splitlines())
    assert parent.returncode == 0
