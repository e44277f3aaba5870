"""The browser that pages are looked at with: the one that `COUNTWERK_TEST_CHROMIUM` names."""

import os
import subprocess

import pytest


@pytest.fixture
def chromium(tmp_path):
    """Load a page in an empty profile; gives (what it printed, what the console said)."""

    def load(url, *options):
        command = [
            os.environ["COUNTWERK_TEST_CHROMIUM"],
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            f"--user-data-dir={tmp_path}/profile",
            "--enable-logging=stderr",
            *options,
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return load
