-- Whose credential applies where a caller leaves that to the provider, and whether the site's stands in for one that is
-- missing. A provider without a row has the policy `site`.
CREATE TABLE scope_policies (
    site TEXT NOT NULL REFERENCES sites (id),
    provider TEXT NOT NULL,
    -- account, config.
    kind TEXT NOT NULL,
    -- site, user, agent, principal.
    policy TEXT NOT NULL,
    fallback_at INTEGER,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (site, provider, kind)
) STRICT;
