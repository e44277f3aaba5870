"""
The pytest plugin: a fresh ledger for every test that asks for one, and a meter on it.

The rule: a test suite that does not use it pays for the package's own import and nothing more, so this module imports
what it needs in its fixtures. One server thread serves the whole session and is emptied before each test.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from countwerk_meter.meter import Meter
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


@pytest.fixture
def meter(countwerk_sandbox: "SandboxServer") -> "Generator[Meter]":
    """
    A meter on the fresh ledger, with a journal in memory, for the AI product `prod_test`.

    The account `acct_test` has 1,000 credits there; more with `countwerk_sandbox.control.account(...)`.
    """
    from countwerk_meter.meter import Meter

    countwerk_sandbox.control.account("acct_test", balance=1000, ai_product_id="prod_test")
    with Meter(
        "prod_test", api_key=countwerk_sandbox.api_key, base_url=countwerk_sandbox.url, journal="memory:"
    ) as made:
        yield made


@pytest.fixture
def assert_books_balance(countwerk_sandbox: "SandboxServer") -> "Callable[..., None]":
    """`assert_books_balance(meter)`: everything settles, and the ledger charged what the meter says (see `testing`)."""
    from functools import partial

    from countwerk_meter.testing.balancing import assert_books_balance

    return partial(assert_books_balance, countwerk_sandbox)
