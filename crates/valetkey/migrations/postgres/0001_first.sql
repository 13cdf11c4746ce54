-- The first schema. Times are microseconds since the Unix epoch; a "yes" is the time at which it became so.
-- Rules that keep one SQL text for two databases: text, 64-bit integers and bytes only; no defaults that compute.

CREATE TABLE sites (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    title TEXT COLLATE "C" NOT NULL,
    -- JSON array: where a finished connect flow may return to, compared as whole strings.
    return_to TEXT COLLATE "C" NOT NULL,
    -- The operator's switch for links to a user's account without proof of who opened them (decisions 6).
    unproven_links_at BIGINT,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT
);

CREATE TABLE data_keys (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    provider TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    root_id TEXT COLLATE "C" NOT NULL,
    wrapped BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    retired_at BIGINT,
    PRIMARY KEY (site, provider, version)
);

CREATE TABLE app_configs (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    sealed BYTEA,
    -- JSON object: the values that are no secret, and null for each secret that is set. Listings read only this.
    shown TEXT COLLATE "C" NOT NULL,
    client_id TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- Set when a newer one took its place; it stays while a connection was minted by its client (decisions 4).
    replaced_at BIGINT,
    PRIMARY KEY (site, id)
);
CREATE UNIQUE INDEX app_configs_current ON app_configs (site, provider, owner) WHERE replaced_at IS NULL;

CREATE TABLE connections (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    -- Empty for the owner's default account.
    name TEXT COLLATE "C" NOT NULL,
    -- active, needs_reauth, revoked. Expired and expiring are derived.
    status TEXT COLLATE "C" NOT NULL,
    status_reason TEXT COLLATE "C",
    -- The sealed account; gone once revoked.
    sealed BYTEA,
    -- Moves only when the tokens change; what a refresh spends.
    version BIGINT NOT NULL,
    -- Moves with every change of the sealed account; what a merge compares.
    revision BIGINT NOT NULL,
    app_config_id TEXT COLLATE "C",
    client_id TEXT COLLATE "C",
    -- Who the account belongs to upstream, and how we know: verified, unverified, owner.
    subject TEXT COLLATE "C",
    subject_name TEXT COLLATE "C",
    identity TEXT COLLATE "C" NOT NULL,
    -- JSON arrays; the granted set is null while unknown.
    scopes TEXT COLLATE "C",
    wanted_scopes TEXT COLLATE "C" NOT NULL,
    hosts TEXT COLLATE "C" NOT NULL,
    -- none, refresh_token, extend, remint.
    renewal TEXT COLLATE "C" NOT NULL,
    access_expires_at BIGINT,
    access_issued_at BIGINT,
    -- The life in seconds that the provider usually gives an access token.
    usual_life BIGINT,
    refresh_expires_at BIGINT,
    -- When the keeper should look at this row; null for never.
    refresh_at BIGINT,
    last_refreshed_at BIGINT,
    connected_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    -- The refresh lease: a number that grows, and who holds it. Nobody compares another machine's clock.
    lease_number BIGINT NOT NULL,
    lease_holder TEXT COLLATE "C",
    -- The journal: which version is being spent under which lease.
    spending_version BIGINT,
    spending_lease BIGINT,
    -- The version for which the one recovery attempt was made.
    recovered_version BIGINT,
    failures BIGINT NOT NULL,
    retry_at BIGINT,
    last_error TEXT COLLATE "C",
    forced_at BIGINT,
    revoked_at BIGINT,
    revoked_by TEXT COLLATE "C",
    revoke_reason TEXT COLLATE "C",
    PRIMARY KEY (site, id)
);
CREATE UNIQUE INDEX connections_slot ON connections (site, provider, owner, name) WHERE status <> 'revoked';
CREATE INDEX connections_due ON connections (refresh_at) WHERE refresh_at IS NOT NULL;
CREATE INDEX connections_subject ON connections (site, provider, client_id, subject);

CREATE TABLE connect_sessions (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    link_hash TEXT COLLATE "C" NOT NULL UNIQUE,
    provider TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    scopes TEXT COLLATE "C" NOT NULL,
    -- JSON object: what was entered for the connection, such as its instance. Holds no secret.
    fields TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C",
    return_to TEXT COLLATE "C",
    payload TEXT COLLATE "C",
    -- The person said that another upstream account may take the place of the one connected before.
    new_subject_at BIGINT,
    -- The browser that was shown the page, and the person it was proven to be.
    browser_hash TEXT COLLATE "C",
    proven_user TEXT COLLATE "C",
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    -- What became of it: `connected` or an error code; null while nothing did. And the connection, if there is one.
    outcome TEXT COLLATE "C",
    connection TEXT COLLATE "C",
    PRIMARY KEY (site, id)
);
CREATE INDEX connect_sessions_age ON connect_sessions (expires_at);

