//! Codes, tokens and families: what the authorization server remembers. No HTTP and no waiting here; the time is an
//! argument, in milliseconds.
//!
//! One consent makes a *family*. Its code yields an access token and a refresh token (RFC 6749 section 4.1), a refresh
//! token yields the next ones (section 6), and whatever ends the family ends all of them.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::Serialize;

use crate::{
    ACCESS_PREFIX, CODE_PREFIX, REFRESH_PREFIX,
    fault::Effects,
    records::{Capped, FamilyState, Records, RevokedToken},
    settings::{Client, Person, Rotation},
    world::{fingerprint, random_text, same},
};

/// How many families, and how many tokens of each kind, are remembered.
const REMEMBERED: usize = 50_000;

/// Why a family is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FamilyEnd {
    /// A rotated refresh token came back.
    Reuse,
    /// The client revoked it (RFC 7009).
    Revoked,
    /// The person withdrew the consent at the provider.
    Withdrawn,
    /// Its authorization code came back (RFC 6749 section 4.1.2).
    CodeReplay,
}

/// An OAuth error (RFC 6749 section 5.2).
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: Cow<'static, str>,
    pub(crate) description: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(error: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        let status = match error {
            "invalid_client" | "invalid_token" => StatusCode::UNAUTHORIZED,
            "insufficient_scope" => StatusCode::FORBIDDEN,
            "server_error" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status, error: Cow::Borrowed(error), description: description.into() }
    }

    pub(crate) fn request(description: impl Into<Cow<'static, str>>) -> Self {
        Self::new("invalid_request", description)
    }

    pub(crate) fn grant(description: &'static str) -> Self {
        Self::new("invalid_grant", description)
    }
}

/// What a person agreed to, before it has a code.
#[derive(Clone, Debug)]
pub(crate) struct Consent {
    pub(crate) client_id: String,
    pub(crate) person: &'static Person,
    pub(crate) redirect_uri: String,
    pub(crate) scope: String,
    /// The PKCE challenge (RFC 7636), always S256.
    pub(crate) challenge: Option<String>,
}

/// Freshly made tokens.
pub(crate) struct TokenSet {
    pub(crate) access_token: String,
    pub(crate) refresh_token: Option<String>,
    /// Seconds, as the answer says them.
    pub(crate) expires_in: u64,
    pub(crate) scope: String,
}

/// An access token that works now.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) family: u64,
    pub(crate) client_id: String,
    pub(crate) person: &'static Person,
    pub(crate) scope: String,
    /// Milliseconds since 1970.
    pub(crate) expires_at: u64,
    /// Made by `/exchange`.
    pub(crate) long_lived: bool,
}

struct Code {
    consent: Consent,
    expires_at: u64,
    /// The family that it has made.
    family: Option<u64>,
}

struct Family {
    client_id: String,
    person: &'static Person,
    scope: String,
    ended: Option<FamilyEnd>,
    refreshes: u64,
}

struct AccessToken {
    family: u64,
    scope: String,
    expires_at: u64,
    revoked: bool,
    long_lived: bool,
}

struct RefreshToken {
    family: u64,
    expires_at: u64,
    /// When it was rotated, and into what. The successor is kept as it is, to be told again within the grace window.
    rotated: Option<(u64, String)>,
}

/// A sign-in on another device, by the fingerprint of its device code (RFC 8628).
struct DeviceCode {
    client_id: String,
    scope: String,
    user_code: String,
    expires_at: u64,
    /// Milliseconds between two questions.
    interval: u64,
    asked_at: Option<u64>,
    /// What the person said; the family once there are tokens.
    answer: Option<DeviceAnswer>,
}

#[derive(Clone, Copy)]
enum DeviceAnswer {
    Approved(&'static Person),
    Denied,
    Spent,
}

/// Fresh codes for a sign-in on another device.
pub(crate) struct DeviceCodes {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
    pub(crate) expires_in: u64,
    pub(crate) interval: u64,
}

pub(crate) struct Tokens {
    devices: Capped<String, DeviceCode>,
    codes: Capped<String, Code>,
    families: Capped<u64, Family>,
    access: Capped<String, AccessToken>,
    refresh: Capped<String, RefreshToken>,
    last_family: u64,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self {
            devices: Capped::new(REMEMBERED),
            codes: Capped::new(REMEMBERED),
            families: Capped::new(REMEMBERED),
            access: Capped::new(REMEMBERED),
            refresh: Capped::new(REMEMBERED),
            last_family: 0,
        }
    }

