"""The sandbox's clock."""

import pytest

from countwerk_meter.sandbox.clock import SandboxClock, iso


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_001, "2023-11-14T22:13:20.001Z"),
        (999, "1970-01-01T00:00:00.999Z"),
    ],
)
def test_times_are_written_to_the_millisecond(milliseconds, text):
    """No rounding, always three digits and Z."""
    assert text == iso(milliseconds)


def test_the_date_header_follows_the_clock():
    """It changes with the second it names, and only then."""
    seconds = [1_700_000_000.2]
    clock = SandboxClock(lambda: seconds[0])
    first = clock.http_date()
    seconds[0] += 0.7
    same = clock.http_date()
    clock.advance(0.2)

    assert first == same == b"Tue, 14 Nov 2023 22:13:20 GMT"
    assert clock.http_date() == b"Tue, 14 Nov 2023 22:13:21 GMT"


def test_the_clock_never_goes_back():
    """A ledger's time only moves forward."""
    with pytest.raises(ValueError, match="forward"):
        SandboxClock(lambda: 0.0).advance(-1)
