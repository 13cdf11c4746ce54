-- How many times tokens of a site were revoked: a number that grows whatever the clocks of replicas say. It begins where the newest
-- moment of a revocation stood that was told before, so that nobody who keeps an answer sees it fall. A release that does not know
-- this table would revoke without counting, so an older one does not start on this schema.
CREATE TABLE token_revocations (
    site TEXT NOT NULL PRIMARY KEY REFERENCES sites (id),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO token_revocations (site, epoch)
    SELECT site, MAX(revoked_at) FROM agent_tokens WHERE revoked_at IS NOT NULL GROUP BY site;
-- It served that moment alone.
DROP INDEX agent_tokens_revoked;
