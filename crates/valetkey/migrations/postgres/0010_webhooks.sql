-- Webhooks: where a site wants to be told what happened, what there is to tell, and how that goes.

CREATE TABLE webhooks (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    title TEXT COLLATE "C" NOT NULL,
    url TEXT COLLATE "C" NOT NULL,
    -- JSON array of types of events; null is all of them.
    events TEXT COLLATE "C",
    -- JSON object: the secret that signs, and the one before it.
    sealed BYTEA NOT NULL,
    -- Until when the secret before signs, too.
    old_secret_until BIGINT,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- Since when no attempt was answered with a yes; null after one that was.
    failing_since BIGINT,
    disabled_at BIGINT,
    -- by_hand, gone, failing.
    disabled_why TEXT COLLATE "C",
    PRIMARY KEY (site, id)
);

-- Written in the transaction of what they tell of.
CREATE TABLE webhook_messages (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    id TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    -- What is sent and signed, byte for byte.
    body TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (site, id)
);
CREATE INDEX webhook_messages_time ON webhook_messages (site, at);

-- No foreign key on the webhook: a change must not fail because somebody removes an endpoint at the same moment.
CREATE TABLE webhook_deliveries (
    site TEXT COLLATE "C" NOT NULL,
    webhook TEXT COLLATE "C" NOT NULL,
    message TEXT COLLATE "C" NOT NULL,
    -- pending, delivered, failed, stopped.
    status TEXT COLLATE "C" NOT NULL,
    -- How often it was tried since it was queued, or queued again.
    attempts BIGINT NOT NULL,
    -- Grows with every claim and never shrinks: what a late settlement compares.
    claim BIGINT NOT NULL,
    -- When it is tried next. Null while it is claimed (0016), and when nothing is to be done.
    next_at BIGINT,
    last_status BIGINT,
    last_error TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (site, webhook, message),
    FOREIGN KEY (site, message) REFERENCES webhook_messages (site, id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (site, webhook, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX webhook_deliveries_message ON webhook_deliveries (site, message);
