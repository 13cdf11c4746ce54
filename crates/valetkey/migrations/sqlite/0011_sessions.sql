-- Signing in: sessions of people, where a site's people sign in, and keys with which a platform signs assertions itself.

CREATE TABLE sessions (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    -- SHA-256 of what the browser's cookie holds.
    secret_hash TEXT NOT NULL UNIQUE,
    person TEXT NOT NULL,
    -- The platform key that vouched for the person; the session ends with it. Null where another proof opened it.
    platform_key TEXT,
    opened_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX sessions_person ON sessions (site, person);
CREATE INDEX sessions_age ON sessions (expires_at);

-- The platform's page that signs people in; null where nobody can sign in.
ALTER TABLE sites ADD COLUMN signin_url TEXT;

-- Where the platform's public keys are (RFC 7517), what was last read there and when, and when somebody last set out to read.
-- Null where the platform signs with the key's own secret.
ALTER TABLE platform_keys ADD COLUMN jwks_url TEXT;
ALTER TABLE platform_keys ADD COLUMN jwks TEXT;
ALTER TABLE platform_keys ADD COLUMN jwks_at INTEGER;
ALTER TABLE platform_keys ADD COLUMN jwks_asked_at INTEGER;