    /// A code for what the person agreed to.
    pub(crate) fn code(&mut self, client: &Client, consent: Consent, now: u64) -> Result<String, Refusal> {
        let code = format!("{CODE_PREFIX}{}", random_text()?);
        let expires_at = later(now, client.settings.code_ttl);
        self.codes.insert(fingerprint(&code), Code { consent, expires_at, family: None });
        Ok(code)
    }

    /// Turns a code into tokens, once (RFC 6749 section 4.1.3, RFC 7636 section 4.6).
    pub(crate) fn redeem(
        &mut self,
        client: &Client,
        code: &str,
        redirect_uri: Option<&str>,
        verifier: Option<&str>,
        effects: &Effects,
        now: u64,
    ) -> Result<TokenSet, Refusal> {
        let found = self.codes.find(&fingerprint(code)).ok_or_else(|| Refusal::grant("the code is unknown"))?;
        let consent = &found.consent;
        if consent.client_id != client.client_id {
            return Err(Refusal::grant("the code belongs to another client"));
        }
        if let Some(family) = found.family {
            self.end_family(family, FamilyEnd::CodeReplay);
            return Err(Refusal::grant("the code was used before; its tokens are revoked"));
        }
        if now >= found.expires_at {
            return Err(Refusal::grant("the code has expired"));
        }
        if redirect_uri != Some(consent.redirect_uri.as_str()) {
            return Err(Refusal::grant("`redirect_uri` is not the one of the authorization request"));
        }
        match (&consent.challenge, verifier) {
            (None, None) => {}
            (Some(challenge), Some(verifier)) if verifier_fits(verifier, challenge) => {}
            (Some(_), Some(_)) => return Err(Refusal::grant("`code_verifier` does not fit the challenge")),
            (Some(_), None) => return Err(Refusal::grant("`code_verifier` is missing")),
            (None, Some(_)) => return Err(Refusal::grant("`code_verifier` came without a challenge")),
        }
        let (person, scope) = (effects.subject.unwrap_or(consent.person), consent.scope.clone());
        let scope = effects.scope.clone().unwrap_or(scope);
        let family = self.family(client, person, &scope);
        if let Some(code) = self.codes.find_mut(&fingerprint(code)) {
            code.family = Some(family);
        }
        self.first_tokens(client, family, scope, effects, now)
    }

    /// Codes for a sign-in on another device (RFC 8628 section 3.2).
    pub(crate) fn device(&mut self, client: &Client, scope: &str, now: u64) -> Result<DeviceCodes, Refusal> {
        let settings = &client.settings;
        let device_code = format!("{CODE_PREFIX}device_{}", random_text()?);
        // Letters that are hard to mistake, as section 6.1 has it.
        let letters = b"BCDFGHJKLMNPQRSTVWXZ";
        let random = fingerprint(&device_code);
        let letter = |byte: u8| char::from(letters[usize::from(byte) % letters.len()]);
        let user_code: String = random
            .bytes()
            .take(8)
            .enumerate()
            .flat_map(|(at, byte)| {
                let dash = (at == 4).then_some('-');
                dash.into_iter().chain([letter(byte.wrapping_mul(31).wrapping_add(at as u8))])
            })
            .collect();
        let code = DeviceCode {
            client_id: client.client_id.clone(),
            scope: scope.to_owned(),
            user_code: user_code.clone(),
            expires_at: later(now, settings.device_ttl),
            interval: settings.device_interval.saturating_mul(1000),
            asked_at: None,
            answer: None,
        };
        self.devices.insert(fingerprint(&device_code), code);
        Ok(DeviceCodes { device_code, user_code, expires_in: settings.device_ttl, interval: settings.device_interval })
    }

    /// The person's word for a code that they typed in; none says no. False where there is no such code any more.
    pub(crate) fn answer_device(&mut self, user_code: &str, person: Option<&'static Person>, now: u64) -> bool {
        let mut waiting = self.devices.values_mut().filter(|code| code.answer.is_none() && now < code.expires_at);
        match waiting.find(|code| code.user_code.eq_ignore_ascii_case(user_code)) {
            Some(code) => {
                code.answer = Some(person.map_or(DeviceAnswer::Denied, DeviceAnswer::Approved));
                true
            }
            None => false,
        }
    }

