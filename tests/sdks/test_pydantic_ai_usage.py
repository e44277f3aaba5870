"""What real pydantic-ai agents report, over the providers' real clients."""

import httpx2
import pytest

from countwerk_meter import Usage


@pytest.fixture
def agent(wire):
    """An agent on OpenAI's or Anthropic's model, answered with a document of `wire`."""
    import anthropic
    import openai
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    def make(name):
        transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=wire(name)))
        options = {"api_key": "test", "max_retries": 0, "http_client": httpx2.AsyncClient(transport=transport)}
        if name.startswith("openai"):
            client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", **options)
            return Agent(OpenAIChatModel("gpt-5", provider=OpenAIProvider(openai_client=client)))
        client = anthropic.AsyncAnthropic(base_url="http://127.0.0.1", **options)
        return Agent(AnthropicModel("claude-test", provider=AnthropicProvider(anthropic_client=client)))

    return make


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai_chat", Usage(86, 108, 1920, 0, 192, 1)),
        # Normalised: here Anthropic's input includes what was cached.
        ("anthropic_message", Usage(21, 393, 1880, 456, 0, 1)),
    ],
)
async def test_a_run_is_parted_whoever_the_provider(agent, name, expected):
    """Input includes cached tokens and `details` repeats the raw counts: neither is charged twice."""
    result = await agent(name).run("Hi")
    assert expected == Usage.of(result)


async def test_a_run_whose_provider_reports_nothing_is_unknown(agent):
    """pydantic-ai counts such requests as unmeasured; its totals are then a lower bound."""
    assert Usage.of(await agent("openai_chat_without").run("Hi")) is None


def test_unmeasured_requests_make_the_sum_unknown():
    """One request of three that reported nothing is enough."""
    from pydantic_ai.usage import RequestUsage, RunUsage

    known = RunUsage(requests=2, input_tokens=100, output_tokens=50)
    assert Usage(100, 50, requests=2) == Usage.of(known)
    assert Usage.of(known + RequestUsage(unmeasured_requests=1)) is None
