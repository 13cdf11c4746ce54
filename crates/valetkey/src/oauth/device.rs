//! Consent on another device (RFC 8628), for agents without a browser.
//!
//! 1. The client asks for a device code, which it keeps, and a user code, which it shows.
//! 2. A person signs in here, types the user code, sees what is asked for and by whom, and answers. The page says that
//!    the code must come from a device of their own (section 5.4): otherwise somebody else's agent would get what they consent to.
//! 3. The client asks the token endpoint at its interval, and gets its tokens once.

use std::time::Duration;

use super::{
    Client, Fault, GrantType, Issued, Outcome, Params, Scopes, Server, Word,
    authorize::{Choice, Consent},
    hash, not_good,
    store::{self, Device},
    token::{holding, refresh_text},
};
use crate::{
    audit::Event,
    error::{Code, Error, Result},
    id::{self, SiteId, UserId, sha256_hex},
    principal::Actor,
    secret::Secret,
    token::{self, Audience, family},
};

/// How long a person has.
const LIFE: Duration = Duration::from_secs(10 * 60);
/// How many seconds lie between two questions, and how many more after one that came too soon.
const INTERVAL: i64 = 5;
/// The letters of user codes: no vowels, so that no words come of them (RFC 8628 section 6.1). Eight of them are 34 bits; who
/// guesses must be signed in, and is slowed down.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LENGTH: usize = 8;

/// A sign-in that has begun.
#[derive(Debug)]
pub struct Begun {
    /// What the client asks with.
    pub device_code: Secret,
    /// What the person types: `WDJB-MJHT`.
    pub user_code: String,
    /// Where they type it.
    pub verification_uri: String,
    /// The same with the code in it, for a QR code.
    pub verification_uri_complete: String,
    /// How many seconds the person has.
    pub expires_in: u64,
    /// How many seconds lie between two questions of the client.
    pub interval: i64,
}

impl Server {
    /// Begins a sign-in on another device, for a client that proved itself (RFC 8628 section 3.1).
    pub async fn begin_device(&self, client: &Client, params: &Params) -> Outcome<Begun> {
        if !client.grant_types.contains(&GrantType::DeviceCode) {
            return Err(Fault::new(Word::UnauthorizedClient, "this client may not use the device grant"));
        }
        let asked: Scopes = params.get("scope").unwrap_or_default().parse()?;
        let most = client.ceiling.clone().unwrap_or_default();
        asked.check_within(&most)?;
        let nothing = || Fault::new(Word::InvalidScope, "these scopes leave nothing");
        let ceiling = asked.narrow(&most).ok_or_else(nothing)?;
        let audience = self.named_audience(params)?.unwrap_or(Audience::Api);
        let device_code = Secret::new(id::random_text::<32>()?);
        let now = self.now();
        let device = Device {
            hash: hash(&device_code),
            site: client.site.clone(),
            client: client.id.clone(),
            ceiling,
            audience,
            interval: INTERVAL,
            poll_at: now,
            created_at: now,
            expires_at: now.plus(LIFE),
            family: None,
            refused_at: None,
            used_at: None,
        };
        // A code that is taken is rare, and another one is as good.
        for _ in 0..5 {
            let user_code = fresh_code()?;
            let mut tx = self.base().db.begin_bookkeeping().await?;
            if store::insert_device(&mut tx, &device, &code_hash(&user_code)).await? {
                tx.commit().await?;
                let shown = format!("{}-{}", &user_code[..CODE_LENGTH / 2], &user_code[CODE_LENGTH / 2..]);
                let verification_uri = format!("{}/oauth/device", self.issuer());
                return Ok(Begun {
                    device_code,
                    verification_uri_complete: format!("{verification_uri}?user_code={shown}"),
                    verification_uri,
                    user_code: shown,
                    expires_in: LIFE.as_secs(),
                    interval: INTERVAL,
                });
            }
        }
        Err(Error::internal("five user codes in a row were taken").into())
    }

