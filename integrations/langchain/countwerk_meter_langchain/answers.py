"""
What an answer says of its usage, and what a broken-off stream used.

The rules: unknown is not free (money rule 13), and an answer from LangChain's cache used nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, GenerationChunk

from countwerk_meter import Usage
from countwerk_meter_langchain.counting import message_weight, tokens, weight

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.outputs import Generation, LLMResult

FREE = Usage()


@dataclass(slots=True)
class Streamed:
    """
    What a run has streamed so far, in bytes of text, and the usage that its chunks reported.

    Chunks and protocol events may tell of the same text, so they are kept apart and the larger one counts.
    """

    any: bool = False
    ticked: bool = False
    chunks: int = 0
    events: int = 0
    reports: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    final: Mapping[str, Any] | None = None
    finished: bool = False

    def began(self) -> None:
        """Note that there was something, whatever it was."""
        self.any = True

    def token(self, token: object, chunk: GenerationChunk | ChatGenerationChunk | None) -> None:
        """Take in a chunk: the model runs. (Events prove nothing: LangChain replays them from its cache.)"""
        self.any = self.ticked = True
        if not isinstance(chunk, ChatGenerationChunk):
            self.chunks += weight(token)
            return
        self.chunks += message_weight(chunk.message)
        usage = cast("object", getattr(chunk.message, "usage_metadata", None))
        if usage:
            self.reports.append({"usage_metadata": usage})

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in a protocol event of a v3 stream."""
        kind = event.get("event")
        if kind == "content-block-start":
            self.any = True
            self.events += weight(event.get("content"))
        elif kind == "content-block-delta":
            self.any = True
            delta = cast("Mapping[str, Any]", event.get("delta") or {})
            self.events += weight(delta.get("fields") if delta.get("type") == "block-delta" else delta)
        elif kind == "message-finish":
            self.finished = True
            if event.get("usage"):
                self.final = {"usage_metadata": event["usage"]}


def reported(response: LLMResult, *, ran: bool) -> Usage | None:
    """
    Return what a complete answer reports; `Usage()` for one from the cache, None where usage is unknown.

    Args:
        response: What `on_llm_end` was given.
        ran: The model is known to have run: it streamed chunks, or the answer is named after the run.

    """
    usage = Usage.of(response)
    # LangChain zeroes the cost of a cached generation in place. A call that hits the cache thereby marks the answer
    # that another one has just paid for, and may do so before we read it.
    if usage == FREE and (ran or response.llm_output):
        return _without_cost(response)
    return usage


def is_chat(response: LLMResult) -> bool:
    """Say whether a chat model answered, or began to."""
    return isinstance(_first(response), ChatGeneration)


def made_by(run_id: UUID, response: LLMResult) -> bool:
    """Say whether LangChain named the answer after this run, as it does where the provider gave it no name."""
    answer = _first(response)
    name = answer.message.id if isinstance(answer, ChatGeneration) else None
    return name is not None and str(run_id) in name


def _without_cost(response: LLMResult) -> Usage | None:
    answer = _first(response)
    usage = getattr(answer.message, "usage_metadata", None) if isinstance(answer, ChatGeneration) else None
    if not isinstance(usage, Mapping):
        return None
    named = cast("Mapping[str, Any]", usage)
    return Usage.of({"usage_metadata": {name: value for name, value in named.items() if name != "total_cost"}})


def counted(response: LLMResult, input_count: int) -> Usage:
    """
    Return what a complete answer that reports nothing is taken to have used: what was sent and what came back.

    A report of the output alone, as some streams of Anthropic's are, is believed for the output.
    """
    made = told = 0
    for answers in response.generations:
        for answer in answers:
            made += message_weight(answer.message) if isinstance(answer, ChatGeneration) else weight(answer.text)
            told += _output_told(answer)
    return Usage(input_tokens=input_count, output_tokens=told or tokens(made))


def _output_told(answer: Generation) -> int:
    usage = getattr(answer.message, "usage_metadata", None) if isinstance(answer, ChatGeneration) else None
    output = cast("Mapping[str, Any]", usage).get("output_tokens") if isinstance(usage, Mapping) else None
    return output if isinstance(output, int) and not isinstance(output, bool) and output > 0 else 0


def shares_usage(response: LLMResult) -> bool:
    """Say whether the first prompt of a text model's batch reports the usage of this one too."""
    output = response.llm_output or {}
    return "token_usage" in output and not output["token_usage"]


def consumed(streamed: Streamed, response: LLMResult | None, input_count: int) -> tuple[Usage, bool] | None:
    """
    Return what a call that did not end used, and whether that was counted here; None: nothing was yielded.

    A stream of protocol events that was consumed to its end may still be told of as cancelled: then only what
    it reported counts, as it does for any complete answer.

    Args:
        streamed: What was heard of it.
        response: What `on_llm_error` was given: on newer streams no part of the answer.
        input_count: The approximate input.

    """
    answer = None if response is None else _first(response)
    partial = answer if isinstance(answer, GenerationChunk | ChatGenerationChunk) else None
    if partial is None and not streamed.any:
        return None
    made = max(streamed.chunks, streamed.events, _weight_of(partial))
    usage = Usage.of(streamed.final) or Usage.of(streamed.reports) or Usage.of(partial)
    if usage is None and streamed.reports:
        usage = Usage.of(streamed.reports[0])
    if usage is None or usage == FREE:
        if streamed.finished:
            return None
        return Usage(input_tokens=input_count, output_tokens=tokens(made)), True
    if made and not usage.output_tokens and not usage.reasoning_tokens:
        # The input was reported when the stream began, the output would have been at its end.
        return replace(usage, output_tokens=tokens(made)), True
    return usage, False


def rest_of(usage: Usage, recorded: Usage) -> Usage:
    """Return what a call used in all, less what was recorded of it before."""
    pools = {
        name: max(getattr(usage, name) - getattr(recorded, name), 0)
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    }
    extra = {name: max(quantity - recorded.dimensions.get(name, 0), 0) for name, quantity in usage.dimensions.items()}
    return replace(usage, **pools, requests=max(usage.requests - recorded.requests, 0), dimensions=extra)


def _first(response: LLMResult) -> Generation | None:
    return next((answers[0] for answers in response.generations[:1] if answers), None)


def _weight_of(partial: GenerationChunk | ChatGenerationChunk | None) -> int:
    if isinstance(partial, ChatGenerationChunk):
        return message_weight(partial.message)
    return 0 if partial is None else weight(partial.text)
