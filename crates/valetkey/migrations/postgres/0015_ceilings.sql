-- What narrows every token of an agent, and everything of a site: a ceiling as on a token. JSON object; null is none. A release
-- that does not know these columns would not keep to them, so an older one does not start on this schema.
ALTER TABLE sites ADD COLUMN ceiling TEXT COLLATE "C";
ALTER TABLE agents ADD COLUMN ceiling TEXT COLLATE "C";
-- How deep a chain of agents may call us; null for the usual depth.
ALTER TABLE sites ADD COLUMN chain_limit BIGINT;

-- People who are erased for good: since when, and since when nothing of theirs is left to end.
ALTER TABLE people ADD COLUMN erased_at BIGINT;
ALTER TABLE people ADD COLUMN erase_done_at BIGINT;
CREATE INDEX people_erased ON people (erased_at) WHERE erased_at IS NOT NULL AND erase_done_at IS NULL;