    /// Answers a device that asks whether the person is done (RFC 8628 section 3.5).
    pub(crate) fn redeem_device(
        &mut self,
        client: &Client,
        device_code: &str,
        effects: &Effects,
        now: u64,
    ) -> Result<TokenSet, Refusal> {
        let found =
            self.devices.find_mut(&fingerprint(device_code)).ok_or_else(|| Refusal::grant("the device code is unknown"))?;
        if found.client_id != client.client_id {
            return Err(Refusal::grant("the device code belongs to another client"));
        }
        let early = found.asked_at.replace(now).is_some_and(|before| now < before.saturating_add(found.interval));
        if early {
            found.interval += 5000;
            return Err(Refusal::new("slow_down", "asked too early"));
        }
        let person = match found.answer {
            Some(DeviceAnswer::Spent) => return Err(Refusal::grant("the device code was used before")),
            Some(DeviceAnswer::Denied) => return Err(Refusal::new("access_denied", "the person said no")),
            _ if now >= found.expires_at => return Err(Refusal::new("expired_token", "the device code has expired")),
            None => return Err(Refusal::new("authorization_pending", "the person has not answered yet")),
            Some(DeviceAnswer::Approved(person)) => person,
        };
        found.answer = Some(DeviceAnswer::Spent);
        let scope = effects.scope.clone().unwrap_or_else(|| found.scope.clone());
        let person = effects.subject.unwrap_or(person);
        let family = self.family(client, person, &scope);
        self.first_tokens(client, family, scope, effects, now)
    }

    /// A token for one page of the person whose token is `live`. It says so in its scope.
    pub(crate) fn page(&mut self, live: &Live, page: &str, now: u64) -> Result<String, Refusal> {
        self.mint_access(live.family, &format!("page:{page}"), 365 * 86_400, true, &Effects::default(), now)
    }

    /// Tokens without any flow, as if the person had just consented.
    pub(crate) fn issue(&mut self, client: &Client, person: &'static Person, scope: &str, now: u64) -> Result<TokenSet, Refusal> {
        let family = self.family(client, person, scope);
        self.first_tokens(client, family, scope.to_owned(), &Effects::default(), now)
    }

    /// Turns a refresh token into the next tokens (RFC 6749 section 6), with the client's rotation.
    pub(crate) fn refresh(
        &mut self,
        client: &Client,
        token: &str,
        scope: Option<&str>,
        effects: &Effects,
        records: &mut Records,
        now: u64,
    ) -> Result<TokenSet, Refusal> {
        let settings = &client.settings;
        let key = fingerprint(token);
        records.spend(&key).spent += 1;
        let found = self.refresh.find(&key).ok_or_else(|| Refusal::grant("the refresh token is unknown"))?;
        let id = found.family;
        let rotated = found.rotated.clone();
        let expired = now >= found.expires_at;
        let family = self.families.find(&id).ok_or_else(|| Refusal::grant("the authorization is forgotten"))?;
        if family.client_id != client.client_id {
            return Err(Refusal::grant("the refresh token belongs to another client"));
        }
        if family.ended.is_some() {
            return Err(Refusal::grant("the authorization was revoked"));
        }
        if expired {
            return Err(Refusal::grant("the refresh token has expired"));
        }
        let granted = family.scope.clone();
        if let Some(asked) = scope
            && !asked.split(' ').all(|one| granted.split(' ').any(|known| known == one))
        {
            return Err(Refusal::new("invalid_scope", "the refresh asks for more than was granted"));
        }
        let refreshes = family.refreshes;
        let next = match rotated {
            Some((at, successor)) if now < later(at, settings.grace) => Some(successor),
            Some(_) => {
                if settings.reuse_kills_family {
                    self.end_family(id, FamilyEnd::Reuse);
                    records.reuse_ends += 1;
                }
                return Err(Refusal::grant("the refresh token was used before"));
            }
            None => match settings.rotation {
                Rotation::Never => None,
                Rotation::Same => Some(token.to_owned()),
                Rotation::Maybe if refreshes % 2 == 1 => None,
                Rotation::Always | Rotation::Maybe => {
                    let next = self.mint_refresh(client, id, effects, now)?;
                    if let Some(old) = self.refresh.find_mut(&key) {
                        old.rotated = Some((now, next.clone()));
                    }
                    Some(next)
                }
            },
        };
        if settings.refresh_ends_access {
            self.access.values_mut().filter(|access| access.family == id).for_each(|access| access.revoked = true);
        }
        let scope = effects.scope.as_deref().or(scope).unwrap_or(&granted).to_owned();
        let access_token =
            self.mint_access(id, &scope, effects.early_expiry.unwrap_or(settings.access_ttl), false, effects, now)?;
        if let Some(family) = self.families.find_mut(&id) {
            family.refreshes += 1;
        }
        records.refreshes += 1;
        Ok(TokenSet { access_token, refresh_token: next, expires_in: settings.access_ttl, scope })
    }

