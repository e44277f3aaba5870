-- Version 1 of the journal. Columns are the fields of ReservationRow and ChargeRow, by name.
CREATE TABLE reservation (
    key TEXT PRIMARY KEY,
    ledger TEXT NOT NULL,
    principal TEXT NOT NULL,
    owner TEXT NOT NULL,
    account_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    validity INTEGER NOT NULL,
    created_at REAL NOT NULL,
    description TEXT,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    reservation_id TEXT,
    expires_at REAL,
    settle_with TEXT NOT NULL,
    promised INTEGER NOT NULL CHECK (promised >= 0),
    committed INTEGER NOT NULL CHECK (committed >= 0 AND committed <= amount),
    open_charges INTEGER NOT NULL CHECK (open_charges >= 0),
    sealed INTEGER NOT NULL,
    frozen INTEGER CHECK (frozen > 0 AND frozen <= amount),
    confirms INTEGER NOT NULL,
    confirms_open INTEGER NOT NULL CHECK (confirms_open >= 0),
    confirm_delivered INTEGER NOT NULL,
    cancels INTEGER NOT NULL,
    cancels_open INTEGER NOT NULL CHECK (cancels_open >= 0),
    cancel_then_deduct INTEGER NOT NULL,
    reason TEXT,
    failures INTEGER NOT NULL,
    due_at REAL
) STRICT;

CREATE UNIQUE INDEX reservation_named ON reservation (ledger, reservation_id) WHERE reservation_id IS NOT NULL;
CREATE INDEX reservation_due ON reservation (owner, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX reservation_holding ON reservation (ledger, account_id)
    WHERE state IN ('requested', 'held', 'closing', 'orphan_possible');
CREATE INDEX reservation_live ON reservation (ledger, owner)
    WHERE state IN ('requested', 'held', 'closing', 'orphan_possible');
CREATE INDEX reservation_unresolved ON reservation (ledger, state) WHERE state IN ('unresolved', 'orphan_possible');

-- One way (I7): only the steps of _flow/states.py; no confirm after a committed cancel; attempt 1 froze the amount.
CREATE TRIGGER reservation_one_way BEFORE UPDATE ON reservation
WHEN (OLD.cancels > 0 AND NEW.confirms > OLD.confirms)
    OR (OLD.frozen IS NOT NULL AND NEW.frozen IS NOT OLD.frozen)
    OR (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN (
        'requested>held', 'requested>orphan_possible', 'requested>refused',
        'held>closing', 'held>expired',
        'closing>unresolved', 'closing>confirmed', 'closing>cancelled', 'closing>expired',
        'orphan_possible>closing', 'orphan_possible>expired',
        'unresolved>confirmed'
    ))
BEGIN
    SELECT RAISE(ABORT, 'forbidden transition of a reservation');
END;

CREATE TABLE charge (
    id TEXT NOT NULL,
    ledger TEXT NOT NULL,
    principal TEXT NOT NULL,
    owner TEXT NOT NULL,
    account_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL NOT NULL,
    description TEXT,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    parent TEXT,
    reservation_key TEXT,
    estimate INTEGER NOT NULL,
    draw INTEGER NOT NULL,
    amount INTEGER CHECK (amount >= 0),
    share INTEGER NOT NULL CHECK (share >= 0),
    exact TEXT,
    basis TEXT,
    via TEXT NOT NULL,
    lines TEXT,
    metadata TEXT,
    trace_id TEXT,
    span_id TEXT,
    reason TEXT,
    committed_at REAL,
    failures INTEGER NOT NULL,
    due_at REAL,
    PRIMARY KEY (ledger, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX charge_of ON charge (reservation_key) WHERE reservation_key IS NOT NULL;
CREATE INDEX charge_due ON charge (owner, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX charge_owed ON charge (ledger, account_id) WHERE state = 'uncollected' OR reason = 'deferred';
CREATE INDEX charge_live ON charge (ledger, state, owner)
    WHERE state IN ('open', 'committed', 'uncollected', 'unresolved');
CREATE INDEX charge_newest ON charge (ledger, created_at);

-- One way (I7): only the steps of _flow/states.py, and what is settled keeps its amount.
CREATE TRIGGER charge_one_way BEFORE UPDATE ON charge
WHEN (OLD.state = 'settled' AND NEW.amount IS NOT OLD.amount)
    OR (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN (
        'open>denied', 'open>cancelled', 'open>orphaned', 'open>committed', 'open>settled',
        'denied>open',
        'cancelled>open',
        'orphaned>open',
        'committed>uncollected', 'committed>unresolved', 'committed>settled',
        'uncollected>unresolved', 'uncollected>settled',
        'unresolved>settled'
    ))
BEGIN
    SELECT RAISE(ABORT, 'forbidden transition of a charge');
END;

CREATE TABLE carry (
    ledger TEXT NOT NULL,
    account_id TEXT NOT NULL,
    fraction TEXT NOT NULL,
    PRIMARY KEY (ledger, account_id)
) STRICT, WITHOUT ROWID;
