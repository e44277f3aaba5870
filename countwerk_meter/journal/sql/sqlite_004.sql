-- Version 4: how many tokens the answers of an operation and a model had, by size; an account of '' is everybody's.
CREATE TABLE output_history (
    ledger TEXT NOT NULL,
    account_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    model TEXT NOT NULL,
    sizes TEXT NOT NULL,
    PRIMARY KEY (ledger, account_id, operation, model)
) STRICT, WITHOUT ROWID;
