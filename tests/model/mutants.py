"""
The naive policies that the design names, each as a patch of the real flows, and the invariant that it breaks.

A policy is put in at the smallest place where it differs from the rule. The journal's own refusals are switched off for
it (`strict=False`), so that it is caught by what it does to somebody's money, and not by a guard.
"""

from dataclasses import dataclass, replace

from countwerk_meter._flow import begin, lease, recover, settle
from countwerk_meter._flow.attempts import (
    CANCEL,
    Claim,
    Convert,
    End,
    Ended,
    Load,
    NotThere,
    OpenAttempt,
    Postpone,
    _settled,
)
from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.commands import Journal, Now, Send
from countwerk_meter._flow.deducted import Deducted
from countwerk_meter._flow.ending import Commit, Committed, Release
from countwerk_meter._flow.rows import CONFIRM
from countwerk_meter._flow.states import WAITING, ChargeState, Outcome, ReservationState, Sequel
from countwerk_meter._flow.verdict import Pass, Verdict
from countwerk_meter._wire import requests

from . import steps

CLOSING, CANCELLED = ReservationState.CLOSING, ReservationState.CANCELLED


def the_404_is_fine(patch):
    """A 404 on a confirm means that it was confirmed before."""

    def apply(self, books):
        row = books.reservation(self.key)
        return _settled(books, row, self.now, reason="inferred") if row.state is CLOSING else Ended(row)

    patch.setattr(NotThere, "apply", apply)


def the_404_then_deduct(patch):
    """A 404 on a confirm means that nothing was charged, so each charge is deducted."""

    def apply(self, books):
        return End(self.key, ReservationState.EXPIRED, "gone", self.now, deduct=True, closes=CONFIRM).apply(books)

    patch.setattr(NotThere, "apply", apply)


@dataclass(frozen=True, slots=True)
class _Forget(Operation[None]):
    key: str

    def apply(self, books):
        books.save_reservation(replace(books.reservation(self.key), state=CANCELLED, due_at=None))
        for charge in books.charges_of(self.key):
            if charge.state in WAITING:
                books.save_charge(replace(charge, state=ChargeState.CANCELLED, due_at=None))


def catch_then_cancel(patch):
    """Whatever goes wrong with a confirm, the hold is cancelled, and that was that."""
    confirm = settle._confirm

    def catching(terms, claim):
        done = yield from confirm(terms, claim)
        if done.verdict is not Verdict.DOUBTFUL:
            return done
        start = yield Now()
        yield Send(requests.cancel(claim.row.reservation_id), start.monotonic + 10)
        yield Journal(_Forget(claim.row.key))
        return Pass(Verdict.ENDED, done.account_id)

    patch.setattr(settle, "_confirm", catching)


def doubt_recorded_after_sending(patch):
    """An attempt is written down once it is in doubt, and not before it leaves."""
    opened, postponed = OpenAttempt.apply, Postpone.apply

    def opening(self, books):
        row = opened(self, books)
        if row is not None and self.kind == CONFIRM:
            row = replace(row, confirms_open=row.confirms_open - 1)
            books.save_reservation(row)
        return row

    def postponing(self, books):
        row = books.reservation(self.key)
        if self.doubtful_confirm and row is not None:
            books.save_reservation(replace(row, confirms_open=row.confirms_open + 1))
        postponed(self, books)

    patch.setattr(OpenAttempt, "apply", opening)
    patch.setattr(Postpone, "apply", postponing)


def cancel_after_a_confirm_in_doubt(patch):
    """A confirm in doubt is undone by a cancel, after which each charge is deducted, whatever the cancel answered."""
    confirm, ended = settle._confirm, End.apply

    def impatient(terms, claim):
        done = yield from confirm(terms, claim)
        now: Claim = yield Journal(Load(claim.row.key))
        if now.row.state is CLOSING and now.row.confirms_open:
            return (yield from settle._cancel(terms, now.row, then_deduct=True))
        return done

    def apply(self, books):
        if self.closes == CANCEL and self.state is ReservationState.UNRESOLVED:
            self = replace(self, state=CANCELLED, deduct=True)
        return ended(self, books)

    patch.setattr(settle, "_confirm", impatient)
    patch.setattr(End, "apply", apply)


def not_sent_leaves_the_attempt_open(patch):
    """A confirm that was never sent is treated like one in doubt."""
    patch.setattr(settle, "ON_CONFIRM", {**settle.ON_CONFIRM, Outcome.NOT_SENT: Sequel.RESEND})


