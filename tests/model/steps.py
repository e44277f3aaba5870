"""What may happen next in a state: every step of every thread, every fault that is left, and the passing of time."""

from countwerk_meter._flow.commands import Journal, Now, Send, Sleep

from .books import Journals, Violation
from .ledger import Ledger, Said, message_of
from .places import CUT, IN_DOUBT, NOT_SENT, UNWRITTEN, Place
from .programs import GATES, PASSES
from .state import PHASES, UNSYNCED, Left, Process, State, Thread, ledger_time, moment, wall_time

_TOLD = frozenset({"ran", "ahead", "asked", "used", "released", "superseded", "unresolved", "uncollected", "crashed"})
# What the journal itself says, to whoever looks, if the one who would tell is killed behind its commit.
_SEEN = {event: event for event in ("unresolved", "uncollected", "crashed")} | {"used": "written"}
_QUIET = frozenset({"balance", "purchase-links"})


class Model:
    """A scenario's world, and the steps that it may take."""

    def __init__(self, scenario, *, strict=True):
        self.scenario = scenario
        self.journals = Journals(strict=strict)
        self._roots = {}
        self._dead = {}

    def begin(self):
        """Return the first state: the scenario's history has happened without a fault."""
        scenario = self.scenario
        processes = tuple(Process(alive=process.born) for process in scenario.processes)
        state = State(
            0, self.journals.empty, (), Ledger(), (), processes, tuple(Thread() for _ in scenario.threads),
            Left(), frozenset(),
        )  # fmt: skip
        for thread, program in scenario.history:
            state = self.started(state, thread, program)
            while state.threads[thread].place is not None:
                state = self.fair(state, thread)
        for number, thread in enumerate(scenario.threads):
            if thread.program is not None:
                state = self.started(state, number, thread.program)
        since = (state.journal,) if scenario.left.power else ()
        processes = tuple(process._replace(heard=scenario.heard and process.alive) for process in processes)
        return state._replace(left=scenario.left, since=since, processes=processes)

    def place(self, program):
        """Return where a program begins."""
        place = self._roots.get(program)
        if place is None:
            place = self._roots[program] = Place(program, lambda: self.scenario.flow(program))
        return place

    def started(self, state, number, program):
        return self._at(state, number, self.place(program))

    def _at(self, state, number, place):
        """Return the state with a thread at a place: it does not sleep, and begins the program that follows."""
        told = state.told
        while True:
            new = [fact for fact in place.told if fact[0] in _TOLD]
            told = told.union(new) if new else told
            if isinstance(place.command, Sleep):
                place = place.after(None)
            elif place.then is not None:
                place = self.place(place.then)
            else:
                break
        if place.command is None:
            thread = Thread()
        else:
            thread = Thread(place, "out" if isinstance(place.command, Send) else None)
        return state._replace(threads=_with(state, number, thread), told=told)

    def dead(self, state):
        """Return the owners that the journal takes for dead."""
        dead = self._dead.get(state.processes)
        if dead is None:
            dead = self._dead[state.processes] = frozenset(
                known.owner
                for known, process in zip(self.scenario.processes, state.processes, strict=True)
                if process.given_up or not process.alive
            )
        return dead

    def steps(self, state):
        """Yield every step: what happens, and the state after it, or the violation that it is."""
        syncing = self.syncing(state)
        for number, (known, thread) in enumerate(zip(self.scenario.threads, state.threads, strict=True)):
            if not state.processes[known.process].alive:
                continue
            if thread.place is None:
                if known.works:
                    for program in self.passes(state, known.process):
                        yield (number, "begins", program), self.started(state, number, program)
                    if state.left.hung:
                        yield from self._hung(state, number, known.process)
                continue
            if thread.net == UNSYNCED:
                yield (number, "has its commit on the disk"), self._synced(state, number)
                continue
            command = thread.place.command
            if isinstance(command, Journal) and known.process in syncing:
                continue
            if "cut" in self.scenario.faults and state.left.faults and thread.place.program[0] in GATES:
                yield from self._interrupted(state, number, thread.place)
            if isinstance(command, Journal):
                yield self._commit(state, number)
                if "unwritten" in self.scenario.faults and state.left.faults and not command.operation.reads:
                    yield from self._unwritten(state, number, thread.place)
            elif isinstance(command, Now):
                yield (number, "looks at the clock"), self._looked(state, number)
            else:
                yield from self._sending(state, number, thread)
        yield from self._world(state)

    def syncing(self, state):
        """
        Return the processes that wait for the disk.

        A process writes one group after the other: nothing of its own is read or written before the last is synced.
        """
        threads = zip(self.scenario.threads, state.threads, strict=True)
        return {known.process for known, thread in threads if thread.net == UNSYNCED}

    def passes(self, state, process):
        """Return the passes that a process' settlement may make now."""
        owner = self.scenario.processes[process].owner
        found = [(kind, process, key) for kind, key in state.journal.due(owner, wall_time(state.phase))]
        if (state.journal.owners - {owner}) & self.dead(state):
            found.append(("recover", process, ""))
        return found

    def _hung(self, state, number, process):
        """Take over what its owner, though it lives, has left alone for too long."""
        others = [
            known.owner for known in self.scenario.processes if known.owner != self.scenario.processes[process].owner
        ]
        if any(state.journal.due(owner, wall_time(state.phase)) for owner in others):
            left = state.left._replace(hung=state.left.hung - 1)
            program = ("recover", process, "")
            yield (number, "begins", program), self.started(state._replace(left=left), number, program)

    def _commit(self, state, number, *, cut=False):
        """Carry a commit out; `cut`: the caller does not learn of it, because it is cancelled."""
        place = state.threads[number].place
        operation = place.command.operation
        action = (number, "commits", operation, "and is cancelled" if cut else None)
        try:
            done = self.journals.run(operation, state.journal, self.dead(state))
        except Violation as violation:
            return action, violation
        since = state.since
        if state.left.power and done.snapshot is not state.journal:
            since = (*since, done.snapshot)
        after, then = state._replace(journal=done.snapshot, since=since), place.after(CUT if cut else done.result)
        if state.left.power and operation.durable and not cut:
            # Everybody sees it before it is on the disk; whoever waits for it is told only then.
            threads = _with(after, number, Thread(then, UNSYNCED))
            seen = {(_SEEN[event], name) for event, name in then.told if event in _SEEN}
            return action, after._replace(threads=threads, told=state.told | seen)
        return action, self._at(after, number, then)

    def _synced(self, state, number):
        """The disk has all that was written before, whoever wrote it."""
        synced = state._replace(since=(state.journal,) if state.left.power else ())
        return self._at(synced, number, state.threads[number].place)

    def _looked(self, state, number):
        process = state.processes[self.scenario.threads[number].process]
        place = state.threads[number].place
        return self._at(state, number, place.after(moment(state.phase, heard=process.heard)))

    def fair(self, state, number):
        """Return the state after a thread's next step without a fault."""
        thread = state.threads[number]
        if thread.net == UNSYNCED:
            return self._synced(state, number)
        command = thread.place.command
        if isinstance(command, Journal):
            _, after = self._commit(state, number)
            if isinstance(after, Violation):
                raise after
            return after
        if isinstance(command, Now):
            return self._looked(state, number)
        if thread.net == "out":
            return self._carried_out(state, number, message_of(command.request))
        return self._received(state, number, thread.net)

    def _interrupted(self, state, number, place):
        """The caller of a gate is cancelled: its commit is queued all the same, its request stays on the wire."""
        state = state._replace(left=state.left._replace(faults=state.left.faults - 1))
        net, command = state.threads[number].net, place.command
        if isinstance(command, Journal):
            yield self._commit(state, number, cut=True)
        elif isinstance(command, Send):
            message = message_of(command.request)
            after = _on_the_wire(state, message) if net == "out" and message.kind not in _QUIET else state
            yield (number, "has its caller cancelled, and out is", message), self._at(after, number, place.after(CUT))

    def _unwritten(self, state, number, place):
        """The disk is full: a pass ends and is made again, a gate fails. What a call used is kept in memory."""
        if place.program[0] in GATES | PASSES:
            after = state._replace(left=state.left._replace(faults=state.left.faults - 1))
            yield (number, "cannot write", place.command.operation), self._at(after, number, place.after(UNWRITTEN))

    # Requests and answers.

    def _sending(self, state, number, thread):
        message = message_of(thread.place.command.request)
        if thread.net != "out":
            yield (number, "hears", thread.net), self._received(state, number, thread.net)
        else:
            yield (number, "is carried out:", message), self._carried_out(state, number, message)
        faults = self.scenario.faults
        if not state.left.faults or message.kind == "purchase-links":
            return
        state = state._replace(left=state.left._replace(faults=state.left.faults - 1))
        if thread.net != "out":
            if "untimed" in faults and thread.net.at is not None and message.kind in self.scenario.faulty:
                said = thread.net._replace(at=None)
                yield (number, "hears, without a time", said), self._received(state, number, said)
            if "doubt" in faults and message.kind in self.scenario.faulty:
                yield (number, "never hears the answer to", message), self._doubted(state, number)
            return
        if message.kind not in self.scenario.faulty:
            return
        if "not sent" in faults:
            place = thread.place.after(NOT_SENT)
            yield (number, "cannot send", message), self._at(state, number, place)
        if "doubt" in faults:
            # On the wire it may come late, or never: both follow from here.
            after = _on_the_wire(state, message)
            yield (number, "gives up waiting for", message), self._doubted(after, number)
        if "twice" in faults and message.kind not in _QUIET:
            after = _on_the_wire(self._carried_out(state, number, message), message)
            yield (number, "is carried out, and a copy is under way:", message), after
            first, _ = state.ledger.handle(message, ledger_time(state.phase))
            after = self._carried_out(state._replace(ledger=first), number, message)
            yield (number, "is carried out twice, and answered the second time:", message), after
        if "short" in faults and message.amount > 1 and message.target.count(".late") < 2:
            # Heard at once: nobody could tell a smaller charge from the whole one after a doubt.
            ledger, said = state.ledger.handle(message._replace(amount=message.amount - 1), ledger_time(state.phase))
            after = self._received(state._replace(ledger=ledger), number, said)
            yield (number, "is charged one credit less, and hears so:", message), after
        for code in self.scenario.codes.get(message.kind, ()):
            threads = _with_net(state, number, Said(code, at=ledger_time(state.phase)))
            yield (number, f"is refused with {code}:", message), state._replace(threads=threads)

    def _carried_out(self, state, number, message):
        ledger, said = state.ledger.handle(message, ledger_time(state.phase))
        return state._replace(ledger=ledger, threads=_with_net(state, number, said))

    def _received(self, state, number, said):
        place = state.threads[number].place
        if said.at is not None:
            state = self._knows_time(state, self.scenario.threads[number].process)
        return self._at(state, number, place.after(said))

    def _knows_time(self, state, process):
        known = state.processes[process]
        if known.heard:
            return state
        return state._replace(processes=_with_process(state, process, known._replace(heard=True)))

    def _doubted(self, state, number):
        return self._at(state, number, state.threads[number].place.after(IN_DOUBT))

    # The world around them.

    def _world(self, state):
        now = ledger_time(state.phase)
        for message in dict.fromkeys(state.wire):
            wire = list(state.wire)
            wire.remove(message)
            ledger, _ = state.ledger.handle(message, now)
            yield ("wire", "carries out late:", message), state._replace(ledger=ledger, wire=tuple(wire))
        later = [phase for phase in self.scenario.phases if phase > state.phase]
        if later:
            yield ("time", "passes:", PHASES[later[0]]), state._replace(phase=later[0])
            if self.scenario.stale and any(process.heard for process in state.processes):
                yield ("time", "passes, and nobody knows it:", PHASES[later[0]]), self.later(state, later[0])
        left = state.left
        if left.vanish:
            for hold in state.ledger.holds:
                if hold.state == "active":
                    after = state._replace(ledger=state.ledger.ended(hold.name, "vanished"))
                    yield ("ledger", "forgets", hold.name), after._replace(left=left._replace(vanish=0))
        for number, process in enumerate(state.processes):
            if not process.alive:
                continue
            if left.crashes and self.scenario.processes[number].mortal:
                after = state._replace(left=left._replace(crashes=left.crashes - 1))
                yield (self.scenario.processes[number].owner, "is killed"), self._killed(after, number)
            if left.steals and self.scenario.processes[number].mortal and not process.given_up:
                after = state._replace(left=left._replace(steals=left.steals - 1))
                given_up = _with_process(after, number, process._replace(given_up=True))
                owner = self.scenario.processes[number].owner
                yield (owner, "is taken for dead, and lives"), after._replace(processes=given_up)
        if left.power:
            for journal in dict.fromkeys(state.since):
                yield ("power", "is lost; journal lost:", _lost(state, journal)), self._cut(state, journal)

    def later(self, state, phase):
        """Return a later phase, with nobody knowing the ledger's time."""
        processes = tuple(process._replace(heard=False) for process in state.processes)
        return state._replace(phase=phase, processes=processes)

    def _killed(self, state, number):
        process = Process(alive=False)
        for thread, known in enumerate(self.scenario.threads):
            if known.process == number:
                state = _abandoned(state, thread)
        return state._replace(processes=_with_process(state, number, process))

    def _cut(self, state, journal):
        for thread in range(len(state.threads)):
            state = _abandoned(state, thread)
        state = state._replace(
            journal=journal,
            since=(),
            left=state.left._replace(power=0),
            told=state.told | {("power lost", "")},
            processes=tuple(Process(alive=False) for _ in state.processes),
        )
        return self.restarted(state)

    def restarted(self, state):
        """Start the last process anew: it takes over whatever it finds."""
        return state._replace(processes=_with_process(state, len(state.processes) - 1, Process()))


def _lost(state, journal):
    return len(state.since) - 1 - state.since.index(journal)


def _on_the_wire(state, message):
    return state._replace(wire=tuple(sorted((*state.wire, message))))


def _abandoned(state, number):
    """Return the state without what a thread was doing; a request of its that is out stays on the wire."""
    thread = state.threads[number]
    if thread.net == "out":
        message = message_of(thread.place.command.request)
        if message.kind not in _QUIET:
            state = _on_the_wire(state, message)
    return state._replace(threads=_with(state, number, Thread()))


def _with(state, number, thread):
    return (*state.threads[:number], thread, *state.threads[number + 1 :])


def _with_net(state, number, net):
    return _with(state, number, state.threads[number]._replace(net=net))


def _with_process(state, number, process):
    return (*state.processes[:number], process, *state.processes[number + 1 :])
