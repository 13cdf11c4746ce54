-- The first schema. Times are microseconds since the Unix epoch; a "yes" is the time at which it became so.
-- Rules that keep one SQL text for two databases: text, 64-bit integers and bytes only; no defaults that compute.

CREATE TABLE sites (
    id TEXT NOT NULL PRIMARY KEY,
    title TEXT NOT NULL,
    -- JSON array: where a finished connect flow may return to, compared as whole strings.
    return_to TEXT NOT NULL,
    -- The operator's switch for links to a user's account without proof of who opened them (decisions 6).
    unproven_links_at INTEGER,
    created_at INTEGER NOT NULL,
    disabled_at INTEGER
) STRICT;

CREATE TABLE data_keys (
    site TEXT NOT NULL REFERENCES sites (id),
    provider TEXT NOT NULL,
    version INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    root_id TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    retired_at INTEGER,
    PRIMARY KEY (site, provider, version)
) STRICT;

CREATE TABLE app_configs (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    provider TEXT NOT NULL,
    owner TEXT NOT NULL,
    sealed BLOB,
    -- JSON object: the values that are no secret, and null for each secret that is set. Listings read only this.
    shown TEXT NOT NULL,
    client_id TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- Set when a newer one took its place; it stays while a connection was minted by its client (decisions 4).
    replaced_at INTEGER,
    PRIMARY KEY (site, id)
) STRICT;
CREATE UNIQUE INDEX app_configs_current ON app_configs (site, provider, owner) WHERE replaced_at IS NULL;

CREATE TABLE connections (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    provider TEXT NOT NULL,
    owner TEXT NOT NULL,
    -- Empty for the owner's default account.
    name TEXT NOT NULL,
    -- active, needs_reauth, revoked. Expired and expiring are derived.
    status TEXT NOT NULL,
    status_reason TEXT,
    -- The sealed account; gone once revoked.
    sealed BLOB,
    -- Moves only when the tokens change; what a refresh spends.
    version INTEGER NOT NULL,
    -- Moves with every change of the sealed account; what a merge compares.
    revision INTEGER NOT NULL,
    app_config_id TEXT,
    client_id TEXT,
    -- Who the account belongs to upstream, and how we know: verified, unverified, owner.
    subject TEXT,
    subject_name TEXT,
    identity TEXT NOT NULL,
    -- JSON arrays; the granted set is null while unknown.
    scopes TEXT,
    wanted_scopes TEXT NOT NULL,
    hosts TEXT NOT NULL,
    -- none, refresh_token, extend, remint.
    renewal TEXT NOT NULL,
    access_expires_at INTEGER,
    access_issued_at INTEGER,
    -- The life in seconds that the provider usually gives an access token.
    usual_life INTEGER,
    refresh_expires_at INTEGER,
    -- When the keeper should look at this row; null for never.
    refresh_at INTEGER,
    last_refreshed_at INTEGER,
    connected_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    -- The refresh lease: a number that grows, and who holds it. Nobody compares another machine's clock.
    lease_number INTEGER NOT NULL,
    lease_holder TEXT,
    -- The journal: which version is being spent under which lease.
    spending_version INTEGER,
    spending_lease INTEGER,
    -- The version for which the one recovery attempt was made.
    recovered_version INTEGER,
    failures INTEGER NOT NULL,
    retry_at INTEGER,
    last_error TEXT,
    forced_at INTEGER,
    revoked_at INTEGER,
    revoked_by TEXT,
    revoke_reason TEXT,
    PRIMARY KEY (site, id)
) STRICT;
CREATE UNIQUE INDEX connections_slot ON connections (site, provider, owner, name) WHERE status <> 'revoked';
CREATE INDEX connections_due ON connections (refresh_at) WHERE refresh_at IS NOT NULL;
CREATE INDEX connections_subject ON connections (site, provider, client_id, subject);

