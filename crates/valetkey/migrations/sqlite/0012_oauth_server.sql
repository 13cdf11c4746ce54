-- The authorization server for agents: its clients, what people consented to (a family of tokens), codes, sign-ins on other
-- devices, refresh tokens. Access tokens are rows of agent_tokens like any other, so that whatever is decided of a token
-- is decided of these, too.

CREATE TABLE oauth_clients (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    -- SHA-256 of its secret; null for a public client.
    secret_hash TEXT,
    -- JSON arrays: redirect URIs, compared as whole texts; which grants of OAuth it may use.
    redirect_uris TEXT NOT NULL,
    grant_types TEXT NOT NULL,
    -- JSON object: the most that any of its tokens may do. Null is no ceiling of its own.
    ceiling TEXT,
    -- The only agent that it may act as; null is whichever the person chooses.
    agent TEXT,
    -- Since when, where it registered itself: nobody here vouches for it then.
    registered_at INTEGER,
    -- When a token was last issued to it.
    used_at INTEGER,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    revoked_by TEXT,
    PRIMARY KEY (site, id)
) STRICT;

-- Sites at which clients may register themselves (RFC 7591).
CREATE TABLE oauth_registration (
    site TEXT NOT NULL PRIMARY KEY REFERENCES sites (id),
    open_at INTEGER NOT NULL
) STRICT;

-- What a person consented to: one row for each consent. Every code, refresh token and access token that comes of it ends with it.
CREATE TABLE token_families (
    site TEXT NOT NULL,
    id TEXT NOT NULL,
    agent TEXT NOT NULL,
    -- Who consented, and for whom the tokens act.
    person TEXT NOT NULL,
    client TEXT NOT NULL,
    -- JSON object: the most that any token of the family may do.
    ceiling TEXT NOT NULL,
    -- Where its tokens are taken: api, mcp.
    audience TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- When a token of it was last issued. Writing it is how whoever issues and whoever revokes take turns.
    used_at INTEGER,
    revoked_at INTEGER,
    revoked_by TEXT,
    revoke_reason TEXT,
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id)
) STRICT;
CREATE INDEX token_families_agent ON token_families (site, agent);
CREATE INDEX token_families_person ON token_families (site, person);
CREATE INDEX token_families_client ON token_families (site, client);
CREATE INDEX token_families_age ON token_families (expires_at);

-- The OAuth client that a token was issued to, the consent that it comes of, the token that it was exchanged for, and where it
-- is taken (api, mcp). Null for a token that was minted by hand; such a token is taken everywhere.
ALTER TABLE agent_tokens ADD COLUMN client TEXT;
ALTER TABLE agent_tokens ADD COLUMN family TEXT;
ALTER TABLE agent_tokens ADD COLUMN parent TEXT;
ALTER TABLE agent_tokens ADD COLUMN audience TEXT;
CREATE INDEX agent_tokens_family ON agent_tokens (site, family) WHERE family IS NOT NULL;
CREATE INDEX agent_tokens_parent ON agent_tokens (site, parent) WHERE parent IS NOT NULL;
CREATE INDEX agent_tokens_client ON agent_tokens (site, client) WHERE client IS NOT NULL;
CREATE INDEX agent_tokens_issued ON agent_tokens (expires_at) WHERE client IS NOT NULL;
-- For the newest revocation of a site, which introspection tells.
CREATE INDEX agent_tokens_revoked ON agent_tokens (site, revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE oauth_codes (
    code_hash TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    family TEXT NOT NULL,
    -- As it stood in the authorization request; null where the client left it out.
    redirect_uri TEXT,
    -- The S256 challenge of RFC 7636.
    challenge TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    FOREIGN KEY (site, family) REFERENCES token_families (site, id)
) STRICT;
CREATE INDEX oauth_codes_age ON oauth_codes (expires_at);

CREATE TABLE oauth_devices (
    device_hash TEXT NOT NULL PRIMARY KEY,
    -- Taken again only once the old one is swept out.
    user_code_hash TEXT NOT NULL UNIQUE,
    site TEXT NOT NULL REFERENCES sites (id),
    client TEXT NOT NULL,
    -- JSON object: what is asked for.
    ceiling TEXT NOT NULL,
    audience TEXT NOT NULL,
    -- Seconds between two questions, and when the next may come.
    poll_interval INTEGER NOT NULL,
    poll_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- What the person said: the consent, or no.
    family TEXT,
    refused_at INTEGER,
    used_at INTEGER
) STRICT;
CREATE INDEX oauth_devices_age ON oauth_devices (expires_at);

CREATE TABLE oauth_refresh_tokens (
    token_hash TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    family TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- When it ends where nobody uses it.
    expires_at INTEGER NOT NULL,
    -- When it was traded for its successor.
    used_at INTEGER,
    FOREIGN KEY (site, family) REFERENCES token_families (site, id)
) STRICT;
CREATE INDEX oauth_refresh_tokens_age ON oauth_refresh_tokens (expires_at);
CREATE INDEX oauth_refresh_tokens_family ON oauth_refresh_tokens (site, family);
