"""What a meter charges for answers of the real SDKs: known usage by its price, unknown usage never nothing."""

import pytest

from countwerk_meter import Meter, Usage

PRICES = {
    "profileVersionId": "test-1",
    "eurPerCredit": 0.01,
    "rateRules": [
        {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 0.01},
        {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 0.02},
    ],
}
ACCOUNT = "acct_1"
HELD = 50


@pytest.fixture
def meter(countwerk_sandbox):
    countwerk_sandbox.control.account(ACCOUNT, balance=1000, ai_product_id="product_1")
    meter = Meter(
        "product_1",
        api_key=countwerk_sandbox.api_key,
        base_url=countwerk_sandbox.url,
        prices=PRICES,
        journal="memory:",
    )
    yield meter
    meter.close(1)


def charged(meter, sandbox, answer):
    """Return what the ledger charged for a metered call with this answer, and how that was found."""
    with meter.reserve(ACCOUNT, "app.chat.reply", amount=HELD) as reservation:
        reservation.record(Usage.of(answer))
    assert meter.flush(20)
    (charge,) = meter.charges()
    return sandbox.control.books(ACCOUNT)["spent"], charge.basis


def ask_openai(client):
    return client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hi"}])


def test_reported_usage_is_charged_by_its_price(meter, countwerk_sandbox, openai_client):
    """2,006 tokens in and 300 out: pools without a price of their own are charged as their parents are."""
    assert (27, "provider") == charged(meter, countwerk_sandbox, ask_openai(openai_client("openai_chat")))


@pytest.mark.parametrize("name", ["openai_chat_without", "openai_chat_zeros", "openai_chat_no_output"])
def test_unknown_usage_is_charged_as_reserved(meter, countwerk_sandbox, openai_client, name):
    """The model answered and said nothing of what it used: the hold is charged (money rule 13)."""
    assert (HELD, "reserved") == charged(meter, countwerk_sandbox, ask_openai(openai_client(name)))


@pytest.mark.parametrize("length", [1, 3])
def test_an_anthropic_stream_broken_off_is_charged_as_reserved(meter, countwerk_sandbox, anthropic_client, length):
    """Trap 13: with input 0 and output 1 so far, the call would have cost next to nothing."""
    stream = anthropic_client("anthropic_stream_zero_start").messages.create(
        model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    chunks = [event for event, _ in zip(stream, range(length), strict=False)]
    stream.close()
    assert (HELD, "reserved") == charged(meter, countwerk_sandbox, chunks)
