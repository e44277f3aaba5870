"""
Whose credits a model call takes.

The rule: every source that names an account must name the same one, and one of them must; else the call is refused.
A server that passes a client's config through must leave `account_from_metadata` off: metadata is the client's word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from countwerk_meter import ConfigurationError, current_reservation
from countwerk_meter._metering.scope import current_account

METADATA_KEY: Final = "countwerk_account_id"

AccountOf = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True, slots=True)
class Accounts:
    """The handler's own word on the account, and whether metadata has one."""

    account_id: str | AccountOf | None
    from_metadata: bool

    @property
    def ask_metadata(self) -> bool:
        """Whether a run's metadata may say whose credits it takes."""
        return self.from_metadata or callable(self.account_id)

    def of(self, metadata: Mapping[str, Any]) -> str:
        """
        Return the account of a run that starts here.

        Raises:
            ConfigurationError: Two sources disagree, or none names an account.

        """
        named = [(source, account) for source, account in self._sources(metadata) if account is not None]
        if not named:
            raise ConfigurationError(
                "no account to charge: pass account_id to the handler, or call the model inside meter.reserve(...) "
                "or countwerk_meter.account(...)"
            )
        for source, account in named:
            if not isinstance(account, str) or not account:
                raise ConfigurationError(f"the account that {source} names must be a text that is not empty")
        accounts = {account for _, account in named}
        if len(accounts) > 1:
            sources = " and ".join(source for source, _ in named)
            raise ConfigurationError(f"{sources} name different accounts: the call is refused")
        return str(accounts.pop())

    def _sources(self, metadata: Mapping[str, Any]) -> list[tuple[str, object]]:
        own = self.account_id(metadata) if callable(self.account_id) else self.account_id
        block = current_reservation()
        return [
            ("the handler", own),
            # A block that is over surrounds nothing: what it leaves running must say for itself whom to charge.
            ("the enclosing reservation", block.account_id if block is not None and block.open else None),
            ("account(...)", current_account()),
            ("the run's metadata", metadata.get(METADATA_KEY) if self.from_metadata else None),
        ]