def cancel_sent_without_a_commit(patch):
    """A cancel leaves before the journal says so, and a later pass may confirm."""
    opened, converted = OpenAttempt.apply, Convert.apply

    def uncounted(books, row):
        row = replace(row, cancels=0, cancels_open=0, cancel_then_deduct=False)
        books.save_reservation(row)
        return row

    def opening(self, books):
        row = opened(self, books)
        return row if row is None or self.kind == CONFIRM else uncounted(books, row)

    def converting(self, books):
        ended = converted(self, books)
        return ended if ended.row is None else replace(ended, row=uncounted(books, ended.row))

    patch.setattr(OpenAttempt, "apply", opening)
    patch.setattr(Convert, "apply", converting)
    patch.setattr(settle, "_carried", lambda row, charges: "")


def amount_not_frozen(patch):
    """What comes late is added to the confirm that is sent again."""
    committed = Commit.apply

    def apply(self, books):
        charge = books.charge(self.ledger, self.charge_id)
        row = books.reservation(charge.reservation_key)
        if charge.state is not ChargeState.COMMITTED or charge.via != CONFIRM or row.state is not CLOSING:
            return committed(self, books)
        missing = int(self.measured.exact) - charge.amount
        if missing > 0:
            more = {"amount": charge.amount + missing, "share": charge.share + missing}
            books.save_charge(replace(charge, **more, exact=str(self.measured.exact)))
            books.save_reservation(replace(row, committed=row.committed + missing, frozen=None, epoch=row.epoch + 1))
        return Committed(charge)

    patch.setattr(Commit, "apply", apply)


def deduct_after_expiry_with_an_attempt_open(patch):
    """An expired hold was not charged, so its charges are deducted, confirm in doubt or not."""
    convert, converted = settle._confirm_or_convert, Convert.apply

    def forgetful(row):
        return replace(row, confirms_open=0, confirm_delivered=False)

    def converting(self, books):
        row = books.reservation(self.key)
        books.save_reservation(forgetful(row))
        return converted(self, books)

    patch.setattr(settle, "_confirm_or_convert", lambda t, claim: convert(t, replace(claim, row=forgetful(claim.row))))
    patch.setattr(Convert, "apply", converting)


def attempts_are_not_synced(patch):
    """An attempt is written down before it leaves, and may be forgotten with the power."""
    patch.setattr(OpenAttempt, "durable", False)


def commits_are_not_synced(patch):
    """What a call used is written down, and may be forgotten with the power."""
    patch.setattr(Commit, "durable", False)


def commits_are_acted_on_before_they_are_synced(patch):
    """What was committed is read by others of the same process while it is on its way to the disk."""
    patch.setattr(steps.Model, "syncing", lambda self, state: ())


def stale_attempts_open(patch):
    """A worker acts on what it read a while ago, whatever the row has become since."""
    converted = Convert.apply

    def converting(self, books):
        row = books.reservation(self.key)
        books.save_reservation(replace(row, confirms_open=0, confirm_delivered=False))
        return converted(replace(self, epoch=row.epoch), books)

    patch.setattr(Convert, "apply", converting)

    def opening(self, books):
        row = books.reservation(self.key)
        if self.kind == CONFIRM:
            row = replace(row, confirms=row.confirms + 1, confirms_open=row.confirms_open + 1, frozen=self.amount)
        else:
            row = replace(row, cancels=row.cancels + 1, cancels_open=row.cancels_open + 1)
        books.save_reservation(row)
        return row

    patch.setattr(OpenAttempt, "apply", opening)


def own_clock(patch):
    """This machine's clock says whether a hold is alive."""
    life = settle.life_of
    patch.setattr(settle, "life_of", lambda row, moment: life(row, replace(moment, ledger=moment.wall)))


def late_truths_are_dropped(patch):
    """Whoever was thought dead has nothing to say any more."""
    patch.setattr(Commit, "_late", lambda self, books, charge, exact: Committed(charge))


def crashed_calls_cost_nothing(patch):
    """A call whose process died before it said what it used is cancelled, and nobody looks into it."""
    patch.setattr(recover, "Release", lambda *args, lost: replace(Release(*args, lost=lost), lost=False))


def uncollected_is_given_up(patch):
    """A deduct that found no credits is not tried again."""
    recorded = Deducted.apply
    kept = ChargeState.UNCOLLECTED
    patch.setattr(
        Deducted,
        "apply",
        lambda self, books: recorded(replace(self, due_at=None) if self.state is kept else self, books),
    )