CREATE TABLE connect_sessions (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    link_hash TEXT NOT NULL UNIQUE,
    provider TEXT NOT NULL,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    -- JSON object: what was entered for the connection, such as its instance. Holds no secret.
    fields TEXT NOT NULL,
    agent TEXT,
    return_to TEXT,
    payload TEXT,
    -- The person said that another upstream account may take the place of the one connected before.
    new_subject_at INTEGER,
    -- The browser that was shown the page, and the person it was proven to be.
    browser_hash TEXT,
    proven_user TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    -- What became of it: `connected` or an error code; null while nothing did. And the connection, if there is one.
    outcome TEXT,
    connection TEXT,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX connect_sessions_age ON connect_sessions (expires_at);

CREATE TABLE flows (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    -- The connect session that it began with.
    session TEXT NOT NULL,
    state_hash TEXT NOT NULL UNIQUE,
    provider TEXT NOT NULL,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The PKCE verifier (or a temporary secret) and the fields entered for this connection.
    sealed BLOB NOT NULL,
    issuer TEXT,
    redirect_uri TEXT NOT NULL,
    app_config_id TEXT NOT NULL,
    scopes TEXT NOT NULL,
    browser_hash TEXT NOT NULL,
    proven_user TEXT,
    agent TEXT,
    return_to TEXT,
    payload TEXT,
    new_subject_at INTEGER,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX flows_age ON flows (expires_at);

-- Assertions that were used; kept until they could not be used again anyhow.
CREATE TABLE assertions (
    site TEXT NOT NULL REFERENCES sites (id),
    jti_hash TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (site, jti_hash)
) STRICT;

CREATE TABLE people (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    disabled_at INTEGER,
    PRIMARY KEY (site, id)
) STRICT;

CREATE TABLE agents (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    slug TEXT NOT NULL,
    title TEXT NOT NULL,
    owner_user TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    disabled_at INTEGER,
    deleted_at INTEGER,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX agents_slug ON agents (site, slug);

CREATE TABLE agent_access (
    site TEXT NOT NULL,
    agent TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- viewer, operator, admin.
    role TEXT NOT NULL,
    granted_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (site, agent, user_id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id)
) STRICT;

CREATE TABLE agent_tokens (
    site TEXT NOT NULL,
    id TEXT NOT NULL,
    agent TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    label TEXT NOT NULL,
    -- The person it was minted for; null is unattended.
    person TEXT,
    -- Whose live role on the agent it needs; null where a platform key or the operator minted it.
    minter TEXT,
    -- JSON object; null is no ceiling of its own.
    ceiling TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER,
    revoked_by TEXT,
    revoke_reason TEXT,
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id)
) STRICT;
CREATE INDEX agent_tokens_agent ON agent_tokens (site, agent);

CREATE TABLE grants (
    site TEXT NOT NULL,
    id TEXT NOT NULL,
    agent TEXT NOT NULL,
    connection TEXT NOT NULL,
    -- JSON: "owner", "unattended", "operators" or a list of user ids.
    for_whom TEXT NOT NULL,
    -- JSON array of proxy, reveal.
    delivery TEXT NOT NULL,
    -- JSON arrays; null is no narrowing.
    scopes TEXT,
    operations TEXT,
    max_uses INTEGER,
    uses INTEGER NOT NULL,
    expires_at INTEGER,
    note TEXT NOT NULL,
    -- The person who granted it; null where a platform key or the operator did.
    grantor TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    revoked_by TEXT,
    revoke_reason TEXT,
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id),
    FOREIGN KEY (site, connection) REFERENCES connections (site, id)
) STRICT;
CREATE INDEX grants_use ON grants (site, agent, connection);
CREATE INDEX grants_connection ON grants (site, connection);

CREATE TABLE platform_keys (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    label TEXT NOT NULL,
    -- JSON array of scopes, and JSON "none", "any" or a list of user ids.
    scopes TEXT NOT NULL,
    asserts TEXT NOT NULL,
    -- The secret by which its platform signs assertions.
    sealed BLOB NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER,
    revoked_by TEXT,
    PRIMARY KEY (site, id)
) STRICT;

-- Upstream revocations owed: kept with what they need until they are done.
CREATE TABLE revocations (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    provider TEXT NOT NULL,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    connection TEXT NOT NULL,
    app_config_id TEXT,
    sealed BLOB,
    -- pending, revoked, unsupported, skipped, failed.
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER,
    last_error TEXT,
    created_at INTEGER NOT NULL,
    done_at INTEGER,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX revocations_due ON revocations (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX revocations_connection ON revocations (site, connection);

-- Append-only; one keyed chain per (site, writer).
CREATE TABLE audit (
    site TEXT NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    agent TEXT,
    connection TEXT,
    -- JSON object: further facts, never a secret and never a body.
    facts TEXT NOT NULL,
    chain BLOB NOT NULL,
    PRIMARY KEY (site, writer, seq)
) STRICT;
CREATE INDEX audit_time ON audit (site, at);
