-- Flows in which the person signs in on another device (RFC 8628), what a person chose from a provider's lists, apps that
-- were registered at an instance, and which connections a warning was given for.

-- The person signs in on another device.
ALTER TABLE connect_sessions ADD COLUMN device_at INTEGER;

-- When the provider is to be asked next whether the person is done, how long to wait between two questions (seconds), and
-- which question is the last that somebody asked. Null where a flow comes back by a browser.
ALTER TABLE flows ADD COLUMN poll_at INTEGER;
ALTER TABLE flows ADD COLUMN poll_interval INTEGER;
ALTER TABLE flows ADD COLUMN poll_number INTEGER;
CREATE INDEX flows_due ON flows (poll_at) WHERE poll_at IS NOT NULL;
CREATE INDEX flows_session ON flows (site, session);

-- JSON object: for each list of the provider's the entries that were chosen, with id and label. Their tokens are sealed.
ALTER TABLE connections ADD COLUMN resources TEXT;
-- The end of life that the owner was warned of.
ALTER TABLE connections ADD COLUMN warned_end INTEGER;
CREATE INDEX connections_refresh_end ON connections (refresh_expires_at) WHERE refresh_expires_at IS NOT NULL;

-- Apps that were registered at an instance: one for each request, so that another callback or other scopes are another app.
CREATE TABLE registrations (
    site TEXT NOT NULL REFERENCES sites (id),
    provider TEXT NOT NULL,
    -- SHA-256 of the request: where to, and what it says.
    digest TEXT NOT NULL,
    -- Scheme, host and port of the instance.
    instance TEXT NOT NULL,
    -- The app configuration that holds what came back; null while somebody registers.
    app_config_id TEXT,
    -- Until when whoever registers has the word.
    busy_until INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (site, provider, digest)
) STRICT;
