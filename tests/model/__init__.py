"""
An exhaustive check, within stated bounds, of the real flows of `countwerk_meter._flow`.

The check walks every reachable state of a small world: the journal, the ledger, the requests on the wire, two or three
processes with the flows that they run, and the ledger's clock. The flows, the tables and the journal operations are the
package's own; only the world around them is a model. A flow is a generator and cannot be copied, so a place in one is
the program and the replies that it was given (`places.py`), and is reached again by replay. States that are equal are
one state, whatever led there.

What the world may do, in any order, at every step (`steps.py`):

* run any process' next command: a commit, a look at the clock, a request;
* carry a request out now, later or never, or for a credit less; lose its answer; deliver it twice; answer it with a
  refusal, or without a time; never send it (NotSent). A 5xx is an answer that was lost: nobody knows whether it was carried out;
* kill a process between any two commands (what it committed stays);
* cut the power: every process dies, the journal falls back to any commit at or after the last synced one, and a new
  process starts;
* declare a process dead that lives and goes on: its rows are taken over while it still acts on them. One that is
  stopped for a while and wakes up is the same, with other steps in between;
* take over what a living process has left alone for too long;
* let the ledger's time pass to the hold's last seconds, past its end, and well past it, with the processes' knowledge
  of that time kept or gone stale;
* cancel the caller of a gate; refuse to write to the journal.

How many of these may happen in one run is the scenario's budget (`scenarios.py`): two faults of the network at most, one
crash, one lost lease, one power loss; with `COUNTWERK_TEST_DEEP=1` three faults, and more of them together.
After each state the faults end, and two fair runs lead to rest (`healing.py`): so liveness is judged from every state,
and not only from the ends of runs. I2, I5 and I7 are checked in every state, I3, I4 and I8 at rest (`invariants.py`).
The naive policies that the design names, and some more, are kept as mutants that must be caught (`mutants.py`).

What is not modelled:

* more than one account, and how many credits there are: a 402 is a fault like another;
* the brake of money rule 12 and the waits of the back-off: any pass may happen at once, which is more than the
  settlement thread ever does;
* a half-written commit, which is what the stores' own tests are for;
* an answer that names more than was asked for, pruning, and closing by hand (`tests/flow`);
* an answer that names less, and that is lost: a second confirm finds the hold gone, which then is read as the whole;
* a process whose idea of the ledger's time is ahead of it by as long as a request takes, while another's is not;
* an event that is lost because its process dies between a commit and telling of it: the row stays listed;
* a ledger that forgets a hold while a confirm of it is in doubt: nobody could tell that from one that was carried out.
  Where a scenario lets a hold vanish, nothing is in doubt.
"""
