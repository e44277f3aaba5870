"""Processes that a command starts: they say where they are, fail in one line, and are always ended."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from countwerk_meter.cli.child import Child, ended_on_sigterm
from countwerk_meter.errors import CountwerkError


@pytest.fixture
def child(tmp_path):
    """A child that runs the given code."""

    def make(code):
        (tmp_path / "countwerk_test_child.py").write_text(textwrap.dedent(code))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return Child("child", ["countwerk_test_child"], tmp_path, environment)

    return make


SERVES = """
    import time
    print('{"url": "http://here"}', flush=True)
    time.sleep(60)
"""


def test_it_says_where_it_is_and_is_ended(child):
    """Its first line is JSON; what comes after the `with` is that it is gone."""
    with child(SERVES) as running:
        assert {"url": "http://here"} == running.announced
        process = running._process
        assert process.poll() is None
    assert process.poll() is not None


def test_it_is_ended_when_the_command_fails(child):
    """Whatever the reason, Ctrl-C included."""
    running = child(SERVES)
    with pytest.raises(KeyboardInterrupt), running:
        raise KeyboardInterrupt
    assert running._process.poll() is not None


def test_one_that_does_not_listen_is_killed(child, monkeypatch):
    """Politely first, then not."""
    monkeypatch.setattr("countwerk_meter.cli.child._STOPS_WITHIN", 0.2)
    with child("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + textwrap.dedent(SERVES)) as running:
        pass
    assert -signal.SIGKILL == running._process.returncode


def test_one_that_fails_says_why(child):
    """The end of what it wrote, in one line."""
    with pytest.raises(CountwerkError, match="the child ended with exit code 3: no port is free"):
        child("import sys; sys.stderr.write('no port\\nis free'); sys.exit(3)").start()


def test_one_that_never_starts_is_given_up(child, monkeypatch):
    """A command does not wait for ever."""
    monkeypatch.setattr("countwerk_meter.cli.child._STARTS_WITHIN", 0.3)
    running = child("import time; time.sleep(60)")
    with pytest.raises(CountwerkError, match="the child did not start: it said nothing"), running:
        pass
    assert running._process.poll() is not None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process has ended")
def test_one_whose_parent_is_killed_ends_by_itself(child, tmp_path):
    """Nobody is left to end it: it sees that stdin is closed."""
    child(SERVES)
    code = f"""
import os, pathlib, sys
from countwerk_meter.cli.child import Child
here = pathlib.Path({str(tmp_path)!r})
running = Child("child", ["countwerk_test_child"], here, {{**os.environ, "PYTHONPATH": str(here)}}).start()
print(running._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert -signal.SIGKILL == done.returncode
    left = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(left):
        time.sleep(0.02)
    assert not alive(left)


def alive(pid):
    try:
        # An orphan that has ended may still wait for init to take notice.
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals to send")
def test_sigterm_ends_the_children_too():
    """It is an exception inside, and what it was before outside."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, ended_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert 143 == caught.value.code
    assert before == signal.getsignal(signal.SIGTERM)
