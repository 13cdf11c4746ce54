-- The keeper looks provider by provider, so that a slow one holds up no other.
DROP INDEX connections_due;
CREATE INDEX connections_due ON connections (provider, refresh_at, site, id) WHERE refresh_at IS NOT NULL;
