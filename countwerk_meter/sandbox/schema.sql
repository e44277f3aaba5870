-- The sandbox's books. Credits are integers; times are milliseconds since 1970 on the sandbox's clock.
-- Every movement is one row of transactions with postings that sum to zero between four books per account:
-- earned (the source, so its postings are negative), available, reserved and spent.

CREATE TABLE accounts (
    account_id TEXT PRIMARY KEY,
    ai_product_id TEXT,
    order_id TEXT UNIQUE,
    current_tier_product_id TEXT,
    created_at INTEGER NOT NULL,
    -- Running totals, so that no request has to sum postings; the audit compares the two.
    earned INTEGER NOT NULL DEFAULT 0 CHECK (earned >= 0),
    available INTEGER NOT NULL DEFAULT 0 CHECK (available >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    CHECK (earned = available + reserved + spent)
);

CREATE TABLE reservations (
    number INTEGER PRIMARY KEY,
    reservation_id TEXT NOT NULL UNIQUE,
    account_id TEXT NOT NULL REFERENCES accounts (account_id),
    operation TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'confirmed', 'cancelled', 'expired')),
    actual_amount INTEGER CHECK ((state = 'confirmed') = (actual_amount IS NOT NULL)),
    description TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX reservations_of_account ON reservations (account_id);
CREATE INDEX reservations_by_expiry ON reservations (expires_at) WHERE state = 'active';
CREATE INDEX reservations_next_expiry ON reservations (account_id, expires_at) WHERE state = 'active';

CREATE TABLE transactions (
    number INTEGER PRIMARY KEY,
    transaction_id TEXT NOT NULL UNIQUE,
    account_id TEXT NOT NULL REFERENCES accounts (account_id),
    kind TEXT NOT NULL
        CHECK (kind IN ('earn', 'correction', 'deduct', 'reserve', 'confirm', 'cancel', 'expire')),
    operation TEXT,
    amount INTEGER NOT NULL CHECK (amount > 0),
    usage_event_id TEXT,
    reservation_id TEXT,
    description TEXT,
    metadata TEXT,
    balance_after INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX transactions_of_account ON transactions (account_id);
-- One charge per usage event and account, whatever the code above this line does.
CREATE UNIQUE INDEX usage_events ON transactions (account_id, usage_event_id) WHERE usage_event_id IS NOT NULL;

CREATE TABLE postings (
    transaction_number INTEGER NOT NULL REFERENCES transactions (number),
    book TEXT NOT NULL CHECK (book IN ('earned', 'available', 'reserved', 'spent')),
    amount INTEGER NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (transaction_number, book)
) WITHOUT ROWID;

-- Books are written once: a correction is a further transaction.
CREATE TRIGGER transactions_are_final BEFORE UPDATE ON transactions
BEGIN SELECT RAISE (ABORT, 'transactions are final'); END;
CREATE TRIGGER transactions_stay BEFORE DELETE ON transactions
BEGIN SELECT RAISE (ABORT, 'transactions stay'); END;
CREATE TRIGGER postings_are_final BEFORE UPDATE ON postings
BEGIN SELECT RAISE (ABORT, 'postings are final'); END;
CREATE TRIGGER postings_stay BEFORE DELETE ON postings
BEGIN SELECT RAISE (ABORT, 'postings stay'); END;
-- A reservation ends once.
CREATE TRIGGER reservations_end_once BEFORE UPDATE ON reservations WHEN OLD.state <> 'active'
BEGIN SELECT RAISE (ABORT, 'a reservation ends once'); END;

-- The proof, first half: every transaction sums to zero. Empty when the books are right.
CREATE VIEW unbalanced_transactions AS
SELECT t.account_id, t.transaction_id, COALESCE (SUM (p.amount), 0) AS difference
FROM transactions AS t LEFT JOIN postings AS p ON p.transaction_number = t.number
GROUP BY t.number
HAVING COUNT (p.amount) = 0 OR SUM (p.amount) <> 0;

-- The proof, second half: what the postings and the live reservations say, beside the running totals.
CREATE VIEW posted_totals AS
SELECT
    a.account_id,
    a.earned, a.available, a.reserved, a.spent,
    COALESCE (-SUM (CASE p.book WHEN 'earned' THEN p.amount END), 0) AS posted_earned,
    COALESCE (SUM (CASE p.book WHEN 'available' THEN p.amount END), 0) AS posted_available,
    COALESCE (SUM (CASE p.book WHEN 'reserved' THEN p.amount END), 0) AS posted_reserved,
    COALESCE (SUM (CASE p.book WHEN 'spent' THEN p.amount END), 0) AS posted_spent,
    COALESCE ((SELECT SUM (r.amount) FROM reservations AS r
               WHERE r.account_id = a.account_id AND r.state = 'active'), 0) AS held
FROM accounts AS a
LEFT JOIN transactions AS t ON t.account_id = a.account_id
LEFT JOIN postings AS p ON p.transaction_number = t.number
GROUP BY a.account_id;

CREATE TABLE clock (only INTEGER PRIMARY KEY CHECK (only = 1), offset_ms INTEGER NOT NULL);
INSERT INTO clock VALUES (1, 0);
