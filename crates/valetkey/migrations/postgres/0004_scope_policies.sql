-- Whose credential applies where a caller leaves that to the provider, and whether the site's stands in for one that is
-- missing. A provider without a row has the policy `site`.
CREATE TABLE scope_policies (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    provider TEXT COLLATE "C" NOT NULL,
    -- account, config.
    kind TEXT COLLATE "C" NOT NULL,
    -- site, user, agent, principal.
    policy TEXT COLLATE "C" NOT NULL,
    fallback_at BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (site, provider, kind)
);
