"""
An exhaustive check, within stated bounds, of the real flows of `countwerk_meter._flow`.

The check walks every reachable state of a small world: the journal, the ledger, the requests on the wire, two or three
processes with the flows that they run, and a ledger clock. The flows, the tables and the journal operations are the
package's own; only the world around them is a model. A flow is a generator and cannot be copied, so a place in one is
the program and the replies that it was given (`places.py`), and is reached again by replay.

What the world may do, in any order, at every step (`steps.py`):

* run any process' next command: a commit, a look at the clock, a request;
* carry a request out now, later or never; lose its answer; deliver it twice; answer it with a refusal; answer it
  without a time; never send it (NotSent);
* kill a process between any two commands (what it committed stays), once;
* cut the power: every process dies, and the journal falls back to any commit at or after the last synced one, once;
* declare a process dead that lives and goes on: its rows are taken over while it still acts on them, once;
* let the ledger's time pass to the hold's last seconds, past its end, and well past it, with the processes' knowledge
  of that time kept or gone stale.

How many of these may happen in one run is the scenario's budget (`scenarios.py`). After each state the faults end, and
a fair run leads to rest (`healing.py`): so liveness is judged from every state, and not only from the ends of runs.

What is not modelled: a second account, the amount of credits (a 402 is a fault like another), the brake of money rule
12 and the waits of the back-off (any pass may happen at once, which is more than the settlement thread ever does), a
half-written commit (the stores' own tests), an application that cancels its own gate (the state machine in
`tests/flow`), pruning, and closing by hand. A hold vanishes from the ledger only where a scenario says so: together
with a confirm in doubt, nobody could tell that from a confirm that was carried out.
"""
