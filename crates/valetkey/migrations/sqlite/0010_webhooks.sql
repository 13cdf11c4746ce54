-- Webhooks: where a site wants to be told what happened, what there is to tell, and how that goes.

CREATE TABLE webhooks (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    title TEXT NOT NULL,
    url TEXT NOT NULL,
    -- JSON array of types of events; null is all of them.
    events TEXT,
    -- JSON object: the secret that signs, and the one before it.
    sealed BLOB NOT NULL,
    -- Until when the secret before signs, too.
    old_secret_until INTEGER,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- Since when no attempt was answered with a yes; null after one that was.
    failing_since INTEGER,
    disabled_at INTEGER,
    -- by_hand, gone, failing.
    disabled_why TEXT,
    PRIMARY KEY (site, id)
) STRICT;

-- Written in the transaction of what they tell of.
CREATE TABLE webhook_messages (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- What is sent and signed, byte for byte.
    body TEXT NOT NULL,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX webhook_messages_time ON webhook_messages (site, at);

-- No foreign key on the webhook: a change must not fail because somebody removes an endpoint at the same moment.
CREATE TABLE webhook_deliveries (
    site TEXT NOT NULL,
    webhook TEXT NOT NULL,
    message TEXT NOT NULL,
    -- pending, delivered, failed, stopped.
    status TEXT NOT NULL,
    -- How often it was tried since it was queued, or queued again.
    attempts INTEGER NOT NULL,
    -- Grows with every claim and never shrinks: what a late settlement compares.
    claim INTEGER NOT NULL,
    -- When it is tried next. Null while it is claimed (0016), and when nothing is to be done.
    next_at INTEGER,
    last_status INTEGER,
    last_error TEXT,
    created_at INTEGER NOT NULL,
    done_at INTEGER,
    PRIMARY KEY (site, webhook, message),
    FOREIGN KEY (site, message) REFERENCES webhook_messages (site, id)
) STRICT;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (site, webhook, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX webhook_deliveries_message ON webhook_deliveries (site, message);
