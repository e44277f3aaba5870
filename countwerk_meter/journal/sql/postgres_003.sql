-- Version 3: how many transactions each writer has committed: the proof of one whose answer was lost.
-- A transaction's id alone is none: after a crash of the server it may be another one's.
CREATE TABLE countwerk_writer (
    id TEXT PRIMARY KEY,
    written BIGINT NOT NULL,
    at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
