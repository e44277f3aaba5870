-- Version 4: an account's charges are looked up in two ways, each with an index of its own. One for both was chosen for
-- what an account owes as well, and read, and so locked against others' commits, all that it was ever charged.
DROP INDEX countwerk_charge_account;
CREATE INDEX countwerk_charge_account ON countwerk_charge (ledger, account_id)
    WHERE state IN ('committed', 'settled');
-- And by date first: a server that has no statistics yet takes an index that begins with the ledger for any lookup.
DROP INDEX countwerk_charge_newest;
CREATE INDEX countwerk_charge_newest ON countwerk_charge (created_at, ledger);
