"""
Past the ledger's gate: a call's reservation begins, or the call is refused, and the refusal is remembered.

The rule: a step that was begun before is taken up here as what it is, and a call that does not get through leaves
nothing held and its place in its step free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from countwerk_meter import ChargeInProgressError, InsufficientCreditsError
from countwerk_meter_langchain.pausing import pause, take_resume_value
from countwerk_meter_langchain.travel import Travels

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from countwerk_meter import Meter, Reservation
    from countwerk_meter.events import Step
    from countwerk_meter_langchain.runs import Runs
    from countwerk_meter_langchain.settling import Settling
    from countwerk_meter_langchain.steps import Named, Steps


class Passage:
    """The way of one handler's calls past the ledger's gate; `pauses`: denials interrupt a graph."""

    def __init__(self, meter: Meter, runs: Runs, steps: Steps, settling: Settling, *, pauses: bool) -> None:
        self._meter = meter
        self._runs = runs
        self._steps = steps
        self._settling = settling
        self._pauses = pauses
        self.travels = Travels()

    def through(
        self,
        make: Callable[[Step], Reservation],
        step: Step,
        named: Named | None,
        path: tuple[UUID, ...],
    ) -> Reservation:
        """
        Begin a call's reservation, or raise.

        Args:
            make: Makes it, under a step's name.
            step: What names the charge.
            named: The call's place in its step; None: it has none.
            path: The runs that it is in, itself not among them.

        """
        if named is not None:
            # An earlier attempt of this step may have left its call behind, a stream that fell silent, say.
            for run in self._runs.of_step(named):
                self._settling.give_up(run)
        reservation: Reservation | None = None
        try:
            reservation = self._begin(lambda: make(step), path)
            anew = self.travels.anew(step, path, replayed=reservation.replayed)
            if anew is not None:
                reservation.finish()
                reservation = self._begin(lambda: make(anew), path)
        except BaseException as error:
            if reservation is not None:
                # Ctrl-C just behind the gate: nobody would end the call.
                reservation.finish_now(error)
            if named is not None:
                self._steps.back(named)
            if isinstance(error, InsufficientCreditsError):
                self._refuse(error)
            raise
        return reservation

    def _begin(self, make: Callable[[], Reservation], path: tuple[UUID, ...]) -> Reservation:
        reservation = make()
        if path:
            self._runs.denials.check(path[-1], reservation, pauses=self._pauses)
        if self._pauses:
            take_resume_value(self._meter, reservation)
        try:
            return reservation.begin()
        except ChargeInProgressError:
            if not reservation.event().durable:
                raise
        except InsufficientCreditsError as denied:
            if path:
                self._runs.denials.note(path[-1], denied)
            raise
        # The worker that began this step may have died since.
        self._meter.recover()
        return make().begin()

    def _refuse(self, denied: InsufficientCreditsError) -> NoReturn:
        """Raise a denial, or pause the graph with it."""
        if self._pauses:
            pause(denied)
        raise denied
