//! What the rooms stand on: the database, the key ring, the clock and the audit; and, for those that speak to
//! providers, the way outside.

use std::sync::Arc;

use url::Url;

use crate::{
    audit::Audit,
    clock::Clock,
    db::Db,
    error::{Code, Error, Result},
    extend::Extensions,
    id::{ProviderName, SiteId, UserId},
    provider::{Catalogue, Definition},
    seal::KeyRing,
    upstream::Upstream,
};

/// The ground that every room stands on; clones share it.
#[derive(Clone)]
pub struct Base {
    /// Where rows live.
    pub db: Db,
    /// What seals and opens them.
    pub ring: KeyRing,
    /// What time it is.
    pub clock: Clock,
    /// What happened.
    pub audit: Audit,
}

/// The ground, with the way to the providers; clones share it.
#[derive(Clone)]
pub struct Outside {
    /// The ground.
    pub base: Base,
    /// What is known of the providers.
    pub catalogue: Arc<Catalogue>,
    /// The one HTTP client.
    pub upstream: Upstream,
    /// Where browsers and agents reach us: an origin, without a path.
    pub public_url: Url,
    /// What the platform registered.
    pub extensions: Extensions,
}

impl Outside {
    /// The definition of a provider that must be there.
    pub fn definition(&self, name: &ProviderName) -> Result<Arc<Definition>> {
        self.catalogue.get(name).cloned().ok_or_else(|| {
            Error::new(Code::NotFound, format!("there is no provider `{name}`; `valetkey provider list` shows those there are"))
        })
    }

    /// A page of ours for a person of a site, by its path.
    pub fn page_url(&self, path: &str, site: &SiteId) -> String {
        let site: String = url::form_urlencoded::byte_serialize(site.as_str().as_bytes()).collect();
        format!("{}{path}?site={site}", self.public_url.as_str().trim_end_matches('/'))
    }

    /// A command for whoever holds the machine, about a site: what answers where no page can.
    pub fn command(words: &str, site: &SiteId) -> String {
        match *site == SiteId::default_site() {
            true => format!("valetkey {words}"),
            false => format!("valetkey {words} --site {site}"),
        }
    }

    /// Where somebody says their word about what is theirs: a person on the page at `path`; and whoever administers the site, for
    /// whom there is no page, by the command of these `words` about what is nobody's. One of the two.
    pub fn page_or_command(
        &self,
        person: Option<&UserId>,
        path: &str,
        words: &str,
        site: &SiteId,
    ) -> (Option<String>, Option<String>) {
        match person {
            Some(_) => (Some(self.page_url(path, site)), None),
            None => (None, Some(Self::command(words, site))),
        }
    }

    /// The callback at which flows of a provider end (RFC 6749 section 3.1.2): one per provider, which is also a
    /// mix-up defence (RFC 9700 section 4.4).
    pub fn callback_url(&self, provider: &ProviderName) -> String {
        format!("{}/callback/{provider}", self.public_url.as_str().trim_end_matches('/'))
    }
}
