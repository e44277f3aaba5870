-- Version 3: one account's charges, for explaining a bill and for adding up what a shadow meter would have charged.
CREATE INDEX charge_account ON charge (ledger, account_id, created_at);
