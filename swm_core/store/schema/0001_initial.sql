-- The first schema. Columns are what is searched by; everything else of an object is JSON in its `record`.
-- A file that has been released is never edited: what changes later is a migration with the next number.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- One row for each start of a core on this store.
CREATE TABLE generations (
    number     INTEGER PRIMARY KEY,
    generation TEXT NOT NULL,
    time       REAL NOT NULL
);

CREATE TABLE jobs (
    number                 INTEGER PRIMARY KEY,   -- order of submission, and the key of pages
    job_id                 TEXT NOT NULL UNIQUE,
    owner                  TEXT NOT NULL,
    request_id             TEXT NOT NULL,         -- empty: none was given
    fingerprint            TEXT NOT NULL,
    state                  TEXT NOT NULL,
    ended_time             REAL,                  -- NULL: active
    site                   TEXT NOT NULL,
    submit_sequence        INTEGER NOT NULL,
    last_sequence          INTEGER NOT NULL,
    manifest_sha256        TEXT NOT NULL,
    output_manifest_sha256 TEXT NOT NULL,
    spec                   TEXT NOT NULL,         -- never changes
    record                 TEXT NOT NULL
);
CREATE UNIQUE INDEX jobs_request ON jobs (owner, request_id) WHERE request_id <> '';
CREATE INDEX jobs_owner ON jobs (owner, number);
CREATE INDEX jobs_active ON jobs (owner, number) WHERE ended_time IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_time) WHERE ended_time IS NOT NULL;

-- Up to 1 MiB each, so apart from the rows that change often.
CREATE TABLE scripts (
    number INTEGER PRIMARY KEY,
    script BLOB NOT NULL
);

-- Values are erased (and overwritten, by secure_delete) when the job ends; names stay, for a requeue to ask for them.
CREATE TABLE secrets (
    number INTEGER NOT NULL,
    name   TEXT NOT NULL,
    value  TEXT,
    PRIMARY KEY (number, name)
) WITHOUT ROWID;

-- Outlives its job: what it used was used, and its folder at the site may still have to be removed.
CREATE TABLE attempts (
    job_id       TEXT NOT NULL,
    attempt      INTEGER NOT NULL,
    owner        TEXT NOT NULL,
    site         TEXT NOT NULL,
    partition_id TEXT NOT NULL,
    allocations  TEXT NOT NULL,          -- JSON array of domain.Allocation
    place_time   REAL NOT NULL,
    start_time   REAL,
    end_time     REAL,
    outcome      TEXT NOT NULL,          -- empty: under way
    finish       TEXT NOT NULL,          -- JSON of domain.End, or empty
    failure      TEXT NOT NULL,          -- JSON of domain.Failure, or empty
    to_remove    INTEGER NOT NULL,       -- whether the site may still have its folder
    PRIMARY KEY (job_id, attempt)
) WITHOUT ROWID;
CREATE INDEX attempts_to_remove ON attempts (site, place_time) WHERE to_remove = 1 AND outcome <> '';

-- No other index than the order: a watcher reads on from where it was, and every index makes each submit dearer.
CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY,      -- never given twice, because the latest row is never deleted
    time       REAL NOT NULL,
    job_id     TEXT NOT NULL,
    owner      TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    from_state TEXT,
    to_state   TEXT NOT NULL,
    kind       TEXT NOT NULL,
    reason     TEXT NOT NULL,
    message    TEXT NOT NULL
);

CREATE TABLE partitions (
    number       INTEGER PRIMARY KEY,
    partition_id TEXT NOT NULL UNIQUE,
    site         TEXT NOT NULL,
    owner        TEXT NOT NULL,
    state        TEXT NOT NULL,
    revision     INTEGER NOT NULL,
    record       TEXT NOT NULL
);
CREATE INDEX partitions_state ON partitions (state, number);
CREATE INDEX partitions_site ON partitions (site, number);

-- What a gate said of the identity of a work root, to be sent back with every call.
CREATE TABLE roots (
    site         TEXT NOT NULL,
    partition_id TEXT NOT NULL,
    node         TEXT NOT NULL,
    owner        TEXT NOT NULL,
    root_uid     TEXT NOT NULL,
    PRIMARY KEY (site, partition_id, node, owner)
) WITHOUT ROWID;

CREATE TABLE users (
    name    TEXT PRIMARY KEY,
    admin   INTEGER NOT NULL,
    created REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE certificates (
    serial    TEXT PRIMARY KEY,
    user      TEXT NOT NULL,           -- may be gone from users: its certificates stay known as revoked
    not_after REAL NOT NULL,
    revoked   REAL
) WITHOUT ROWID;
CREATE INDEX certificates_user ON certificates (user);
