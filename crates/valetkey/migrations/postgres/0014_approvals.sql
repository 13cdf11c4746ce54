-- Calls that wait for a person's word, and what agents ask to be granted.

CREATE TABLE approvals (
    site TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    -- The token that the call came with, and the person it was made for; null where nobody is calling.
    token TEXT COLLATE "C" NOT NULL,
    person TEXT COLLATE "C",
    connection TEXT COLLATE "C" NOT NULL,
    -- The grant that asks.
    grant_id TEXT COLLATE "C" NOT NULL,
    -- A keyed digest of everything that is to go out.
    digest TEXT COLLATE "C" NOT NULL,
    -- JSON object: what is shown of the call. No body, and no value of the query.
    summary TEXT COLLATE "C" NOT NULL,
    -- pending, approved, refused, used, expired. Expired is derived, too, until that is recorded.
    status TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    decided_at BIGINT,
    decided_by TEXT COLLATE "C",
    decide_reason TEXT COLLATE "C",
    used_at BIGINT,
    -- Null while it stands for its call: of one call there is one such row.
    closed_at BIGINT,
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id),
    FOREIGN KEY (site, connection) REFERENCES connections (site, id)
);
CREATE UNIQUE INDEX approvals_open ON approvals (site, agent, digest) WHERE closed_at IS NULL;
CREATE INDEX approvals_age ON approvals (site, created_at, id);
CREATE INDEX approvals_connection ON approvals (site, connection);
CREATE INDEX approvals_end ON approvals (expires_at);

CREATE TABLE proposals (
    site TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    token TEXT COLLATE "C" NOT NULL,
    person TEXT COLLATE "C",
    -- The person who is asked; null where whoever administers the site is.
    addressee TEXT COLLATE "C",
    provider TEXT COLLATE "C" NOT NULL,
    -- The connection that is asked for, or granted; null where any account of the addressee's will do.
    connection TEXT COLLATE "C",
    -- SHA-256 of what is asked for.
    digest TEXT COLLATE "C" NOT NULL,
    -- JSON object: what is asked for.
    wanted TEXT COLLATE "C" NOT NULL,
    -- Why, in the agent's words.
    reason TEXT COLLATE "C" NOT NULL,
    -- pending, accepted, refused. Expired is derived.
    status TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    decided_at BIGINT,
    decided_by TEXT COLLATE "C",
    decide_reason TEXT COLLATE "C",
    -- What came of it.
    grant_id TEXT COLLATE "C",
    -- Null while it stands for what it asks: of one wish there is one such row.
    closed_at BIGINT,
    PRIMARY KEY (site, id),
    FOREIGN KEY (site, agent) REFERENCES agents (site, id),
    FOREIGN KEY (site, connection) REFERENCES connections (site, id)
);
CREATE UNIQUE INDEX proposals_open ON proposals (site, agent, digest) WHERE closed_at IS NULL;
CREATE INDEX proposals_age ON proposals (site, created_at, id);
CREATE INDEX proposals_end ON proposals (expires_at);
