"""
`Usage`: the measured quantities of one or more model calls.

Every token is in exactly one pool, so that each pool can carry its own price and nothing is charged twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Final, cast

from countwerk_meter.errors import ConfigurationError
from countwerk_meter.usage._reading import read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DIMENSIONS: Final = {
    "input_tokens": "llm_input_tokens",
    "output_tokens": "llm_output_tokens",
    "cache_read_tokens": "llm_cache_read_tokens",
    "cache_write_tokens": "llm_cache_write_tokens",
    "reasoning_tokens": "llm_reasoning_tokens",
    "requests": "llm_requests",
}
_RESERVED: Final = frozenset(_DIMENSIONS.values())


@dataclass(frozen=True, slots=True)
class Usage:
    """
    Disjoint pools: input without what was cached, output without reasoning.

    Tokens are counted once, each in one pool; `+` adds pool by pool. A `Usage` of zeros says that nothing was used,
    and is known to be free; usage that nobody knows is `None`, not a `Usage`.

    Attributes:
        input_tokens: Tokens sent, without those read from or written to a prompt cache.
        output_tokens: Tokens generated, without reasoning.
        cache_read_tokens: Tokens sent that came from the provider's prompt cache.
        cache_write_tokens: Tokens sent that the provider stored in its prompt cache.
        reasoning_tokens: Tokens generated while thinking.
        requests: Model requests, where the source counts them, else 0.
        dimensions: Anything else that was measured, by the dimension name of the price profile.
        unexplained_tokens: By how much the provider's own total and the sum of its parts differ; the pools hold the
            larger of the two. 0 where they agree or no total was given. It is evidence, no pool: never priced, and
            ignored when usages are compared.

    Raises:
        ConfigurationError: A pool is not a whole number of at least 0, or a dimension's name or quantity will not do.

    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0
    # A plain dict behind a read-only type: a mapping proxy would neither pickle nor deep-copy.
    dimensions: Mapping[str, Decimal | int] = field(default_factory=dict[str, "Decimal | int"], hash=False)
    unexplained_tokens: int = field(default=0, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in (*_DIMENSIONS, "unexplained_tokens"):
            value = cast("object", getattr(self, name))
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigurationError(f"Usage.{name} must be a whole number of at least 0, not {value!r}")
        object.__setattr__(self, "dimensions", _checked(self.dimensions))

    def __add__(self, other: object) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        extra = dict(self.dimensions)
        for name, quantity in other.dimensions.items():
            extra[name] = extra.get(name, 0) + quantity
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.requests + other.requests,
            extra,
            unexplained_tokens=self.unexplained_tokens + other.unexplained_tokens,
        )

    def __radd__(self, other: object) -> Usage:
        # sum() starts from 0.
        return self if other == 0 else NotImplemented

    def __repr__(self) -> str:
        shown = ((f.name, cast("object", getattr(self, f.name))) for f in fields(self))
        return f"Usage({', '.join(f'{name}={value!r}' for name, value in shown if value)})"

    @property
    def total_tokens(self) -> int:
        """All tokens of all pools."""
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
            + self.reasoning_tokens
        )

    def measured(self, priced: Callable[[str], bool] | None = None) -> dict[str, Decimal | int]:
        """
        Return the quantities by dimension name, those of zero left out.

        Args:
            priced: Says whether a dimension has a price. A cached or reasoning pool without one folds into its parent
                (input, output), so that it is charged as the provider's plain tokens; `llm_requests` without one is
                left out. None: every pool stays as it is.

        """
        pools = {dimension: cast("int", getattr(self, name)) for name, dimension in _DIMENSIONS.items()}
        if priced is not None:
            for child, parent in (
                ("llm_cache_read_tokens", "llm_input_tokens"),
                ("llm_cache_write_tokens", "llm_input_tokens"),
                ("llm_reasoning_tokens", "llm_output_tokens"),
            ):
                if pools[child] and not priced(child):
                    pools[parent] += pools.pop(child)
            if pools["llm_requests"] and not priced("llm_requests"):
                del pools["llm_requests"]
        return {name: quantity for name, quantity in {**pools, **self.dimensions}.items() if quantity}

    @classmethod
    def of(cls, source: object) -> Usage | None:
        """
        Read what a model call used from what it returned; what fails to answer is unknown, not an error.

        Reads answers and bare usage objects, as objects or dicts:

        | source | input, output | cached tokens | reasoning |
        |---|---|---|---|
        | OpenAI chat, LiteLLM | `prompt_tokens`, `completion_tokens` | inside: `prompt_tokens_details` | inside |
        | OpenAI responses, openai-agents | `input_tokens`, `output_tokens` | inside: `input_tokens_details` | inside |
        | Anthropic | `input_tokens`, `output_tokens` | outside: `cache_read_...`, `cache_creation_...` | inside |
        | Google GenAI | `prompt_token_count` + `tool_use_...`, `candidates_token_count` | inside | outside |
        | LangChain | `usage_metadata`: `input_tokens`, `output_tokens` | inside: `input_token_details` | inside |
        | pydantic-ai | `input_tokens`, `output_tokens` | inside: `cache_read_tokens`, `cache_write_tokens` | inside |

        A list or tuple is taken for one call's stream: LangChain's chunks add up, Anthropic's events complete each
        other, of the others the last report counts. Where the provider's total says that cached tokens or reasoning
        are counted otherwise, the total is right; what it holds beyond its parts is output, and the difference is kept
        in `unexplained_tokens`.

        Returns:
            The pools; `Usage()` for an answer from the cache of LangChain (`total_cost` 0 in `usage_metadata`) or of
            LiteLLM (`cache_hit` in `_hidden_params`), which used nothing; None where usage is unknown: not reported, or
            incompletely: nothing but zeros, no input at all, no output beside an answer or a stream that says
            something, neither an output nor a total, a count that is none (negative, NaN, a text), a stream without its
            last count or with text after it, an answer still in the making, requests that pydantic-ai calls unmeasured.
            None is never free: see the meter's money rule 13. What LiteLLM's `stream_chunk_builder` counts itself bears
            no mark and cannot be told from a report: pass the chunks.

        """
        if isinstance(source, cls):
            return source
        pools = read(source)
        return None if pools is None else cls(*pools[:6], unexplained_tokens=pools.unexplained)


def _checked(dimensions: Mapping[str, Decimal | int]) -> dict[str, Decimal | int]:
    checked: dict[str, Decimal | int] = {}
    for name, quantity in cast("Mapping[object, object]", dimensions).items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a dimension's name must be a text, not {name!r}")
        if name in _RESERVED:
            raise ConfigurationError(f"the dimension {name} is a pool of Usage's own: set that instead")
        if isinstance(quantity, float):
            raise ConfigurationError(f'the dimension {name} must not be a float: write Decimal("{quantity!r}")')
        if isinstance(quantity, bool) or not isinstance(quantity, int | Decimal):
            raise ConfigurationError(f"the dimension {name} must be a Decimal or a whole number, not {quantity!r}")
        if (isinstance(quantity, Decimal) and not quantity.is_finite()) or quantity < 0:
            raise ConfigurationError(f"the dimension {name} must be finite and at least 0, not {quantity}")
        checked[name] = quantity
    return checked
