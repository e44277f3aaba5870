"""
The pytest plugin: a fresh ledger for every test that asks for one.

The rule: a test suite that does not use it pays nothing, so this module imports no part of countwerk_meter until a
fixture is used. One server thread serves the whole session and is emptied before each test.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from countwerk_meter.sandbox import SandboxServer


@pytest.fixture(scope="session")
def countwerk_sandbox_server() -> "Generator[SandboxServer]":
    """The server behind `countwerk_sandbox`. It keeps what earlier tests did; use `countwerk_sandbox` instead."""
    from countwerk_meter.sandbox import SandboxServer

    with SandboxServer() as server:
        yield server


@pytest.fixture
def countwerk_sandbox(countwerk_sandbox_server: "SandboxServer") -> "Generator[SandboxServer]":
    """
    A fresh local ledger: `countwerk_sandbox.url`, `.api_key`, and `.control` to open accounts and make faults.

    It listens on a real loopback socket. When the test is over, whatever it left waiting is ended.
    """
    countwerk_sandbox_server.control.reset()
    yield countwerk_sandbox_server
    countwerk_sandbox_server.control.reset()
