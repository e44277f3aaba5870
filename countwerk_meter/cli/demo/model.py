"""A chat model without a provider: it streams a fixed answer word by word, and reports its usage at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from countwerk_meter.cli.demo.tariff import MOST_OUTPUT, SLOWLY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.messages import BaseMessage
    from langchain_core.messages.ai import UsageMetadata

ANSWER: Final = (
    "Credits are held before a call and charged after it, so nobody pays twice and nobody rides for free; "
    "when they run out, the call is not made and the user learns how to buy more."
)
_WORDS: Final = ANSWER.split()
_PAUSE: Final = 0.012
_THINKS: Final = 1.0


class DemoError(RuntimeError):
    """What a provider's failure looks like."""


class DemoChatModel(BaseChatModel):
    """A word is a token. With `fails` it fails before its first word."""

    model_name: str = "demo-model"
    fails: bool = False

    @property
    def _llm_type(self) -> str:
        return "countwerk-demo"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "max_tokens": MOST_OUTPUT}

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's signature
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ARG002 - LangChain's signature
    ) -> AsyncIterator[ChatGenerationChunk]:
        if self.fails:
            raise DemoError("the provider is overloaded")
        if any(SLOWLY in message.text for message in messages):
            await asyncio.sleep(_THINKS)
        for word in _WORDS:
            await asyncio.sleep(_PAUSE)
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word + " "))
            if run_manager is not None:
                await run_manager.on_llm_new_token(word + " ", chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=_usage(messages)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text = ""
        async for chunk in self._astream(messages, stop, run_manager, **kwargs):
            text += chunk.text
        message = AIMessage(content=text, usage_metadata=_usage(messages))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("the demo is async")


def _usage(messages: list[BaseMessage]) -> UsageMetadata:
    asked = sum(len(message.text.split()) for message in messages)
    return {"input_tokens": asked, "output_tokens": len(_WORDS), "total_tokens": asked + len(_WORDS)}


def chat_model(name: str | None) -> BaseChatModel:
    """
    Return the demo's model, or a provider's: `provider:model`.

    Raises:
        ImportError: `langchain`, or the provider's package, is missing.
        Exception: Whatever the provider's package says, mostly about a missing key.

    """
    if name is None:
        return DemoChatModel()
    from langchain.chat_models import init_chat_model

    return init_chat_model(name, max_tokens=MOST_OUTPUT)
