-- Where our own calls take a connection's tokens and its client's secret once it is connected: the hosts, with their ports, that
-- renew it, revoke it or read its lists, as its definition named them when it was connected. A definition that names another one
-- later is followed only after the operator accepted that. JSON array; null where nothing is fixed yet: rows of an older release,
-- which a new start goes through and fixes by the definitions that it was started with.
ALTER TABLE connections ADD COLUMN call_hosts TEXT COLLATE "C";
CREATE INDEX connections_open_calls ON connections (site, id) WHERE call_hosts IS NULL AND status <> 'revoked';
-- The same for what an ended connection still owes; null in rows that an older release wrote.
ALTER TABLE revocations ADD COLUMN call_hosts TEXT COLLATE "C";
