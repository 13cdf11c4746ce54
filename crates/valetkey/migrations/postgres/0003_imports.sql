-- What was brought over from elsewhere: one row for each thing that a source held, so that a second import changes
-- nothing and an export can give back what it was called there.

CREATE TABLE imports (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    -- Where it came from: data_machine.
    source TEXT COLLATE "C" NOT NULL,
    -- What it was there, such as `account/reddit/user:3/`.
    item TEXT COLLATE "C" NOT NULL,
    -- An HMAC of its content under a key of the site's own: a plain hash would let a short password be guessed.
    digest TEXT COLLATE "C" NOT NULL,
    -- What it became here: the id of a connection, a configuration, an agent, a token; null where it became nothing.
    target TEXT COLLATE "C",
    -- JSON object: what of it has no other place here and is no secret.
    rest TEXT COLLATE "C",
    -- Where it stood in the source, from 0; an export writes in this order.
    position BIGINT NOT NULL,
    imported_at BIGINT NOT NULL,
    PRIMARY KEY (site, source, item)
);
