"""What the model check says of itself on the terminal."""

import pytest


@pytest.fixture
def tell(pytestconfig):
    """Write a line to the terminal, whatever is captured."""
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def write(line):
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(str(line))

    return write