CREATE TABLE flows (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    -- The connect session that it began with.
    session TEXT COLLATE "C" NOT NULL,
    state_hash TEXT COLLATE "C" NOT NULL UNIQUE,
    provider TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    -- The PKCE verifier (or a temporary secret) and the fields entered for this connection.
    sealed BYTEA NOT NULL,
    issuer TEXT COLLATE "C",
    redirect_uri TEXT COLLATE "C" NOT NULL,
    app_config_id TEXT COLLATE "C" NOT NULL,
    scopes TEXT COLLATE "C" NOT NULL,
    browser_hash TEXT COLLATE "C" NOT NULL,
    proven_user TEXT COLLATE "C",
    agent TEXT COLLATE "C",
    return_to TEXT COLLATE "C",
    payload TEXT COLLATE "C",
    new_subject_at BIGINT,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (site, id)
);
CREATE INDEX flows_age ON flows (expires_at);

-- Assertions that were used; kept until they could not be used again anyhow.
CREATE TABLE assertions (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    jti_hash TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (site, jti_hash)
);

CREATE TABLE people (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT,
    PRIMARY KEY (site, id)
);

CREATE TABLE agents (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    slug TEXT COLLATE "C" NOT NULL,
    title TEXT COLLATE "C" NOT NULL,
    owner_user TEXT COLLATE "C",
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT,
    deleted_at BIGINT,
    PRIMARY KEY (site, id)
);
CREATE INDEX agents_slug ON agents (site, slug);

CREATE TABLE agent_access (
    site TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    -- viewer, operator, admin.
    role TEXT COLLATE "C" NOT NULL,
    granted_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (site, agent, user_id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id)
);

CREATE TABLE agent_tokens (
    site TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    token_hash TEXT COLLATE "C" NOT NULL UNIQUE,
    prefix TEXT COLLATE "C" NOT NULL,
    label TEXT COLLATE "C" NOT NULL,
    -- The person it was minted for; null is unattended.
    person TEXT COLLATE "C",
    -- Whose live role on the agent it needs; null where a platform key or the operator minted it.
    minter TEXT COLLATE "C",
    -- JSON object; null is no ceiling of its own.
    ceiling TEXT COLLATE "C",
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT,
    revoked_by TEXT COLLATE "C",
    revoke_reason TEXT COLLATE "C",
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id)
);
CREATE INDEX agent_tokens_agent ON agent_tokens (site, agent);

CREATE TABLE grants (
    site TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    -- JSON: "owner", "unattended", "operators" or a list of user ids.
    for_whom TEXT COLLATE "C" NOT NULL,
    -- JSON array of proxy, reveal.
    delivery TEXT COLLATE "C" NOT NULL,
    -- JSON arrays; null is no narrowing.
    scopes TEXT COLLATE "C",
    operations TEXT COLLATE "C",
    max_uses BIGINT,
    uses BIGINT NOT NULL,
    expires_at BIGINT,
    note TEXT COLLATE "C" NOT NULL,
    -- The person who granted it; null where a platform key or the operator did.
    grantor TEXT COLLATE "C",
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    revoked_by TEXT COLLATE "C",
    revoke_reason TEXT COLLATE "C",
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id),
    FOREIGN KEY (site, connection) REFERENCES connections (site, id)
);
CREATE INDEX grants_use ON grants (site, agent, connection);
CREATE INDEX grants_connection ON grants (site, connection);

CREATE TABLE platform_keys (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    key_hash TEXT COLLATE "C" NOT NULL UNIQUE,
    prefix TEXT COLLATE "C" NOT NULL,
    label TEXT COLLATE "C" NOT NULL,
    -- JSON array of scopes, and JSON "none", "any" or a list of user ids.
    scopes TEXT COLLATE "C" NOT NULL,
    asserts TEXT COLLATE "C" NOT NULL,
    -- The secret by which its platform signs assertions.
    sealed BYTEA NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT,
    revoked_by TEXT COLLATE "C",
    PRIMARY KEY (site, id)
);

-- Upstream revocations owed: kept with what they need until they are done.
CREATE TABLE revocations (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    app_config_id TEXT COLLATE "C",
    sealed BYTEA,
    -- pending, revoked, unsupported, skipped, failed.
    status TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT,
    last_error TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (site, id)
);
CREATE INDEX revocations_due ON revocations (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX revocations_connection ON revocations (site, connection);

-- Append-only; one keyed chain per (site, writer).
CREATE TABLE audit (
    site TEXT COLLATE "C" NOT NULL,
    writer TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    outcome TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C",
    connection TEXT COLLATE "C",
    -- JSON object: further facts, never a secret and never a body.
    facts TEXT COLLATE "C" NOT NULL,
    chain BYTEA NOT NULL,
    PRIMARY KEY (site, writer, seq)
);
CREATE INDEX audit_time ON audit (site, at);
