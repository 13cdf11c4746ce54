-- What a grant does where it fits: 'allow', 'ask' (a person approves each use) or 'deny'. A release that does not know the
-- column would take a denial for a permission, so none may run on this schema.
ALTER TABLE grants ADD COLUMN effect TEXT COLLATE "C" NOT NULL DEFAULT 'allow';
-- At most so many uses in any stretch of so much time, such as 100/1h.
ALTER TABLE grants ADD COLUMN rate TEXT COLLATE "C";
-- Only for tokens that were minted for this session, or for this task.
ALTER TABLE grants ADD COLUMN session_name TEXT COLLATE "C";
ALTER TABLE grants ADD COLUMN task_name TEXT COLLATE "C";
-- JSON array: the provider's names of operations that some of the patterns came from, for people.
ALTER TABLE grants ADD COLUMN operation_names TEXT COLLATE "C";
-- The connection's, which never changes: what an agent may use at a provider is found without a look at everything else.
ALTER TABLE grants ADD COLUMN provider TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE grants SET provider = (SELECT c.provider FROM connections c WHERE c.site = grants.site AND c.id = grants.connection);
CREATE INDEX grants_provider ON grants (site, agent, provider, connection)
    WHERE revoked_at IS NULL AND effect <> 'deny' AND for_whom <> '"owner"';
-- With the agent, so that who may use a connection is found in the order in which it is listed.
DROP INDEX grants_connection;
CREATE INDEX grants_connection ON grants (site, connection, agent);

ALTER TABLE agent_tokens ADD COLUMN session_name TEXT COLLATE "C";
ALTER TABLE agent_tokens ADD COLUMN task_name TEXT COLLATE "C";

-- What was reserved of a grant's rate limit and still counts: a JSON array of [end of counting in microseconds, uses].
CREATE TABLE limits (
    site TEXT COLLATE "C" NOT NULL,
    grant_id TEXT COLLATE "C" NOT NULL,
    -- Moves with every reservation; the compare-and-set is on it.
    version BIGINT NOT NULL,
    reserved TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (site, grant_id),
    FOREIGN KEY (site, grant_id) REFERENCES grants (site, id)
);
