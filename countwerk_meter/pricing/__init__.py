"""
Pricing: turning measured dimensions into credits with the vendor's price profile.

The rule kept here is that credits are exact decimals, as the profile writes them; the ledger's whole credits are made
of them elsewhere (money rule 11).
"""

from countwerk_meter.pricing._lint import Finding, lint
from countwerk_meter.pricing._price import Explanation, Price, PriceLine
from countwerk_meter.pricing._profile import Mode, PriceProfile, Quantity
from countwerk_meter.pricing._rules import RateRule

__all__ = ["Explanation", "Finding", "Mode", "Price", "PriceLine", "PriceProfile", "Quantity", "RateRule", "lint"]
