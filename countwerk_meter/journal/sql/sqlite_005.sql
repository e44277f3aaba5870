-- Version 5: what lives is found by one index of each table, its owner first. Each further one was written with every
-- step of every call.
DROP INDEX reservation_due;
DROP INDEX reservation_overdue;
DROP INDEX reservation_live;
CREATE INDEX reservation_live ON reservation (owner, due_at)
    WHERE state IN ('requested', 'held', 'closing', 'orphan_possible');
DROP INDEX charge_due;
DROP INDEX charge_overdue;
DROP INDEX charge_owned;
DROP INDEX charge_listed;
CREATE INDEX charge_live ON charge (owner, due_at) WHERE state IN ('open', 'committed', 'uncollected');
CREATE INDEX charge_listed ON charge (ledger, state) WHERE state IN ('unresolved', 'lost');
