"""What the real Google GenAI client returns, read by `Usage.of`."""

import pytest

from countwerk_meter import Usage

ASKED = {"model": "gemini-2.5-pro", "contents": "Hi"}


def test_thoughts_are_outside_and_cached_tokens_inside(google_client):
    """What tools sent back is input too; the pools add up to the provider's total."""
    answer = google_client("google_content").models.generate_content(**ASKED)
    usage = Usage.of(answer)
    assert Usage(260, 80, 1000, 0, 150) == usage == Usage.of(answer.usage_metadata) == Usage.of(answer.model_dump())
    assert answer.usage_metadata.total_token_count == usage.total_tokens
    assert 0 == usage.unexplained_tokens


@pytest.mark.parametrize("name", ["google_content_without", "google_content_no_output"])
def test_an_answer_that_reports_no_output_is_unknown(google_client, name):
    """Text without a count of it is a report that never came."""
    answer = google_client(name).models.generate_content(**ASKED)
    assert "Hello." == answer.text
    assert Usage.of(answer) is None


def test_a_stream_has_running_totals(google_client):
    """The last chunk counts; one broken off before any output was counted is unknown."""
    chunks = list(google_client("google_stream").models.generate_content_stream(**ASKED))
    assert Usage(12, 3, reasoning_tokens=20) == Usage.of(chunks)
    assert chunks[-1].usage_metadata.total_token_count == Usage.of(chunks).total_tokens
    assert Usage.of(chunks[:1]) is None
