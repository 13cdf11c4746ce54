//! Where a provider's flows return to: our own callback, or a site's own address in its place.
//!
//! A site that moved here from elsewhere may keep the redirect URI that is registered at a provider. Whoever answers at
//! that address must send the browser on to our own callback with its whole query; the flow is bound to that browser, and
//! its code is worth nothing without the verifier that only we have.

use serde_json::json;
use url::{Host, Url};

use crate::{
    audit::Event,
    base::Outside,
    db::{Db, is_unique_violation},
    error::{Code, Error, Result},
    id::{ProviderName, SiteId},
    on,
    principal::Actor,
    provider::Definition,
};

/// The longest address, in bytes.
const MAX_URL: usize = 2_000;

/// The redirect URI of a site's flows at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// What is sent, and must be registered at the provider.
    pub url: String,
    /// Our own callback, where the browser must end.
    pub own: String,
}

impl Callback {
    /// Whether the site set an address of its own.
    pub fn is_overridden(&self) -> bool {
        self.url != self.own
    }
}

/// The redirect URI of a site's flows at a provider (RFC 6749 section 3.1.2).
pub async fn of(outside: &Outside, site: &SiteId, provider: &ProviderName) -> Result<Callback> {
    let own = outside.callback_url(provider);
    let url = stored(&outside.base.db, site, provider).await?.unwrap_or_else(|| own.clone());
    Ok(Callback { url, own })
}

/// Sets a site's own redirect URI for a provider. Setting our own callback is the same as [`reset`].
///
/// # Errors
/// `invalid_request` where it is no plain https URL (http on loopback), where the provider does not take such a one, or
/// where it is the callback of another provider: one address for each is what tells their answers apart (RFC 9700
/// section 4.4.2.1). `conflict` where the site uses it for another provider already.
pub async fn set(outside: &Outside, site: &SiteId, actor: &Actor, definition: &Definition, url: &str) -> Result<Callback> {
    let provider = &definition.name;
    let own = outside.callback_url(provider);
    if url == own {
        return reset(outside, site, actor, definition).await;
    }
    check(outside, definition, url)?;
    let base = &outside.base;
    let mut tx = base.db.begin().await?;
    let written = on!(&mut tx, |c| sqlx::query(
        "INSERT INTO callback_urls (site, provider, url, updated_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (site, provider) DO UPDATE SET url = excluded.url, updated_at = excluded.updated_at"
    )
    .bind(site.as_str())
    .bind(provider.as_str())
    .bind(url)
    .bind(base.clock.now().0)
    .execute(c)
    .await
    .map(|_| ()));
    match written {
        Err(error) if is_unique_violation(&error) => {
            return Err(Error::new(Code::Conflict, "another provider of this site returns to that address; each needs its own"));
        }
        other => other?,
    }
    let facts = json!({ "provider": provider, "url": url });
    base.audit.record(&mut tx, Event::new(site, actor, "callback.set").facts(facts)).await?;
    tx.commit().await?;
    Ok(Callback { url: url.to_owned(), own })
}

/// Goes back to our own callback. Doing it again changes nothing.
pub async fn reset(outside: &Outside, site: &SiteId, actor: &Actor, definition: &Definition) -> Result<Callback> {
    let (base, provider) = (&outside.base, &definition.name);
    let own = outside.callback_url(provider);
    let mut tx = base.db.begin().await?;
    let gone = on!(&mut tx, |c| sqlx::query("DELETE FROM callback_urls WHERE site = $1 AND provider = $2")
        .bind(site.as_str())
        .bind(provider.as_str())
        .execute(c)
        .await?
        .rows_affected());
    if gone > 0 {
        let facts = json!({ "provider": provider });
        base.audit.record(&mut tx, Event::new(site, actor, "callback.reset").facts(facts)).await?;
        tx.commit().await?;
    }
    Ok(Callback { url: own.clone(), own })
}

async fn stored(db: &Db, site: &SiteId, provider: &ProviderName) -> Result<Option<String>> {
    let row: Option<(String,)> = on!(db, |c| sqlx::query_as("SELECT url FROM callback_urls WHERE site = $1 AND provider = $2")
        .bind(site.as_str())
        .bind(provider.as_str())
        .fetch_optional(c)
        .await?);
    Ok(row.map(|(url,)| url))
}

fn check(outside: &Outside, definition: &Definition, text: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(Code::InvalidRequest, format!("url: {why}")));
    if definition.oauth2.is_none() && definition.oauth1.is_none() {
        return refuse(&format!("{} has no flow that returns to an address", definition.title));
    }
    // A parser drops line breaks and tabs; the text is what is compared and sent.
    let plain = text.len() <= MAX_URL && text.bytes().all(|byte| byte.is_ascii_graphic());
    let Some(url) = Url::parse(text).ok().filter(|_| plain) else { return refuse("it is a full https URL") };
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return refuse("it has neither a fragment nor a user");
    }
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
        return refuse("it is a full https URL (http only on loopback)");
    }
    if !definition.takes_redirect(&url) {
        return refuse(&format!("{} does not take such a redirect URI", definition.title));
    }
    if url.origin() == outside.public_url.origin() {
        return refuse("at this broker's own address there is one callback for each provider, which is the usual one");
    }
    Ok(())
}
