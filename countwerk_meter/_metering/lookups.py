"""What a Meter asks the ledger beside its calls: nothing of it is journaled, cached or charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from countwerk_meter._flow.call import call
from countwerk_meter._wire import requests
from countwerk_meter.client import Balance, PurchaseLinks

if TYPE_CHECKING:
    from countwerk_meter._metering.engine import Engine


class Lookups:
    """
    The ways to buy, and what an account has.

    Each asks within the meter's `reserve_timeout`, and raises `LedgerUnavailableError` where there is no answer in
    time, `ApiError` where the ledger refuses.
    """

    ai_product_id: str
    _engine: Engine

    def purchase_links(self, account_id: str) -> PurchaseLinks:
        """Return the account's ways to buy, fetched now. Use the URLs at once; never store one."""
        request = requests.purchase_links(self.ai_product_id, account_id)
        return self._engine.asking.run(call(request, PurchaseLinks, timeout=self._timeout, retries=1))

    async def apurchase_links(self, account_id: str) -> PurchaseLinks:
        """Do what `purchase_links` does, on the running event loop."""
        request = requests.purchase_links(self.ai_product_id, account_id)
        return await self._engine.asking.arun(call(request, PurchaseLinks, timeout=self._timeout, retries=1))

    def balance(self, account_id: str, *, timeout: float | None = None) -> Balance:
        """Return what the account has in credits, asked now, within `timeout` seconds if that is less."""
        return self._engine.asking.run(
            call(requests.balance(account_id), Balance, timeout=self._within(timeout), retries=1)
        )

    async def abalance(self, account_id: str, *, timeout: float | None = None) -> Balance:  # noqa: ASYNC109 - seconds, as in balance
        """Do what `balance` does, on the running event loop."""
        return await self._engine.asking.arun(
            call(requests.balance(account_id), Balance, timeout=self._within(timeout), retries=1)
        )

    @property
    def _timeout(self) -> float:
        return self._engine.terms.reserve_timeout

    def _within(self, seconds: float | None) -> float:
        return self._timeout if seconds is None else min(seconds, self._timeout)