    /// A long-lived access token for a live one. The old one stays as it is.
    pub(crate) fn exchange(&mut self, client: &Client, live: &Live, effects: &Effects, now: u64) -> Result<TokenSet, Refusal> {
        let ttl = client.settings.long_lived_ttl;
        let scope = effects.scope.clone().unwrap_or_else(|| live.scope.clone());
        let access_token = self.mint_access(live.family, &scope, effects.early_expiry.unwrap_or(ttl), true, effects, now)?;
        Ok(TokenSet { access_token, refresh_token: None, expires_in: ttl, scope })
    }

    /// The access token, if it works now.
    pub(crate) fn live(&self, token: &str, now: u64) -> Option<Live> {
        let access = self.access.find(&fingerprint(token))?;
        let family = self.families.find(&access.family)?;
        (family.ended.is_none() && !access.revoked && now < access.expires_at).then(|| Live {
            family: access.family,
            client_id: family.client_id.clone(),
            person: family.person,
            scope: access.scope.clone(),
            expires_at: access.expires_at,
            long_lived: access.long_lived,
        })
    }

    /// The refresh token's family and its end of life, if it works now.
    pub(crate) fn live_refresh(&self, token: &str, now: u64) -> Option<Live> {
        let refresh = self.refresh.find(&fingerprint(token))?;
        let family = self.families.find(&refresh.family)?;
        (family.ended.is_none() && refresh.rotated.is_none() && now < refresh.expires_at).then(|| Live {
            family: refresh.family,
            client_id: family.client_id.clone(),
            person: family.person,
            scope: family.scope.clone(),
            expires_at: refresh.expires_at,
            long_lived: false,
        })
    }

    /// The client to which a token of either kind was issued, dead or alive.
    pub(crate) fn client_of(&self, token: &str) -> Option<&str> {
        let key = fingerprint(token);
        let family = self
            .access
            .find(&key)
            .map(|access| access.family)
            .or_else(|| self.refresh.find(&key).map(|refresh| refresh.family))?;
        self.families.find(&family).map(|family| family.client_id.as_str())
    }

    /// Revokes a token of either kind (RFC 7009). A refresh token takes its family along; an access token goes alone,
    /// unless the client's settings say that everything goes.
    pub(crate) fn revoke(&mut self, client: &Client, token: &str, records: &mut Records) {
        let key = fingerprint(token);
        let (family, kind) = if let Some(access) = self.access.find_mut(&key) {
            access.revoked = true;
            (access.family, "access_token")
        } else if let Some(family) = self.refresh.find(&key).map(|refresh| refresh.family) {
            self.end_family(family, FamilyEnd::Revoked);
            (family, "refresh_token")
        } else {
            return;
        };
        records.revoke(RevokedToken { sha256: key, kind, client_id: client.client_id.clone() });
        if client.settings.revoke_ends_all
            && let Some(person) = self.families.find(&family).map(|family| family.person)
        {
            self.end_all(&client.client_id, person, FamilyEnd::Revoked);
        }
    }

    /// Ends every family of that person at that client. Says how many were alive.
    pub(crate) fn end_all(&mut self, client_id: &str, person: &Person, end: FamilyEnd) -> usize {
        let mut ended = 0;
        for family in self.families.values_mut() {
            if family.client_id == client_id && family.person.id == person.id && family.ended.is_none() {
                family.ended = Some(end);
                ended += 1;
            }
        }
        ended
    }

    /// Lets the access tokens expire now: of one client, or all.
    pub(crate) fn expire_access(&mut self, client_id: Option<&str>, now: u64) {
        let families = &self.families;
        for access in self.access.values_mut() {
            if of_client(families, access.family, client_id) {
                access.expires_at = access.expires_at.min(now);
            }
        }
    }

