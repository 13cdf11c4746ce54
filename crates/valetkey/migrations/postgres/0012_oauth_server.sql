-- The authorization server for agents: its clients, what people consented to (a family of tokens), codes, sign-ins on other
-- devices, refresh tokens. Access tokens are rows of agent_tokens like any other, so that whatever is decided of a token
-- is decided of these, too.

CREATE TABLE oauth_clients (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    name TEXT COLLATE "C" NOT NULL,
    -- SHA-256 of its secret; null for a public client.
    secret_hash TEXT COLLATE "C",
    -- JSON arrays: redirect URIs, compared as whole texts; which grants of OAuth it may use.
    redirect_uris TEXT COLLATE "C" NOT NULL,
    grant_types TEXT COLLATE "C" NOT NULL,
    -- JSON object: the most that any of its tokens may do. Null is no ceiling of its own.
    ceiling TEXT COLLATE "C",
    -- The only agent that it may act as; null is whichever the person chooses.
    agent TEXT COLLATE "C",
    -- Since when, where it registered itself: nobody here vouches for it then.
    registered_at BIGINT,
    -- When a token was last issued to it.
    used_at BIGINT,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    revoked_by TEXT COLLATE "C",
    PRIMARY KEY (site, id)
);

-- Sites at which clients may register themselves (RFC 7591).
CREATE TABLE oauth_registration (
    site TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES sites (id),
    open_at BIGINT NOT NULL
);

-- What a person consented to: one row for each consent. Every code, refresh token and access token that comes of it ends with it.
CREATE TABLE token_families (
    site TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    -- Who consented, and for whom the tokens act.
    person TEXT COLLATE "C" NOT NULL,
    client TEXT COLLATE "C" NOT NULL,
    -- JSON object: the most that any token of the family may do.
    ceiling TEXT COLLATE "C" NOT NULL,
    -- Where its tokens are taken: api, mcp.
    audience TEXT COLLATE "C" NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- When a token of it was last issued. Writing it is how whoever issues and whoever revokes take turns.
    used_at BIGINT,
    revoked_at BIGINT,
    revoked_by TEXT COLLATE "C",
    revoke_reason TEXT COLLATE "C",
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id)
);
CREATE INDEX token_families_agent ON token_families (site, agent);
CREATE INDEX token_families_person ON token_families (site, person);
CREATE INDEX token_families_client ON token_families (site, client);
CREATE INDEX token_families_age ON token_families (expires_at);

-- The OAuth client that a token was issued to, the consent that it comes of, the token that it was exchanged for, and where it
-- is taken (api, mcp). Null for a token that was minted by hand; such a token is taken everywhere.
ALTER TABLE agent_tokens ADD COLUMN client TEXT COLLATE "C";
ALTER TABLE agent_tokens ADD COLUMN family TEXT COLLATE "C";
ALTER TABLE agent_tokens ADD COLUMN parent TEXT COLLATE "C";
ALTER TABLE agent_tokens ADD COLUMN audience TEXT COLLATE "C";
CREATE INDEX agent_tokens_family ON agent_tokens (site, family) WHERE family IS NOT NULL;
CREATE INDEX agent_tokens_parent ON agent_tokens (site, parent) WHERE parent IS NOT NULL;
CREATE INDEX agent_tokens_client ON agent_tokens (site, client) WHERE client IS NOT NULL;
CREATE INDEX agent_tokens_issued ON agent_tokens (expires_at) WHERE client IS NOT NULL;
-- For the newest revocation of a site, which introspection tells.
CREATE INDEX agent_tokens_revoked ON agent_tokens (site, revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE oauth_codes (
    code_hash TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    site TEXT COLLATE "C" NOT NULL,
    family TEXT COLLATE "C" NOT NULL,
    -- As it stood in the authorization request; null where the client left it out.
    redirect_uri TEXT COLLATE "C",
    -- The S256 challenge of RFC 7636.
    challenge TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    FOREIGN KEY (site, family) REFERENCES token_families (site, id)
);
CREATE INDEX oauth_codes_age ON oauth_codes (expires_at);

CREATE TABLE oauth_devices (
    device_hash TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- Taken again only once the old one is swept out.
    user_code_hash TEXT COLLATE "C" NOT NULL UNIQUE,
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    client TEXT COLLATE "C" NOT NULL,
    -- JSON object: what is asked for.
    ceiling TEXT COLLATE "C" NOT NULL,
    audience TEXT COLLATE "C" NOT NULL,
    -- Seconds between two questions, and when the next may come.
    poll_interval BIGINT NOT NULL,
    poll_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- What the person said: the consent, or no.
    family TEXT COLLATE "C",
    refused_at BIGINT,
    used_at BIGINT
);
CREATE INDEX oauth_devices_age ON oauth_devices (expires_at);

CREATE TABLE oauth_refresh_tokens (
    token_hash TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    site TEXT COLLATE "C" NOT NULL,
    family TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    -- When it ends where nobody uses it.
    expires_at BIGINT NOT NULL,
    -- When it was traded for its successor.
    used_at BIGINT,
    FOREIGN KEY (site, family) REFERENCES token_families (site, id)
);
CREATE INDEX oauth_refresh_tokens_age ON oauth_refresh_tokens (expires_at);
CREATE INDEX oauth_refresh_tokens_family ON oauth_refresh_tokens (site, family);
