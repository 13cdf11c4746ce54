-- A site's own redirect URI for a provider, in place of our callback. One for each provider, and each another: that is what
-- tells the answers of two providers apart (RFC 9700 section 4.4.2.1).

CREATE TABLE callback_urls (
    site TEXT NOT NULL REFERENCES sites (id),
    provider TEXT NOT NULL,
    url TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (site, provider)
) STRICT;
CREATE UNIQUE INDEX callback_urls_url ON callback_urls (site, url);
