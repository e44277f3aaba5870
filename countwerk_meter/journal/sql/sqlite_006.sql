-- Version 6: the conditions of indexes and triggers, spelled out. SQLite writes a list of three or more words to a table
-- of its own, for each index and trigger of each row that is written.
DROP INDEX reservation_holding;
CREATE INDEX reservation_holding ON reservation (ledger, account_id)
    WHERE (state = 'requested' OR state = 'held' OR state = 'closing' OR state = 'orphan_possible');
DROP INDEX reservation_live;
CREATE INDEX reservation_live ON reservation (owner, due_at)
    WHERE (state = 'requested' OR state = 'held' OR state = 'closing' OR state = 'orphan_possible');
DROP INDEX reservation_unresolved;
CREATE INDEX reservation_unresolved ON reservation (ledger, state)
    WHERE (state = 'unresolved' OR state = 'orphan_possible');
DROP INDEX charge_live;
CREATE INDEX charge_live ON charge (owner, due_at)
    WHERE (state = 'open' OR state = 'committed' OR state = 'uncollected');
DROP INDEX charge_listed;
CREATE INDEX charge_listed ON charge (ledger, state) WHERE (state = 'unresolved' OR state = 'lost');

-- One way (I7), as before.
DROP TRIGGER reservation_one_way;
CREATE TRIGGER reservation_one_way BEFORE UPDATE ON reservation
WHEN (OLD.cancels > 0 AND NEW.confirms > OLD.confirms)
    OR (OLD.frozen IS NOT NULL AND NEW.frozen IS NOT OLD.frozen)
    OR (OLD.state <> NEW.state AND NOT CASE OLD.state
        WHEN 'requested' THEN NEW.state = 'held' OR NEW.state = 'orphan_possible' OR NEW.state = 'refused'
        WHEN 'held' THEN NEW.state = 'closing' OR NEW.state = 'expired'
        WHEN 'closing' THEN NEW.state = 'unresolved' OR NEW.state = 'confirmed' OR NEW.state = 'cancelled'
            OR NEW.state = 'expired'
        WHEN 'orphan_possible' THEN NEW.state = 'closing' OR NEW.state = 'expired'
        WHEN 'unresolved' THEN NEW.state = 'confirmed' OR NEW.state = 'closed'
        WHEN 'closed' THEN NEW.state = 'confirmed'
        ELSE 0
    END)
BEGIN
    SELECT RAISE(ABORT, 'forbidden transition of a reservation');
END;

DROP TRIGGER charge_one_way;
CREATE TRIGGER charge_one_way BEFORE UPDATE ON charge
WHEN (OLD.state = 'settled' AND NEW.amount IS NOT OLD.amount)
    OR (OLD.state <> NEW.state AND NOT CASE OLD.state
        WHEN 'open' THEN NEW.state = 'committed' OR NEW.state = 'settled' OR NEW.state = 'cancelled'
            OR NEW.state = 'denied' OR NEW.state = 'orphaned' OR NEW.state = 'lost'
        WHEN 'denied' THEN NEW.state = 'open'
        WHEN 'cancelled' THEN NEW.state = 'open'
        WHEN 'orphaned' THEN NEW.state = 'open'
        WHEN 'committed' THEN NEW.state = 'settled' OR NEW.state = 'uncollected' OR NEW.state = 'unresolved'
        WHEN 'uncollected' THEN NEW.state = 'settled' OR NEW.state = 'unresolved' OR NEW.state = 'closed'
        WHEN 'unresolved' THEN NEW.state = 'settled' OR NEW.state = 'closed'
        WHEN 'lost' THEN NEW.state = 'open' OR NEW.state = 'cancelled' OR NEW.state = 'closed'
        WHEN 'closed' THEN NEW.state = 'settled'
        ELSE 0
    END)
BEGIN
    SELECT RAISE(ABORT, 'forbidden transition of a charge');
END;
