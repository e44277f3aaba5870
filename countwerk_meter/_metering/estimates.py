"""What a call is expected to use: its input counted, its output bounded by its cap, or by what such calls put out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from countwerk_meter._frozen import frozen
from countwerk_meter._metering.amounts import price_in
from countwerk_meter._wire.requests import checked_account, checked_operation
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.estimating import count_tokens
from countwerk_meter.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from countwerk_meter._metering.engine import Engine
    from countwerk_meter.pricing import PriceProfile

Expected: TypeAlias = Usage | str | Sequence[object]


class Estimates:
    """How much a Meter's calls are expected to use."""

    _engine: Engine

    @property
    def prices(self) -> PriceProfile | None:
        """The price profile, if there is one."""
        return self._engine.prices

    def estimate(
        self,
        operation: str,
        *,
        account_id: str,
        input: str | Sequence[object] | None = None,  # noqa: A002 - what a caller calls it
        input_tokens: int | None = None,
        model: str | None = None,
        max_output_tokens: int | None = None,
        cold_start: int | None = None,
    ) -> Usage:
        """
        Return what a call is expected to use, for `reserve(..., estimate=...)`.

        Args:
            operation: As in `reserve`.
            account_id: As in `reserve`.
            input: The prompt, or the messages; counted with tiktoken if it is installed and knows the model, else
                approximately, rather too high. No text is kept.
            input_tokens: The input's tokens, where they are known already.
            model: As it is recorded after the call.
            max_output_tokens: The request's own cap. Without one the output is bounded by what such calls put out
                before, 95 % of them: of this account once it made 50, before that of all accounts, each of which
                counts for a twenty-fifth at most.
            cold_start: Output tokens to hold for where too little is known; default 1,024.

        Raises:
            ConfigurationError: None or both of `input` and `input_tokens`, or a number below 0.
            InvalidRequestError: An account or operation that the contract refuses.

        """
        checked_account(account_id)
        checked_operation(operation)
        if (input is None) == (input_tokens is None):
            raise ConfigurationError("pass exactly one of input and input_tokens")
        if any(number is not None and number < 0 for number in (input_tokens, max_output_tokens, cold_start)):
            raise ConfigurationError("tokens are counted from 0")
        taken = count_tokens(input, model) if input_tokens is None else input_tokens
        output = max_output_tokens
        if output is None:
            output = self._engine.learner.bound(account_id, operation, model, taken, cold_start=cold_start)
        return Usage(input_tokens=taken, output_tokens=output)

    def _expected(
        self, estimate: Expected | None, operation: str, account_id: str, model: str | None, cap: int | None
    ) -> Usage | None:
        if estimate is None or isinstance(estimate, Usage):
            return estimate
        if isinstance(estimate, bytes) or not isinstance(estimate, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
            raise ConfigurationError("estimate must be a Usage, a prompt or messages")
        return self.estimate(operation, account_id=account_id, input=estimate, model=model, max_output_tokens=cap)


@frozen
class Clamp:
    """How much of a call's estimated output a balance pays for."""

    usage: Usage
    price: Callable[[Usage], int]

    def tokens(self, credits_left: int) -> int:
        """Return the most output tokens whose call costs no more, 0 where not even the input and one token fit."""
        low, high = 0, self.usage.output_tokens
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._costs(middle) <= credits_left else (low, middle - 1)
        return low

    def fit(self, credits_left: int) -> int:
        """Return the credits to hold instead, 0 where nothing fits."""
        tokens = self.tokens(credits_left)
        return self._costs(tokens) if tokens else 0

    def _costs(self, tokens: int) -> int:
        return self.price(replace(self.usage, output_tokens=tokens))


def clamp_of(usage: Usage | None, prices: PriceProfile | None, attributes: Mapping[str, str]) -> Clamp:
    """
    Return how a call's hold may be made smaller.

    Raises:
        ConfigurationError: The call has no estimate.

    """
    if usage is None or prices is None:
        raise ConfigurationError("clamp=True makes an estimate's output smaller: pass estimate, not amount or price")
    return Clamp(usage, price_in(prices, attributes))
