"""The command line in this process, with an environment of its own."""

import json
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from countwerk_meter import Meter

PRODUCT = "prod_cli"
ACCOUNT = "acct_cli"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@dataclass
class Cli:
    """`cli("balance", "acct")` against the sandbox, with a journal of the test's own."""

    environment: dict[str, str | None]
    url: str
    journal: str
    control: object

    def __call__(self, *args, **environment):
        # Imported late: its modules read no environment, and tests without it pay nothing.
        from countwerk_meter.cli.app import app

        done = CliRunner().invoke(app, [str(arg) for arg in args], env=self.environment | environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def meter(self, **options):
        return Meter(PRODUCT, api_key="cs_sandbox", base_url=self.url, journal=self.journal, **options)


@pytest.fixture
def cli(countwerk_sandbox, tmp_path):
    countwerk_sandbox.control.account(
        ACCOUNT, balance=100, ai_product_id=PRODUCT, order_id="order_cli", current_tier_product_id="STARTER_001"
    )
    journal = f"sqlite:///{tmp_path}/journal.db"
    environment = {
        "COUNTWERK_BASE_URL": countwerk_sandbox.url,
        "COUNTWERK_API_KEY": countwerk_sandbox.api_key,
        "COUNTWERK_AI_PRODUCT_ID": PRODUCT,
        "COUNTWERK_JOURNAL": journal,
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    return Cli(environment, countwerk_sandbox.url, journal, countwerk_sandbox.control)