    /// Answers a client that asks whether the person is done (RFC 8628 section 3.5).
    pub(super) async fn poll(&self, client: &Client, params: &Params) -> Outcome<Issued> {
        let presented = Secret::new(params.require("device_code")?);
        let db = &self.base().db;
        let device = store::device(db, &hash(&presented)).await?.ok_or_else(not_good)?;
        // Another client learns nothing, and changes nothing.
        if device.client != client.id || device.used_at.is_some() {
            return Err(not_good());
        }
        let now = self.now();
        if device.refused_at.is_some() {
            return Err(Fault::new(Word::AccessDenied, "the person said no"));
        }
        if device.expires_at <= now {
            return Err(Fault::new(Word::ExpiredToken, "nobody answered in time; begin again"));
        }
        let family = match &device.family {
            None => return Err(self.not_yet(&device).await?),
            Some(family) => family::get(db, &device.site, family).await?.ok_or_else(not_good)?,
        };
        let facts = self.acting(&client.site, &family.agent, &family.person).await?.ok_or_else(not_good)?;
        let scope = holding(&facts, &family.ceiling)?;
        let (access, refresh) = (token::compose(&id::random::<32>()?), refresh_text(&id::random::<32>()?));
        let mut tx = db.begin_bookkeeping().await?;
        self.hold(&mut tx, client, &family, now).await?;
        if !store::use_device(&mut tx, &device.hash, now).await? {
            return Err(not_good());
        }
        let issued = self.first(&mut tx, client, &family, &scope, access, refresh).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// The answer while the person has not answered: to go on asking, or to slow down.
    async fn not_yet(&self, device: &Device) -> Result<Fault> {
        let now = self.now();
        let soon = now < device.poll_at;
        let interval = if soon { device.interval.saturating_add(INTERVAL) } else { device.interval };
        let pause = Duration::from_secs(u64::try_from(interval).map_err(Error::internal)?);
        let mut tx = self.base().db.begin_bookkeeping().await?;
        let first = store::asked_device(&mut tx, device, interval, now.plus(pause)).await?;
        tx.commit().await?;
        Ok(match soon || !first {
            true => Fault::new(Word::SlowDown, "ask less often: five more seconds between two questions"),
            false => Fault::new(Word::AuthorizationPending, "the person has not answered yet"),
        })
    }

    /// What the person behind a user code is asked; nothing where no such code waits at their site.
    pub async fn device_consent(&self, site: &SiteId, person: &UserId, user_code: &str) -> Result<Option<Consent>> {
        let Some((device, client)) = self.waiting(site, user_code).await? else { return Ok(None) };
        let asked = (&device.ceiling, device.audience, None);
        self.describe(person, &client, asked).await.map(Some)
    }

    /// The person consents: the client gets its tokens with its next question.
    ///
    /// # Errors
    /// `not_found` where the code does not wait any more; `invalid_request` where the choice leaves nothing; `forbidden` where the
    /// person may not have the agent act.
    pub async fn approve_device(&self, site: &SiteId, person: &UserId, user_code: &str, choice: &Choice) -> Result<()> {
        let (device, client) = self.waiting(site, user_code).await?.ok_or_else(gone)?;
        let new = self.chosen(person, &client, (&device.ceiling, device.audience, None), choice).await?;
        let mut tx = self.base().db.begin().await?;
        if !store::hold_client(&mut tx, &client, self.now()).await? {
            return Err(gone());
        }
        let family = family::open(self.base(), &mut tx, site, &Actor::User(person.clone()), new).await?;
        if !store::answer_device(&mut tx, &device.hash, Some(&family.id), self.now()).await? {
            return Err(gone());
        }
        tx.commit().await
    }

    /// The person says no.
    pub async fn refuse_device(&self, site: &SiteId, person: &UserId, user_code: &str) -> Result<()> {
        let (device, client) = self.waiting(site, user_code).await?.ok_or_else(gone)?;
        let mut tx = self.base().db.begin_bookkeeping().await?;
        if !store::answer_device(&mut tx, &device.hash, None, self.now()).await? {
            return Err(gone());
        }
        let facts = serde_json::json!({ "client": client.id, "device": true });
        let event = Event::new(site, &Actor::User(person.clone()), "consent.refuse").facts(facts);
        self.base().audit.record(&mut tx, event).await?;
        tx.commit().await
    }

    async fn waiting(&self, site: &SiteId, user_code: &str) -> Result<Option<(Device, Client)>> {
        let Some(code) = normal(user_code) else { return Ok(None) };
        let db = &self.base().db;
        let Some(device) = store::waiting_device(db, site, &code_hash(&code), self.now()).await? else { return Ok(None) };
        let Some(client) = store::live_client(db, &device.client).await? else { return Ok(None) };
        Ok(Some((device, client)))
    }
}

fn gone() -> Error {
    Error::new(Code::NotFound, "this code is unknown, used or expired; look at your device for the present one")
}

fn fresh_code() -> Result<String> {
    let mut code = String::with_capacity(CODE_LENGTH);
    while code.len() < CODE_LENGTH {
        for byte in id::random::<16>()? {
            // 240 is the largest multiple of 20 that a byte holds: each letter is as likely as the others.
            if byte < 240 && code.len() < CODE_LENGTH {
                code.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            }
        }
    }
    Ok(code)
}

/// A user code as it was typed, in its one form: what stands between the letters does not count, nor their case.
fn normal(typed: &str) -> Option<String> {
    if typed.len() > 64 {
        return None;
    }
    let code: String = typed.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    (code.len() == CODE_LENGTH && code.bytes().all(|byte| LETTERS.contains(&byte))).then_some(code)
}

fn code_hash(code: &str) -> String {
    sha256_hex(format!("valetkey user code\n{code}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_code_is_read_however_it_is_typed() {
        for typed in ["WDJB-MJHT", "wdjbmjht", " wdjb mjht ", "W.D.J.B.M.J.H.T"] {
            assert_eq!(normal(typed).as_deref(), Some("WDJBMJHT"));
        }
        for typed in ["", "WDJB-MJH", "WDJB-MJHTT", "WDJB-MJHA", "WDJB-MJH0", &"W".repeat(100)] {
            assert_eq!(normal(typed), None, "{typed}");
        }
    }

    #[test]
    fn fresh_codes_are_codes_and_differ() {
        let (a, b) = (fresh_code().unwrap(), fresh_code().unwrap());
        assert_eq!(normal(&a).as_ref(), Some(&a));
        assert_ne!(a, b);
    }
}
