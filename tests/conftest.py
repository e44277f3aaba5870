"""What every test stands on: no network but loopback, no configuration of this machine's user."""

import gc
import ipaddress
import itertools
import os
import socket
import sys
import threading

import pytest

from .postgres import database, server

_connect = socket.socket.connect


def _loopback_only(self, address):
    if self.family in {socket.AF_INET, socket.AF_INET6}:
        host = address[0]
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise AssertionError(f"a test tried to reach {host}: tests talk to loopback only")
    return _connect(self, address)


socket.socket.connect = _loopback_only


def pytest_configure(config):
    """Measure coverage in the suite's own processes alone: the children are many, and half as slow again with it."""
    if hasattr(config, "workerinput"):
        for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
            del os.environ[name]


def pytest_collection():
    """What is imported stays, so that nothing is gained by looking through it for garbage, now or later."""
    gc.disable()


def pytest_collection_finish():
    """Collect again, but not from what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def unmeasured():
    """Measure no coverage of a search that goes through the same lines a million times: it is twice as slow with it."""
    here, elsewhere = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    sys.settrace(here)
    threading.settrace(elsewhere)


@pytest.fixture(scope="session")
def _states(tmp_path_factory):
    return tmp_path_factory.mktemp("states"), itertools.count()


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch, _states):
    """Keep the machine's own settings and the user's own journal out of every test."""
    for name in list(os.environ):
        if name.startswith("COUNTWERK_") and not name.startswith(("COUNTWERK_TEST_", "COUNTWERK_RECORD")):
            if os.environ.get("COUNTWERK_RECORD") and name in {"COUNTWERK_BASE_URL", "COUNTWERK_API_KEY"}:
                continue
            monkeypatch.delenv(name)
    # Made by whoever writes to it: most tests do not.
    folder, numbers = _states
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / str(next(numbers))))


@pytest.fixture
def tell(record_property):
    """Say a line in the summary at the end, whichever process the test runs in."""
    return lambda line: record_property("found", str(line))


def pytest_terminal_summary(terminalreporter):
    """Say what the searches came to: states, mutants, examples and their seed."""
    lines = [
        line
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, line in getattr(report, "user_properties", ())
        if name == "found" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("found")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a real PostgreSQL: `COUNTWERK_TEST_POSTGRES_URL`, or one that is started here, from PyPI."""
    with server() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty PostgreSQL journal."""
    with database(postgres_server) as url:
        yield url