    /// Lets the refresh tokens expire now: of one client, or all.
    pub(crate) fn expire_refresh(&mut self, client_id: Option<&str>, now: u64) {
        let families = &self.families;
        for refresh in self.refresh.values_mut() {
            if of_client(families, refresh.family, client_id) {
                refresh.expires_at = refresh.expires_at.min(now);
            }
        }
    }

    /// Every family, oldest first, with how many of its tokens work.
    pub(crate) fn families(&self, now: u64) -> Vec<FamilyState> {
        let mut states: Vec<FamilyState> = self
            .families
            .iter()
            .map(|(id, family)| FamilyState {
                id: *id,
                client_id: family.client_id.clone(),
                person: family.person.username.to_owned(),
                scope: family.scope.clone(),
                ended: family.ended,
                refreshes: family.refreshes,
                live_access_tokens: 0,
                live_refresh_tokens: 0,
            })
            .collect();
        // Ids count up, so the list is sorted by them.
        let find = |states: &[FamilyState], id: u64| {
            states
                .binary_search_by_key(&id, |state| state.id)
                .ok()
                .filter(|at| states.get(*at).is_some_and(|s| s.ended.is_none()))
        };
        for (_, access) in self.access.iter().filter(|(_, access)| !access.revoked && now < access.expires_at) {
            if let Some(at) = find(&states, access.family) {
                states[at].live_access_tokens += 1;
            }
        }
        for (_, refresh) in self.refresh.iter().filter(|(_, refresh)| refresh.rotated.is_none() && now < refresh.expires_at) {
            if let Some(at) = find(&states, refresh.family) {
                states[at].live_refresh_tokens += 1;
            }
        }
        states
    }

    fn family(&mut self, client: &Client, person: &'static Person, scope: &str) -> u64 {
        self.last_family += 1;
        let family = Family { client_id: client.client_id.clone(), person, scope: scope.to_owned(), ended: None, refreshes: 0 };
        self.families.insert(self.last_family, family);
        self.last_family
    }

    fn first_tokens(
        &mut self,
        client: &Client,
        family: u64,
        scope: String,
        effects: &Effects,
        now: u64,
    ) -> Result<TokenSet, Refusal> {
        let ttl = client.settings.access_ttl;
        let access_token = self.mint_access(family, &scope, effects.early_expiry.unwrap_or(ttl), false, effects, now)?;
        let refresh_token = match client.settings.refresh_tokens {
            true => Some(self.mint_refresh(client, family, effects, now)?),
            false => None,
        };
        Ok(TokenSet { access_token, refresh_token, expires_in: ttl, scope })
    }

    fn mint_access(
        &mut self,
        family: u64,
        scope: &str,
        ttl: u64,
        long_lived: bool,
        effects: &Effects,
        now: u64,
    ) -> Result<String, Refusal> {
        let token = mint(ACCESS_PREFIX, effects)?;
        let access = AccessToken { family, scope: scope.to_owned(), expires_at: later(now, ttl), revoked: false, long_lived };
        self.access.insert(fingerprint(&token), access);
        Ok(token)
    }

    fn mint_refresh(&mut self, client: &Client, family: u64, effects: &Effects, now: u64) -> Result<String, Refusal> {
        let token = mint(REFRESH_PREFIX, effects)?;
        let refresh = RefreshToken { family, expires_at: later(now, client.settings.refresh_ttl), rotated: None };
        self.refresh.insert(fingerprint(&token), refresh);
        Ok(token)
    }

    fn end_family(&mut self, id: u64, end: FamilyEnd) {
        if let Some(family) = self.families.find_mut(&id) {
            family.ended.get_or_insert(end);
        }
    }
}

fn mint(prefix: &str, effects: &Effects) -> Result<String, Refusal> {
    let odd = if effects.control_characters { "\n\u{1b}" } else { "" };
    Ok(format!("{prefix}{odd}{}", random_text()?))
}

fn of_client(families: &Capped<u64, Family>, family: u64, client_id: Option<&str>) -> bool {
    client_id.is_none_or(|wanted| families.find(&family).is_some_and(|family| family.client_id == wanted))
}

/// `seconds` after `at`, both bounded by the largest number.
fn later(at: u64, seconds: u64) -> u64 {
    at.saturating_add(seconds.saturating_mul(1000))
}

/// RFC 7636 sections 4.1 and 4.6.
fn verifier_fits(verifier: &str, challenge: &str) -> bool {
    use base64::Engine as _;
    let well_formed = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    let expected = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
    well_formed && same(&expected, challenge)
}
