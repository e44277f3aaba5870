"""How many credits are taken ahead."""

from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter._flow.lease import PART, Wanted, lease_size

credits = st.integers(0, 10**9)


@given(available=st.integers(-1000, 10**9), before=credits, ahead=credits, amount=credits, largest=credits)
def test_all_leases_together_are_a_tenth_at_most(available, before, ahead, amount, largest):
    """Of what is available and what they hold, whichever of the two readings of that was true."""
    size = lease_size(available, before, ahead, Wanted(amount, largest))
    assert size >= 0
    if size:
        assert PART * (size + max(before, ahead)) <= max(available, 0) + min(before, ahead)
        assert size >= 2 * largest
        assert size <= max(amount, 2 * largest)


def test_a_lease_is_what_is_wanted_where_a_tenth_allows():
    """And what a tenth allows where more is wanted; too little for two calls is none."""
    assert 60 == lease_size(1000, 0, 0, Wanted(60, 5))
    assert 100 == lease_size(1000, 0, 0, Wanted(600, 5))
    assert 50 == lease_size(950, 50, 50, Wanted(600, 5))
    # Ten were drawn, or a lease of ten was taken elsewhere, since the ledger was asked.
    assert 49 == lease_size(950, 50, 40, Wanted(600, 5)) == lease_size(950, 40, 50, Wanted(600, 5))
    assert 10 == lease_size(1000, 0, 0, Wanted(3, 5))
    assert 0 == lease_size(99, 0, 0, Wanted(60, 5))
    assert 0 == lease_size(900, 100, 100, Wanted(60, 5))
    assert 0 == lease_size(1000, 0, 0, Wanted(0, 0))
