"""What is sent again, what never is, and when: the flow driven by hand with a clock of its own."""

import math

import pytest

from countwerk_meter._flow.call import call, resolve_order
from countwerk_meter._flow.commands import Moment, Now, Send, Sleep
from countwerk_meter._wire import requests
from countwerk_meter._wire.models import Balance, Deduction, LedgerReservation, ResolvedOrder
from countwerk_meter._wire.replies import Answer, Envelope, InDoubt, NotSent
from countwerk_meter.errors import (
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    LedgerUnavailableError,
    NotFoundError,
    OrderNotMappedError,
    RateLimitError,
)

BALANCE = requests.balance("acct_1")
DEDUCT = requests.deduct("acct_1", "app.chat", 5, "event-1")
RESERVE = requests.reserve("acct_1", "app.chat", 5)
FREE = Answer(Envelope(200, None, {"balance": 1, "availableBalance": 1}))
CHARGED = Answer(Envelope(200, None, {"deductedAmount": 5, "operation": "app.chat"}))
HELD = Answer(Envelope(200, None, {"reservationId": "r", "operation": "app.chat", "amount": 5}))
LOST = InDoubt("ReadError")
NEVER = NotSent("ConnectError")
MAPPED = Answer(Envelope(200, None, {"order_id": "O", "account_id": "acct_1"}))
UNMAPPED = Answer(Envelope(409, "ORDER_NOT_MAPPED_YET", {}))


def limited(wait=None):
    return Answer(Envelope(429, "RATE_LIMIT_EXCEEDED", {}, "Slow down", wait))


class Drive:
    """Runs a flow on given replies and a clock that only sleeping moves; keeps what it was asked for."""

    def __init__(self, flow, *replies, takes=0.0):
        self.sends, self.sleeps, self.now = [], [], 1000.0
        self.sent_at = []
        self._flow, self._replies, self._takes = flow, list(replies), takes

    def run(self):
        reply = None
        while True:
            try:
                command = self._flow.send(reply)
            except StopIteration as stop:
                return stop.value
            if isinstance(command, Send):
                self.sends.append(command)
                self.sent_at.append(self.now)
                self.now += self._takes
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
            elif isinstance(command, Sleep):
                self.sleeps.append(command)
                self.now += command.seconds
                reply = None
            else:
                assert isinstance(command, Now)
                reply = Moment(self.now, 0.0)


def plain(request, model, *replies, timeout=10.0, retries=2, takes=0.0):
    return Drive(call(request, model, timeout=timeout, retries=retries), *replies, takes=takes)


@pytest.mark.parametrize(("request_", "model", "success"), [(BALANCE, Balance, FREE), (DEDUCT, Deduction, CHARGED)])
@pytest.mark.parametrize("trouble", [LOST, NEVER, InDoubt("failed", 500, "INTERNAL_ERROR"), InDoubt("bare", 429)])
def test_reads_and_deducts_are_sent_again(request_, model, success, trouble):
    """A read and a deduct are sent again, the same content every time, with a drawn pause that grows."""
    drive = plain(request_, model, trouble, trouble, success)

    assert isinstance(drive.run(), model)

    assert [request_.content] * 3 == [send.request.content for send in drive.sends]
    assert [1010.0] * 3 == [send.deadline for send in drive.sends]
    assert [(0.05, True), (0.1, True)] == [(sleep.seconds, sleep.jitter) for sleep in drive.sleeps]


@pytest.mark.parametrize(
    "reply", [LOST, InDoubt("failed", 500), InDoubt("bare", 429), InDoubt("html", 200), InDoubt("html", 403)]
)
def test_a_reserve_in_doubt_is_sent_once(reply):
    """A reserve that may have been carried out is never sent again (money rule 3)."""
    drive = plain(RESERVE, LedgerReservation, reply)

    with pytest.raises(LedgerUnavailableError) as caught:
        drive.run()

    assert caught.value.in_doubt
    assert 1 == len(drive.sends)
    assert [] == drive.sleeps


@pytest.mark.parametrize("reply", [NEVER, limited()])
def test_a_reserve_that_was_not_carried_out_is_sent_again(reply):
    """NotSent and a 429 in the ledger's own words were not carried out (assumption A1)."""
    drive = plain(RESERVE, LedgerReservation, reply, HELD)

    assert "r" == drive.run().reservation_id
    assert 2 == len(drive.sends)


@pytest.mark.parametrize("trouble", [limited(3.0), InDoubt("bare", 429, retry_after=3.0)])
def test_retry_after_is_honoured(trouble):
    """The ledger's own pause is kept exactly, not drawn."""
    drive = plain(BALANCE, Balance, trouble, FREE)

    drive.run()

    assert [(3.0, False)] == [(sleep.seconds, sleep.jitter) for sleep in drive.sleeps]


def test_retry_after_is_bounded_by_the_timeout():
    """A pause that does not fit what is left is not begun."""
    drive = plain(BALANCE, Balance, limited(9.9), timeout=10.0, takes=0.2)

    with pytest.raises(RateLimitError) as caught:
        drive.run()

    assert 9.9 == caught.value.retry_after
    assert not caught.value.in_doubt
    assert [] == drive.sleeps


def test_all_attempts_share_one_timeout():
    """Attempts that each take a while end when the one budget does."""
    drive = plain(BALANCE, Balance, NEVER, timeout=1.0, retries=100, takes=0.3)

    with pytest.raises(LedgerUnavailableError) as caught:
        drive.run()

    assert not caught.value.in_doubt
    assert {1001.0} == {send.deadline for send in drive.sends}
    assert max(drive.sent_at) < 1001.0


