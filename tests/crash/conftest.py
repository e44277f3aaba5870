"""A ledger in a process of its own, and templates of the processes that die."""

import os

import pytest

from countwerk_meter.cli.child import sandbox_process
from countwerk_meter.sandbox.remote import SandboxControl

from .telling import table
from .template import Template
from .trials import Bench

TEMPLATES = min(os.cpu_count() or 1, 4)
_TOLD = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[_TOLD] = []


def pytest_terminal_summary(terminalreporter, config):
    """Say what the auditor found, a line a scenario."""
    if config.stash[_TOLD]:
        terminalreporter.section("crash trials")
        terminalreporter.write_line(table(config.stash[_TOLD]))


@pytest.fixture(scope="session")
def crash_ledger(tmp_path_factory):
    """A sandbox that survives whatever its clients do."""
    with sandbox_process(tmp_path_factory.mktemp("ledger")) as child:
        yield child.announced


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """Processes that have imported everything."""
    folder = tmp_path_factory.mktemp("templates")
    made = [Template(folder / f"{number}.err") for number in range(TEMPLATES)]
    yield made
    for template in made:
        template.close()


@pytest.fixture
def crash_bench(crash_ledger, templates, tmp_path, pytestconfig):
    """Everything that trials run on; the ledger begins anew."""
    told = pytestconfig.stash[_TOLD]
    with SandboxControl(crash_ledger["url"]) as control:
        control.reset()
        yield Bench(crash_ledger["url"], crash_ledger["api_key"], control, tmp_path, templates, told=told)
        control.reset()
