-- A site's own redirect URI for a provider, in place of our callback. One for each provider, and each another: that is what
-- tells the answers of two providers apart (RFC 9700 section 4.4.2.1).

CREATE TABLE callback_urls (
    site TEXT COLLATE "C" NOT NULL REFERENCES sites (id),
    provider TEXT COLLATE "C" NOT NULL,
    url TEXT COLLATE "C" NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (site, provider)
);
CREATE UNIQUE INDEX callback_urls_url ON callback_urls (site, url);