def test_retries_are_counted():
    """`max_retries` is how often it is sent again."""
    drive = plain(BALANCE, Balance, LOST, retries=0)

    with pytest.raises(LedgerUnavailableError):
        drive.run()

    assert 1 == len(drive.sends)


@pytest.mark.parametrize(("last", "kind"), [(NEVER, LedgerUnavailableError), (limited(), RateLimitError)])
def test_doubt_is_not_forgotten(last, kind):
    """A deduct that may have been carried out stays in doubt when its later attempts were not."""
    drive = plain(DEDUCT, Deduction, LOST, last)

    with pytest.raises(kind) as caught:
        drive.run()

    assert caught.value.in_doubt


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Answer(Envelope(402, "INSUFFICIENT_CREDITS", {})), InsufficientCreditsError),
        (Answer(Envelope(404, "RESERVATION_NOT_FOUND", {})), NotFoundError),
        (InDoubt("html", 404), LedgerUnavailableError),
        (InDoubt("a redirect", 302), LedgerUnavailableError),
    ],
)
def test_refusals_are_not_sent_again(reply, kind):
    """What was refused will be refused again, and a redirect will redirect again."""
    drive = plain(DEDUCT, Deduction, reply)

    with pytest.raises(kind):
        drive.run()

    assert 1 == len(drive.sends)


def test_a_success_that_cannot_be_read():
    """A success whose data is not what the contract says is in doubt, and nothing of it is quoted."""
    drive = plain(RESERVE, LedgerReservation, Answer(Envelope(200, None, {"reservationId": "https://buy.example"})))

    with pytest.raises(LedgerUnavailableError) as caught:
        drive.run()

    assert caught.value.in_doubt
    assert "buy.example" not in str(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def resolving(*replies, wait, takes=0.0):
    return Drive(resolve_order("O", wait=wait, timeout=10.0, retries=2), *replies, takes=takes)


def test_an_order_that_is_linked_later():
    """An order is asked for again, with pauses that double, are drawn at random, and are capped."""
    drive = resolving(*[UNMAPPED] * 8, MAPPED, wait=120.0)

    assert ResolvedOrder(order_id="O", account_id="acct_1") == drive.run()

    assert [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0] == [sleep.seconds for sleep in drive.sleeps]
    assert {True} == {sleep.jitter for sleep in drive.sleeps}


def test_an_order_that_is_never_linked():
    """When the wait is over, the answer is the ledger's; the last pause is cut to what was left."""
    drive = resolving(UNMAPPED, wait=1.0)

    with pytest.raises(OrderNotMappedError):
        drive.run()

    assert [0.25, 0.5, 0.25] == [sleep.seconds for sleep in drive.sleeps]
    assert 1001.0 == drive.now


def test_no_wait():
    """Without a wait the first answer counts."""
    drive = resolving(UNMAPPED, wait=0.0)

    with pytest.raises(OrderNotMappedError):
        drive.run()

    assert 1 == len(drive.sends)


def test_other_refusals_end_the_wait():
    """Only ORDER_NOT_MAPPED_YET is waited for."""
    drive = resolving(UNMAPPED, Answer(Envelope(404, "ORDER_NOT_FOUND", {})), wait=60.0)

    with pytest.raises(NotFoundError):
        drive.run()

    assert 2 == len(drive.sends)


@pytest.mark.parametrize("wait", [-1.0, math.nan, math.inf])
def test_waits_that_are_none(wait):
    """A wait that would never end, or is none, is refused before anything is sent."""
    drive = resolving(MAPPED, wait=wait)

    with pytest.raises(ConfigurationError):
        drive.run()

    assert [] == drive.sends


def test_the_order_is_checked_first():
    """A missing order id is refused before anything is sent."""
    with pytest.raises(InvalidRequestError):
        Drive(resolve_order("", wait=0.0, timeout=1.0, retries=0), MAPPED).run()


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "garbage"])
def test_a_reserve_in_doubt_arrives_once(call, control, sent, kind):
    """Counted at the ledger: a reserve whose answer is lost was sent exactly once."""
    control.faults([{"kind": kind, "times": None}])

    with pytest.raises(LedgerUnavailableError) as caught:
        call("reserve", "acct_1", "app.chat", 5)

    assert caught.value.in_doubt
    assert 1 == sent()


def test_a_lost_deduct_charges_once(call, control, sent):
    """Counted in the books: a deduct whose answer is lost is sent again and charged once (I2)."""
    control.faults([{"kind": "drop_after", "times": 2}])

    assert 95 == call("deduct", "acct_1", "app.chat", 5, "event-1").new_balance

    assert 3 == sent()
    assert 5 == control.books("acct_1")["spent"]


def test_a_lost_read_is_read_again(call, control, sent):
    """A read whose answer is lost is sent again."""
    control.faults([{"kind": "drop_before", "times": 2}])

    assert 100 == call("balance", "acct_1").balance
    assert 3 == sent()


def test_a_limited_reserve_is_sent_again(call, control, sent):
    """A 429 with `Retry-After: 0` is sent again at once."""
    control.faults([{"kind": "status", "status": 429, "retry_after": 0}])

    assert 5 == call("reserve", "acct_1", "app.chat", 5).amount
    assert 2 == sent()


def test_waiting_for_an_order(call, control, sent):
    """An order that is linked at the third asking is resolved."""
    control.settings(unmapped_orders=[{"order_id": "ORDER_1", "times": 2}])

    assert "acct_1" == call("resolve_order", "ORDER_1", wait=10.0).account_id
    assert 3 == sent()
