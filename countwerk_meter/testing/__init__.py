"""
For tests: of apps that are metered, and of journals.

`FaultTransport` makes faults between a meter and its ledger, `assert_books_balance` audits both, and
`JournalConformance` is what a journal of your own must pass. The pytest plugin has fixtures for the first two. Each is
imported when it is first used: the plugin is loaded by every run of pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from countwerk_meter.testing.balancing import assert_books_balance
    from countwerk_meter.testing.conformance import JournalConformance
    from countwerk_meter.testing.fault_transport import FaultTransport

__all__ = ["FaultTransport", "JournalConformance", "assert_books_balance"]

_WHERE: Final = {
    "FaultTransport": "fault_transport",
    "JournalConformance": "conformance",
    "assert_books_balance": "balancing",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
