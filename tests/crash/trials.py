"""
Trials: start a process, let it die at one boundary, let a second one recover, and call the auditor.

Many at once, each on an account and a journal of its own, against one ledger in a process of its own.
"""

import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from . import auditor, clock
from .scenarios import HELD_MINUTES, SCENARIOS
from .stores import SqliteStore

_DEATH = (-signal.SIGKILL, -signal.SIGXFSZ)


@dataclass
class Trial:
    """One death and what became of it."""

    scenario: str
    at: str | None
    folder: Path
    account: str
    then: str | None = None
    # Further words of its order: how it dies, what else is watched.
    more: dict = field(default_factory=dict)
    finding: auditor.Finding | None = None
    seconds: float = 0.0
    pid: int | None = None
    dead: auditor.Rows | None = None

    @property
    def journal(self):
        return self.folder / "journal.db"

    @property
    def clock(self):
        return self.folder / "clock"

    @property
    def name(self):
        return " / ".join(str(part) for part in (self.scenario, self.at, self.then, self.more) if part)


@dataclass
class Bench:
    """What trials run on: a ledger, templates, a folder."""

    url: str
    api_key: str
    control: object
    folder: Path
    templates: list
    store: object = field(default_factory=SqliteStore)
    numbers: object = field(default_factory=itertools.count)
    tell: object = None

    def trial(self, scenario, at=None, then=None, **more):
        """Prepare one: an account with credits, an empty folder."""
        account = f"acct_{next(self.numbers)}"
        folder = self.folder / account
        folder.mkdir()
        clock.make(folder / "clock")
        self.control.account(account, balance=SCENARIOS[scenario].balance, ai_product_id="product_1")
        return Trial(scenario, at, folder, account, then, more)

    def order(self, trial, do, log, **more):
        """Say what a child is to do."""
        return {
            "do": do, "scenario": trial.scenario, "account": trial.account, "url": self.url, "api_key": self.api_key,
            "journal": self.store.url(trial), "log": str(trial.folder / log),
            "clock": str(trial.clock), **more,
        }  # fmt: skip

    def boundaries(self, scenario, **more):
        """Run a scenario undisturbed, and list the boundaries that it passes."""
        facts = self.undisturbed(self.trial(scenario, **more))
        assert not [fact for fact in facts if "failed" in fact]
        passed = [fact["at"] for fact in facts if "at" in fact]
        since, varies = SCENARIOS[scenario].since, SCENARIOS[scenario].varies
        if varies is not None:
            passed = [at for at in passed if not at.startswith(varies) or at.endswith("#1")]
        return passed if since is None else passed[passed.index(since) :]

    def undisturbed(self, trial):
        """Run a scenario to its end, audit it, and return its side log."""
        self.faults([trial])
        template = self.templates[0]
        self._ends(template.run(**self.order(trial, "work", "worker.log", **trial.more)), 0, template, trial)
        facts = auditor.read_facts(trial.folder / "worker.log")
        trial.finding = auditor.audit_late(self.store.rows(trial), self.books(trial), facts)
        assert not trial.finding.wrong, trial.finding
        return facts

    def faults(self, trials):
        """Plan the scenarios' faults, for each account of its own."""
        self.control.faults(
            [{**fault, "account_id": trial.account} for trial in trials for fault in SCENARIOS[trial.scenario].faults]
        )

    def books(self, trial):
        return auditor.read_books(self.url, trial.account)

    def run(self, what, trials):
        """Kill, recover and audit; then let every validity pass, and look again."""
        self.faults(trials)
        self._each(trials, self.kill)
        self._each([trial for trial in trials if trial.then], self._kill_the_recoverer)
        self._each(trials, self.recover)
        self._after_validity(trials)
        self._judge(what, trials)

    def run_forked(self, what, trials):
        """Let a process fork one that dies, and recover it itself."""

        def run(trial, template):
            pid = template.start(**self.order(trial, "preload", "worker.log", at=trial.at))
            assert {"stopped": True} == template.wait(pid), f"{trial.name}\n{template.errors()}"
            trial.dead = self.store.rows_at_death(trial)
            os.kill(pid, signal.SIGCONT)
            self._ends(template.wait(pid), 0, template, trial)
            facts = auditor.read_facts(trial.folder / "worker.log")
            (trial.seconds,) = [fact["seconds"] for fact in facts if "seconds" in fact]
            self._audit(trial, facts)

        self._each(trials, run)
        self._after_validity(trials)
        self._judge(what, trials)

    def run_stopped(self, what, trials, take_away):
        """Stop processes, take away what is theirs, let others take over; then let the stopped ones go on."""
        self.faults(trials)
        self._each(trials, self._stopped)
        take_away(trials)
        self._each(trials, self._taken_over)
        self._each(trials, self._woken)
        self._after_validity(trials)
        self._judge(what, trials)

    def pass_time(self, trials, seconds):
        """Move every clock: the ledger's, and those of all processes of these trials."""
        self.control.advance(seconds)
        for trial in trials:
            clock.advance(trial.clock, seconds)

    def _each(self, trials, step):
        """Do one step for all, as many at once as there are templates; each trial stays with its template."""

        def some(number):
            for trial in trials[number :: len(self.templates)]:
                step(trial, self.templates[number])

        with ThreadPoolExecutor(len(self.templates)) as pool:
            list(pool.map(some, range(len(self.templates))))

    def _after_validity(self, trials):
        self.control.advance(HELD_MINUTES * 60 + 1)
        for trial in trials:
            trial.finding.stranded += auditor.audit_after_validity(self.books(trial))

    def kill(self, trial, template=None):
        """Let a process run until it dies at the trial's boundary."""
        template = template or self.templates[0]
        self._ends(
            template.run(**self.order(trial, "work", "worker.log", at=trial.at, **trial.more)), _DEATH, template, trial
        )
        trial.dead = self.store.rows_at_death(trial)

    def recover(self, trial, template=None):
        """Let another process recover it, and audit."""
        self._audit(trial, self._recovered(trial, template or self.templates[0]))

    def run_undisturbed(self, what, trials):
        """Let each come to its own end, all at once; only its disk is in its way."""

        self.faults(trials)

        def start(trial, template):
            trial.pid = template.start(**self.order(trial, "work", "worker.log", at=trial.at, **trial.more))

        def end(trial, template):
            self._ends(template.wait(trial.pid), 0, template, trial)
            facts = self._recovered(trial, template)
            trial.finding = auditor.audit_late(self.store.rows(trial), self.books(trial), facts)

        self._each(trials, start)
        self._each(trials, end)
        self._after_validity(trials)
        self._judge(what, trials)

    def start(self, trial, log, **more):
        """Start a worker of a trial, and do not wait for it."""
        at = trial.at if "act" in more else None
        return self.templates[0].start(**self.order(trial, "work", log, at=at, **more))

    def wait_for(self, trial, pid, *, stopped=False):
        """Wait until a process that was started has ended as it should, or is stopped."""
        ended = self.templates[0].wait(pid)
        if stopped:
            assert {"stopped": True} == ended, ended
        else:
            self._ends(ended, 0, self.templates[0], trial)

    def fact(self, trial, log, name):
        """Wait until a side log has a fact of that name, and return it."""
        while True:
            found = [fact for fact in auditor.read_facts(trial.folder / log) if name in fact]
            if found:
                return found[0]

    def finish(self, what, trial, *logs):
        """Let one more process tidy up after all the others, and audit."""
        facts = [fact for log in logs for fact in auditor.read_facts(trial.folder / log)]
        facts += self._recovered(trial, self.templates[0])
        trial.finding = auditor.audit_late(self.store.rows(trial), self.books(trial), facts)
        self._after_validity([trial])
        self._judge(what, [trial])

    def run_again(self, trials):
        """Run each scenario once more, with the same ids on the same journal; whatever had come of the first, it costs once."""

        def again(trial, template):
            self._ends(template.run(**self.order(trial, "work", "again.log")), 0, template, trial)

        self._each(trials, again)
        costs = {trial.name: (SCENARIOS[trial.scenario].costs, 0) for trial in trials}
        books = {trial.name: self.books(trial) for trial in trials}
        assert costs == {name: (found["spent"], found["reserved"]) for name, found in books.items()}
        for trial in trials:
            # What was charged before is not charged anew, and the app is told; all else is a new attempt.
            facts = auditor.read_facts(trial.folder / "again.log")
            told = SCENARIOS[trial.scenario].told * (trial.finding.charged > 0)
            assert told == [fact["failed"] for fact in facts if "failed" in fact], trial.name

    def _audit(self, trial, facts):
        rest = self.store.rows(trial)
        on_crash = SCENARIOS[trial.scenario].on_crash
        trial.finding = auditor.audit_death(
            trial.dead, rest, self.books(trial), facts, on_crash, events=trial.then is None
        )

    def _judge(self, what, trials):
        """Nothing was charged twice, nothing lost, nothing stranded, and nothing else is to be complained of."""
        self.tell(what, trials)
        wrong = [f"{trial.name}: {trial.finding}" for trial in trials if trial.finding.wrong]
        assert not wrong, "\n".join(wrong)

    def run_late(self, what, trials):
        """Kill processes whose request is on its way, and let others recover before the ledger has carried it out."""
        self._each(trials, self._killed_on_the_way)
        self._each(trials, self._recovered_on_the_way)
        self._after_validity(trials)
        self._judge(what, trials)

    def _killed_on_the_way(self, trial, template):
        self._stopped(trial, template)
        while not self._on_its_way(trial):
            pass
        os.kill(trial.pid, signal.SIGKILL)
        self._ends(template.wait(trial.pid), _DEATH, template, trial)
        trial.dead = self.store.rows_at_death(trial)

    def _recovered_on_the_way(self, trial, template):
        facts = self._recovered(trial, template)
        while self._on_its_way(trial):
            pass
        self._audit(trial, facts)

    def _on_its_way(self, trial):
        """Requests of a trial that the ledger has received and not answered."""
        mine = {hold["reservation_id"] for hold in self.books(trial)["reservations"]}
        return [
            seen
            for seen in self.control.requests(1000)["requests"]
            if seen["status"] is None
            and (seen["body"].get("account_id") == trial.account or seen["body"].get("reservationId") in mine)
        ]

    def boundaries_of_recovery(self, scenario, at):
        """Kill a process, let another recover undisturbed, and list the boundaries that it passes."""
        trial = self.trial(scenario, at)
        self.faults([trial])
        self.kill(trial)
        self.recover(trial)
        assert not trial.finding.wrong, trial.finding
        return [fact["at"] for fact in auditor.read_facts(trial.folder / "recovery.log") if "at" in fact]

    def _kill_the_recoverer(self, trial, template):
        order = self.order(trial, "recover", "killed-recovery.log", at=trial.then)
        self._ends(template.run(**order), _DEATH, template, trial)

    def _stopped(self, trial, template):
        trial.pid = template.start(**self.order(trial, "work", "worker.log", at=trial.at, act=["stop"]))
        assert {"stopped": True} == template.wait(trial.pid), f"{trial.name}\n{template.errors()}"

    def _taken_over(self, trial, template):
        self._recovered(trial, template)

    def _woken(self, trial, template):
        os.kill(trial.pid, signal.SIGCONT)
        self._ends(template.wait(trial.pid), 0, template, trial)
        facts = self._recovered(trial, template, "second.log") + auditor.read_facts(trial.folder / "recovery.log")
        trial.finding = auditor.audit_late(self.store.rows(trial), self.books(trial), facts)

    def _recovered(self, trial, template, log="recovery.log"):
        self._ends(template.run(**self.order(trial, "recover", log)), 0, template, trial)
        recovery = auditor.read_facts(trial.folder / log)
        (trial.seconds,) = [fact["seconds"] for fact in recovery if "seconds" in fact]
        return auditor.read_facts(trial.folder / "worker.log") + recovery

    @staticmethod
    def _ends(ended, code, template, trial):
        assert ended.get("code") in (code if isinstance(code, tuple) else (code,)), (
            f"{trial.name}: {ended}\n{template.errors()}"
        )


def deep():
    """Whether there is time for everything."""
    return bool(os.environ.get("COUNTWERK_TEST_DEEP"))


def trials_a_point():
    """How often each boundary is tried: `COUNTWERK_TEST_CRASH_TRIALS`, or 5 with `COUNTWERK_TEST_DEEP`, or 1."""
    given = os.environ.get("COUNTWERK_TEST_CRASH_TRIALS")
    return int(given) if given else 5 if deep() else 1
