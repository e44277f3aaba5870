-- Version 2: rows that a person closes, calls lost in a crash, recovery of single rows, and pruning.
ALTER TABLE reservation ADD COLUMN closed_as TEXT CHECK (closed_as IN ('charged', 'not-charged', 'written-off'));
ALTER TABLE reservation ADD COLUMN note TEXT;
ALTER TABLE reservation ADD COLUMN closed_at REAL;
ALTER TABLE charge ADD COLUMN closed_as TEXT CHECK (closed_as IN ('charged', 'not-charged', 'written-off'));
ALTER TABLE charge ADD COLUMN note TEXT;
ALTER TABLE charge ADD COLUMN closed_at REAL;

-- The ids of holds that were pruned: an answer that names one of them is in doubt (money rule 1).
CREATE TABLE pruned_reservation (
    ledger TEXT NOT NULL,
    reservation_id TEXT NOT NULL,
    PRIMARY KEY (ledger, reservation_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX reservation_overdue ON reservation (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX charge_overdue ON charge (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX charge_owned ON charge (ledger, owner) WHERE state IN ('open', 'committed', 'uncollected');
DROP INDEX charge_live;
CREATE INDEX charge_listed ON charge (ledger, state)
    WHERE state IN ('open', 'committed', 'uncollected', 'unresolved', 'lost');

DROP TRIGGER reservation_one_way;
CREATE TRIGGER reservation_one_way BEFORE UPDATE ON reservation
WHEN (OLD.cancels > 0 AND NEW.confirms > OLD.confirms)
    OR (OLD.frozen IS NOT NULL AND NEW.frozen IS NOT OLD.frozen)
    OR (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN (
        'requested>held', 'requested>orphan_possible', 'requested>refused',
        'held>closing', 'held>expired',
        'closing>unresolved', 'closing>confirmed', 'closing>cancelled', 'closing>expired',
        'orphan_possible>closing', 'orphan_possible>expired',
        'unresolved>confirmed', 'unresolved>closed',
        'closed>confirmed'
    ))
BEGIN
    SELECT RAISE(ABORT, 'forbidden transition of a reservation');
END;

DROP TRIGGER charge_one_way;
CREATE TRIGGER charge_one_way BEFORE UPDATE ON charge
WHEN (OLD.state = 'settled' AND NEW.amount IS NOT OLD.amount)
    OR (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN (
        'open>denied', 'open>cancelled', 'open>orphaned', 'open>committed', 'open>settled', 'open>lost',
        'denied>open',
        'cancelled>open',
        'orphaned>open',
        'committed>uncollected', 'committed>unresolved', 'committed>settled',
        'uncollected>unresolved', 'uncollected>settled', 'uncollected>closed',
        'unresolved>settled', 'unresolved>closed',
        'lost>open', 'lost>cancelled', 'lost>closed',
        'closed>settled'
    ))
BEGIN
    SELECT RAISE(ABORT, 'forbidden transition of a charge');
END;
