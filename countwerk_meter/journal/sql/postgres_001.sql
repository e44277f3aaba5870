-- Version 1 of the journal in PostgreSQL. Columns are the fields of ReservationRow and ChargeRow, by name.
-- It may stand in a database of the app's own: every name begins with countwerk_.
CREATE TABLE countwerk_reservation (
    key TEXT COLLATE "C" PRIMARY KEY,
    ledger TEXT NOT NULL,
    principal TEXT NOT NULL,
    owner TEXT NOT NULL,
    account_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    validity BIGINT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    description TEXT,
    state TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    reservation_id TEXT,
    expires_at DOUBLE PRECISION,
    settle_with TEXT NOT NULL,
    promised BIGINT NOT NULL CHECK (promised >= 0),
    committed BIGINT NOT NULL CHECK (committed >= 0 AND committed <= amount),
    open_charges BIGINT NOT NULL CHECK (open_charges >= 0),
    sealed BOOLEAN NOT NULL,
    frozen BIGINT CHECK (frozen > 0 AND frozen <= amount),
    confirms BIGINT NOT NULL,
    confirms_open BIGINT NOT NULL CHECK (confirms_open >= 0),
    confirm_delivered BOOLEAN NOT NULL,
    cancels BIGINT NOT NULL,
    cancels_open BIGINT NOT NULL CHECK (cancels_open >= 0),
    cancel_then_deduct BOOLEAN NOT NULL,
    reason TEXT,
    failures BIGINT NOT NULL,
    due_at DOUBLE PRECISION,
    closed_as TEXT CHECK (closed_as IN ('charged', 'not-charged', 'written-off')),
    note TEXT,
    closed_at DOUBLE PRECISION
);

CREATE UNIQUE INDEX countwerk_reservation_named ON countwerk_reservation (ledger, reservation_id)
    WHERE reservation_id IS NOT NULL;
CREATE INDEX countwerk_reservation_due ON countwerk_reservation (owner, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX countwerk_reservation_overdue ON countwerk_reservation (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX countwerk_reservation_holding ON countwerk_reservation (ledger, account_id)
    WHERE state IN ('requested', 'held', 'closing', 'orphan_possible');
CREATE INDEX countwerk_reservation_live ON countwerk_reservation (ledger, owner)
    WHERE state IN ('requested', 'held', 'closing', 'orphan_possible');
CREATE INDEX countwerk_reservation_listed ON countwerk_reservation (ledger, state)
    WHERE state IN ('unresolved', 'orphan_possible');

-- One way (I7): only the steps of _flow/states.py; no confirm after a committed cancel; attempt 1 froze the amount.
CREATE FUNCTION countwerk_reservation_one_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.cancels > 0 AND NEW.confirms > OLD.confirms)
        OR (OLD.frozen IS NOT NULL AND NEW.frozen IS DISTINCT FROM OLD.frozen)
        OR (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN (
        'requested>held', 'requested>orphan_possible', 'requested>refused',
        'held>closing', 'held>expired',
        'closing>unresolved', 'closing>confirmed', 'closing>cancelled', 'closing>expired',
        'orphan_possible>closing', 'orphan_possible>expired',
        'unresolved>confirmed', 'unresolved>closed',
        'closed>confirmed'
    )) THEN
        RAISE EXCEPTION 'forbidden transition of a reservation' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER countwerk_reservation_one_way BEFORE UPDATE ON countwerk_reservation
    FOR EACH ROW EXECUTE FUNCTION countwerk_reservation_one_way();

CREATE TABLE countwerk_charge (
    id TEXT COLLATE "C" NOT NULL,
    ledger TEXT NOT NULL,
    principal TEXT NOT NULL,
    owner TEXT NOT NULL,
    account_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    description TEXT,
    state TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    parent TEXT,
    reservation_key TEXT,
    estimate BIGINT NOT NULL,
    draw BOOLEAN NOT NULL,
    amount BIGINT CHECK (amount >= 0),
    share BIGINT NOT NULL CHECK (share >= 0),
    exact TEXT,
    basis TEXT,
    via TEXT NOT NULL,
    lines TEXT,
    metadata TEXT,
    trace_id TEXT,
    span_id TEXT,
    reason TEXT,
    committed_at DOUBLE PRECISION,
    failures BIGINT NOT NULL,
    due_at DOUBLE PRECISION,
    closed_as TEXT CHECK (closed_as IN ('charged', 'not-charged', 'written-off')),
    note TEXT,
    closed_at DOUBLE PRECISION,
    PRIMARY KEY (ledger, id)
);

CREATE INDEX countwerk_charge_of ON countwerk_charge (reservation_key) WHERE reservation_key IS NOT NULL;
CREATE INDEX countwerk_charge_due ON countwerk_charge (owner, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX countwerk_charge_overdue ON countwerk_charge (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX countwerk_charge_owed ON countwerk_charge (ledger, account_id)
    WHERE state = 'uncollected' OR reason = 'deferred';
CREATE INDEX countwerk_charge_owned ON countwerk_charge (ledger, owner)
    WHERE state IN ('open', 'committed', 'uncollected');
CREATE INDEX countwerk_charge_listed ON countwerk_charge (ledger, state)
    WHERE state IN ('open', 'committed', 'uncollected', 'unresolved', 'lost');
CREATE INDEX countwerk_charge_newest ON countwerk_charge (ledger, created_at);
CREATE INDEX countwerk_charge_account ON countwerk_charge (ledger, account_id, created_at);

-- One way (I7): only the steps of _flow/states.py, and what is settled keeps its amount.
CREATE FUNCTION countwerk_charge_one_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state = 'settled' AND NEW.amount IS DISTINCT FROM OLD.amount)
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
    )) THEN
        RAISE EXCEPTION 'forbidden transition of a charge' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER countwerk_charge_one_way BEFORE UPDATE ON countwerk_charge
    FOR EACH ROW EXECUTE FUNCTION countwerk_charge_one_way();

CREATE TABLE countwerk_carry (
    ledger TEXT NOT NULL,
    account_id TEXT NOT NULL,
    fraction TEXT NOT NULL,
    PRIMARY KEY (ledger, account_id)
);

-- The ids of holds that were pruned: an answer that names one of them is in doubt (money rule 1).
CREATE TABLE countwerk_pruned_reservation (
    ledger TEXT NOT NULL,
    reservation_id TEXT NOT NULL,
    PRIMARY KEY (ledger, reservation_id)
);

-- Who lives: an owner beats now and then, by this database's clock.
CREATE TABLE countwerk_owner (
    id TEXT PRIMARY KEY,
    beat_at TIMESTAMPTZ NOT NULL
);
