"""The model's ledger keeps to the contract: what it does is what every invariant is measured against."""

import pytest

from .ledger import Ledger, Message

NOW, LATER = 1000.0, 1000.0 + 15 * 60
RESERVE = Message("reserve", "acct", 5, 15)
CONFIRM, CANCEL = Message("confirm-reservation", "res_1", 3), Message("cancel-reservation", "res_1")
DEDUCT = Message("deduct", "e1", 3)


def carry_out(*messages, now=NOW):
    """Hold 5 credits, carry requests out one after the other; return the ledger and the last answer's code."""
    ledger, said = Ledger().handle(RESERVE, NOW)
    for message in messages:
        ledger, said = ledger.handle(message, now)
    return ledger, said.code


@pytest.mark.parametrize("first", [CONFIRM, CANCEL])
@pytest.mark.parametrize("second", [CONFIRM, CANCEL])
def test_a_hold_ends_once(first, second):
    """Whatever comes second finds none, and changes nothing."""
    once, code = carry_out(first)
    assert code is None
    assert (once, "RESERVATION_NOT_FOUND") == carry_out(first, second)


@pytest.mark.parametrize("message", [CONFIRM, CANCEL])
def test_a_hold_that_has_expired_is_not_there(message):
    """From the moment of its expiry on."""
    ledger, code = carry_out(message, now=LATER)
    assert ("RESERVATION_NOT_FOUND", 0) == (code, ledger.spent)
    assert not ledger.is_active("res_1", LATER)
    assert ledger.is_active("res_1", LATER - 1)


def test_a_confirm_charges_what_it_says_and_never_more_than_is_held():
    """One that asks for more is refused, and the hold stays."""
    assert 3 == carry_out(CONFIRM)[0].spent
    ledger, code = carry_out(CONFIRM._replace(amount=6))
    assert ("INVALID_AMOUNT", 0, True) == (code, ledger.spent, ledger.is_active("res_1", NOW))


def test_a_deduct_charges_once_under_its_id():
    """The same id again answers with the first success, whatever amount it names."""
    ledger, code = carry_out(DEDUCT, DEDUCT._replace(amount=9))
    assert (None, 3) == (code, ledger.spent)
    assert 3 == ledger.deducted("e1")
