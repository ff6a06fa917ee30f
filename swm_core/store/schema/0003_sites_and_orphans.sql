-- What is decided of sites, and what sites have that the core does not know.

CREATE TABLE sites (
    site      TEXT PRIMARY KEY,
    drained   INTEGER NOT NULL,        -- whether an administrator has it take no new jobs
    scope_uid TEXT NOT NULL            -- the account scope that its gate told first; empty: none yet
) WITHOUT ROWID;

CREATE TABLE orphans (
    site      TEXT NOT NULL,
    kind      TEXT NOT NULL,           -- PARTITION, JOB
    orphan_id TEXT NOT NULL,           -- the partition's id, or JOB/ATTEMPT
    record    TEXT NOT NULL,
    PRIMARY KEY (site, kind, orphan_id)
) WITHOUT ROWID;

-- Whether what a generation made and this store lacks may be deleted. Not if the store was copied or put back from
-- a backup meanwhile: then it lacks what the other copy knows.
ALTER TABLE generations ADD COLUMN trusted INTEGER NOT NULL DEFAULT 1;