def holds_are_left_to_their_validity(patch):
    """A hold that nobody needs any more is not given back."""
    patch.setattr(settle, "surely_over", lambda row, moment: True)


def ids_charged_late_begin_anew(patch):
    """A charge that was cancelled may begin anew, though what it used was charged under a leg."""
    restarted = begin._restarted

    def restarting(books, charge):
        met = books.charge(charge.ledger, charge.id)
        if met is not None and met.state is ChargeState.CANCELLED:
            books.save_charge(replace(met, exact=None))
        return restarted(books, charge)

    patch.setattr(begin, "_restarted", restarting)


def calls_on_trust_stay_the_heirs(patch):
    """A call that runs on trust belongs to whoever had its charge before."""
    defer = begin.Defer.apply

    def apply(self, books):
        before = books.charge(self.charge.ledger, self.charge.id)
        return defer(replace(self, charge=replace(self.charge, owner=before.owner)), books)

    patch.setattr(begin.Defer, "apply", apply)


def overdue_gates_leave_their_charge(patch):
    """The reservation of a gate that hangs is taken over, and its charge is not."""
    orphaned = recover.orphaned

    def leaving(books, row, reason, now):
        return row if reason == "no answer was recorded" else orphaned(books, row, reason, now)

    patch.setattr(recover, "orphaned", leaving)


def a_lease_is_confirmed_whole(patch):
    """What was taken ahead counts as used, whatever was drawn on it."""
    recalled = lease.Recall.apply

    def apply(self, books):
        row = recalled(self, books)
        if row is not None and row.state is CLOSING and row.frozen is None:
            row = replace(row, committed=row.amount)
            books.save_reservation(row)
        return row

    patch.setattr(lease.Recall, "apply", apply)


@dataclass(frozen=True)
class Mutant:
    """A policy, the scenario that shows what is wrong with it, and the invariants that it may break."""

    name: str
    policy: object
    scenario: str
    breaks: str


NAMED = (
    Mutant("404 is fine", the_404_is_fine, "settling, whatever is answered", "I5"),
    Mutant("404 then deduct", the_404_then_deduct, "settling, whatever is answered", "I2"),
    Mutant("catch then cancel", catch_then_cancel, "settling, whatever is answered", "I3"),
    Mutant("doubt recorded after sending", doubt_recorded_after_sending, "settling, whatever is answered", "I2"),
    Mutant("cancel after a confirm in doubt", cancel_after_a_confirm_in_doubt, "settling, whatever is answered", "I2"),
    Mutant("NotSent leaves the attempt open", not_sent_leaves_the_attempt_open, "a hold that vanishes", "I5"),
    Mutant("cancel sent without a commit", cancel_sent_without_a_commit, "time unknown", "I2"),
    Mutant("amount not frozen", amount_not_frozen, "a late truth", "I5"),
    Mutant(
        "deduct after expiry with an attempt open",
        deduct_after_expiry_with_an_attempt_open,
        "settling, whatever is answered",
        "I2",
    ),
)

# Policies that the design does not name, so that every invariant and every kind of fault has caught something.
FURTHER = (
    Mutant("attempts are not synced", attempts_are_not_synced, "one call, killed or without power", "I2"),
    Mutant("commits are not synced", commits_are_not_synced, "one call, killed or without power", "I3"),
    Mutant(
        "commits are acted on before they are synced",
        commits_are_acted_on_before_they_are_synced,
        "settled with deducts",
        "I2",
    ),
    Mutant("stale attempts open", stale_attempts_open, "two settle one row", "I2"),
    Mutant("own clock", own_clock, "settling, whatever is answered", "I5"),
    Mutant("late truths are dropped", late_truths_are_dropped, "a late truth", "I3"),
    Mutant("crashed calls cost nothing", crashed_calls_cost_nothing, "one call, killed or without power", "I3"),
    Mutant("uncollected is given up", uncollected_is_given_up, "over the hold", "I8"),
    Mutant("holds are left to their validity", holds_are_left_to_their_validity, "nothing used", "I4"),
    Mutant("ids charged late begin anew", ids_charged_late_begin_anew, "begun anew elsewhere", "I2"),
    Mutant("calls on trust stay the heir's", calls_on_trust_stay_the_heirs, "run on trust, taken over", "I8"),
    Mutant("overdue gates leave their charge", overdue_gates_leave_their_charge, "a gate that hangs", "I2"),
    Mutant("a lease is confirmed whole", a_lease_is_confirmed_whole, "a lease", "I2"),
)
