-- Since when only certificates that are on record count for a user: all others were revoked then.
ALTER TABLE users ADD COLUMN revoked REAL;
