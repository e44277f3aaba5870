"""A ledger in a process of its own, and templates of the processes that die."""

import os

import pytest

from countwerk_meter.cli.child import sandbox_process
from countwerk_meter.sandbox.remote import SandboxControl

from .telling import summary, table
from .template import Template
from .trials import Bench

TEMPLATES = min(os.cpu_count() or 1, 4)
_TOLD = "crash trials"


def pytest_terminal_summary(terminalreporter):
    """Say what the auditor found, a line a scenario, whichever process its trials were made in."""
    told = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _TOLD and report.when == "call"
    ]
    if told:
        terminalreporter.section(_TOLD)
        terminalreporter.write_line(table(told))


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
def crash_bench(crash_ledger, templates, tmp_path, record_property):
    """Everything that trials run on; the ledger begins anew."""

    def tell(what, trials):
        record_property(_TOLD, summary(what, trials))

    with SandboxControl(crash_ledger["url"]) as control:
        control.reset()
        yield Bench(crash_ledger["url"], crash_ledger["api_key"], control, tmp_path, templates, tell=tell)
        control.reset()
