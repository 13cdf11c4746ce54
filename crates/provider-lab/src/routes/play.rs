//! Plays the provider of a [`Script`].
//!
//! 1. A request is matched with the script: the authorization endpoint, one of its calls, or else the API.
//! 2. What it carries is compared: everything that must be there, nothing that may not. A misfit is a complaint and is
//!    answered 400.
//! 3. The tokens that it names are looked up, and what it is for is done to them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::Engine as _;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json, json};
use url::form_urlencoded;

use crate::{
    ACCESS_PREFIX, CODE_PREFIX, REFRESH_PREFIX,
    fault::{At, Effects},
    mimic::FORGED,
    moment::rfc3339,
    records::Call as Recorded,
    routes::{answer, authorize, visit},
    script::{Authorize, Call, Challenge, Found, Param, Place, Role, Said, Script, Tree, Value},
    signature::Signed,
    tokens::Refusal,
    world::{World, fingerprint, hex, random_text, same},
};

/// The largest body that is read.
const LARGEST_BODY: usize = 4 << 20;
/// How long an authorization code lives, in milliseconds.
const CODE_LIFE: u64 = 60_000;

/// What is played, and what came of it so far.
pub(crate) struct Playing {
    script: Script,
    state: Mutex<Memory>,
}

/// Without what it remembers, which are tokens.
impl fmt::Debug for Playing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Playing").field("hosts", &self.script.hosts).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Memory {
    codes: HashMap<String, Consent>,
    access: HashMap<String, Token>,
    refresh: HashMap<String, Token>,
    /// The secret of each family's tokens, where calls are signed.
    secrets: HashMap<u64, String>,
    /// Families that ended.
    ended: Vec<u64>,
    families: u64,
    left_out: Vec<Said>,
    complaints: Vec<String>,
}

struct Consent {
    challenge: Option<String>,
    ends: u64,
}

struct Token {
    family: u64,
    ends: u64,
    /// When a refresh token was replaced, and by which.
    replaced: Option<(u64, String)>,
}

#[derive(Clone)]
struct Theatre {
    world: Arc<World>,
    playing: Arc<Playing>,
}

/// What a request is, by the script.
enum Scene {
    Authorize,
    Call(usize),
    Api,
}

/// A request, taken apart.
struct Asked {
    method: String,
    host: String,
    path: String,
    query: Vec<(String, String)>,
    form: Vec<(String, String)>,
    json: Json,
    headers: HeaderMap,
    /// The signature, where one can be read.
    signed: Option<Signed>,
    /// Whether what nobody may get through is in it.
    forged: bool,
}

pub(crate) fn router(world: Arc<World>, playing: Arc<Playing>) -> Router {
    Router::new().fallback(play).with_state(Theatre { world, playing })
}

async fn play(State(theatre): State<Theatre>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LARGEST_BODY).await.unwrap_or_default();
    let asked = Asked::new(&parts, &body);
    let script = &theatre.playing.script;
    let (scene, read) = script.scene(&asked);
    let at = match scene {
        Scene::Authorize => At::Authorize,
        Scene::Api => At::Api,
        Scene::Call(index) => script.calls.get(index).map_or(At::Any, |call| fault_place(call.role)),
    };
    let credential = read.iter().flatten().find_map(|found| match found {
        Found::Plain(Value::AccessToken | Value::RefreshToken | Value::Code, text) => Some(fingerprint(text)),
        _ => None,
    });
    let recorded =
        Recorded { at, method: asked.method.clone(), path: asked.path.clone(), client_id: None, credential_sha256: credential };
    let playing = theatre.playing.clone();
    visit::act(&theatre.world, recorded, move |world, effects| playing.act(world, &scene, &asked, read, effects)).await
}

/// Where misbehaviour is told for a call.
fn fault_place(role: Role) -> At {
    match role {
        Role::Temporary => At::TemporaryToken,
        Role::First => At::Code,
        Role::Exchange => At::Exchange,
        Role::Refresh => At::Refresh,
        Role::Revoke => At::Revoke,
        Role::Identity => At::Userinfo,
        Role::Register | Role::Details => At::Details,
    }
}

impl Script {
    /// Which part of the script a request is for, and the values in it; or what is wrong with it.
    fn scene(&self, asked: &Asked) -> (Scene, Result<Vec<Found>, String>) {
        if let Some(authorize) = &self.authorize
            && (asked.host.as_str(), asked.path.as_str()) == (authorize.host.as_str(), authorize.path.as_str())
        {
            return (Scene::Authorize, authorize.read(asked));
        }
        let mut misfit = None;
        for (index, call) in self.calls.iter().enumerate() {
            if call.method != asked.method || call.host != asked.host {
                continue;
            }
            let Some(in_path) = call.path.read(&asked.path) else { continue };
            match call.read(asked) {
                Ok(found) => return (Scene::Call(index), Ok(in_path.into_iter().chain(found).collect())),
                // Calls to one endpoint are told apart by what they say; the one that fits best is the one that was meant.
                Err((fits, why)) => {
                    if misfit.as_ref().is_none_or(|(best, _, _)| fits > *best) {
                        misfit = Some((fits, index, why));
                    }
                }
            }
        }
        match misfit {
            Some((_, index, why)) => (Scene::Call(index), Err(why)),
            None => (Scene::Api, self.read_credential(asked)),
        }
    }

    fn read_credential(&self, asked: &Asked) -> Result<Vec<Found>, String> {
        if !self.hosts.contains(&asked.host) {
            return Err(format!("a call came for {}, which is none of the hosts", asked.host));
        }
        if asked.forged {
            return Err("what the caller put in the credential's place got through".to_owned());
        }
        let mut found = Vec::new();
        if self.signing.as_ref().is_some_and(|signing| signing.api) {
            found.extend(asked.signing_token());
        }
        for param in &self.credential {
            match asked.values(param.place, &param.name).as_slice() {
                [] if param.optional => {}
                [one] => found.extend(param.value.read(one).ok_or_else(|| format!("{param} is not the credential"))?),
                several => return Err(format!("{param} is there {} times", several.len())),
            }
        }
        Ok(found)
    }
}

impl Authorize {
    fn read(&self, asked: &Asked) -> Result<Vec<Found>, String> {
        let known = |name: &str| {
            let of_flow = (name == "state" && !self.by_token) || (self.challenge.is_some() && name.starts_with("code_challenge"));
            of_flow || self.params.iter().any(|param| param.name == name)
        };
        if let Some((name, _)) = asked.query.iter().find(|(name, _)| !known(name)) {
            return Err(format!("authorize: the parameter {name} is not known"));
        }
        let mut found = Vec::new();
        for param in &self.params {
            found.extend(read(param, asked).map_err(|why| format!("authorize: {why}"))?);
        }
        if self.by_token {
            return Ok(found);
        }
        let one = |name: &str| match asked.values(Place::Query, name).as_slice() {
            [one] if !one.is_empty() => Ok(one.clone()),
            other => Err(format!("authorize: {name} is there {} times", other.len())),
        };
        one("state")?;
        if let Some(way) = self.challenge {
            let length = if way == Challenge::Hex { 64 } else { 43 };
            if one("code_challenge")?.len() != length || one("code_challenge_method")? != "S256" {
                return Err("authorize: the challenge is not an S256 challenge".to_owned());
            }
        }
        Ok(found)
    }
}

impl Call {
    /// The values in a request for this call; or how much of it fits, and what does not.
    fn read(&self, asked: &Asked) -> Result<Vec<Found>, (usize, String)> {
        let (mut found, mut fits, mut wrong) = (Vec::new(), 0, None);
        for param in &self.params {
            match read(param, asked) {
                Ok(values) => {
                    found.extend(values);
                    fits += 1;
                }
                Err(why) => {
                    wrong.get_or_insert(why);
                }
            }
        }
        for (place, sent) in [(Place::Query, &asked.query), (Place::Form, &asked.form)] {
            let known = |name: &str| self.params.iter().any(|param| param.place == place && param.name == name);
            if let Some((name, _)) = sent.iter().find(|(name, _)| !known(name)) {
                wrong.get_or_insert(format!("the parameter {name} is not known"));
            }
        }
        if self.is_signed {
            found.extend(asked.signing_token());
        }
        match wrong {
            None => Ok(found),
            Some(why) => Err((fits, format!("{} {}: {why}", self.method, asked.path))),
        }
    }
}

/// The values in one parameter, or what is wrong with it. What was sent is not repeated: it may be a secret.
fn read(param: &Param, asked: &Asked) -> Result<Vec<Found>, String> {
    match asked.values(param.place, &param.name).as_slice() {
        [] if param.optional => Ok(Vec::new()),
        [] => Err(format!("{param} is missing")),
        [one] => param.value.read(one).ok_or_else(|| format!("{param} is not what it must be")),
        several => Err(format!("{param} is there {} times", several.len())),
    }
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Query => "the query's",
            Place::Form => "the form's",
            Place::Json => "the JSON body's",
            Place::Header => "the header",
            Place::Signature => "the signature's",
        };
        write!(f, "{place} {}", self.name)
    }
}

impl Asked {
    fn new(parts: &Parts, body: &Bytes) -> Self {
        let pairs = |bytes: &[u8]| form_urlencoded::parse(bytes).into_owned().collect::<Vec<_>>();
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
        let host = host.or_else(|| parts.uri.authority().map(ToString::to_string)).unwrap_or_default().to_ascii_lowercase();
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_form = content_type.starts_with("application/x-www-form-urlencoded");
        let forged = {
            let in_headers = parts.headers.values().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(FORGED));
            in_headers || parts.uri.to_string().contains(FORGED) || String::from_utf8_lossy(body).contains(FORGED)
        };
        Self {
            method: parts.method.to_string(),
            host: host.strip_suffix(":443").unwrap_or(&host).to_owned(),
            path: percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned(),
            query: pairs(parts.uri.query().unwrap_or_default().as_bytes()),
            form: if is_form { pairs(body) } else { Vec::new() },
            json: if is_form { Json::Null } else { serde_json::from_slice(body).unwrap_or_default() },
            headers: parts.headers.clone(),
            signed: {
                let origin = format!("https://{}", host.strip_suffix(":443").unwrap_or(&host));
                Signed::read(&origin, &parts.method, &parts.uri, &parts.headers, body).ok()
            },
            forged,
        }
    }

    /// The token that a signature names.
    fn signing_token(&self) -> Option<Found> {
        let token = self.signed.as_ref()?.find("oauth_token")?;
        Some(Found::Plain(Value::AccessToken, token.to_owned()))
    }

    /// What stands in that place under that name.
    fn values(&self, place: Place, name: &str) -> Vec<String> {
        let of = |pairs: &[(String, String)]| {
            pairs.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        match place {
            Place::Query => of(&self.query),
            Place::Form => of(&self.form),
            Place::Json => match self.json.pointer(name) {
                None | Some(Json::Null) => Vec::new(),
                Some(Json::String(text)) => vec![text.clone()],
                Some(other) => vec![other.to_string()],
            },
            Place::Header => {
                self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
            }
            Place::Signature => self.signed.iter().filter_map(|signed| signed.find(name)).map(str::to_owned).collect(),
        }
    }
}

impl Playing {
    pub(crate) fn new(script: Script) -> Self {
        Self { script, state: Mutex::default() }
    }

    pub(crate) fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.memory().complaints)
    }

    pub(crate) fn leave_out(&self, said: &[Said]) {
        self.memory().left_out = said.to_vec();
    }

    pub(crate) fn end_access_tokens(&self) {
        self.memory().access.clear();
    }

    pub(crate) fn works(&self, access_token: &str, now: u64) -> bool {
        self.memory().lives(access_token, now).is_some()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, world: &World, scene: &Scene, asked: &Asked, read: Result<Vec<Found>, String>, effects: &Effects) -> Response {
        let now = world.with(|_, now| now);
        let mut memory = self.memory();
        let read = read.and_then(|found| self.signature_fits(&memory, scene, asked).map(|()| found));
        let done = read.map_err(|why| memory.complain(why)).and_then(|found| match scene {
            Scene::Authorize => self.send_back(&mut memory, asked, effects, now),
            Scene::Call(index) => match self.script.calls.get(*index) {
                Some(call) => self.answer_call(&mut memory, call, &found, effects, now),
                None => Err(Refusal::new("server_error", "the script has no such call")),
            },
            Scene::Api => memory.tokens_work(&found, now).map(|_| {
                answer(StatusCode::OK, &json!({ "played": true, "method": asked.method, "host": asked.host, "path": asked.path }))
            }),
        });
        done.unwrap_or_else(IntoResponse::into_response)
    }

    /// Whether a call that must be signed is: by the app, and with the secret of the token that it names (RFC 5849 section 3.2).
    fn signature_fits(&self, memory: &Memory, scene: &Scene, asked: &Asked) -> Result<(), String> {
        let Some(signing) = &self.script.signing else { return Ok(()) };
        let role = match scene {
            Scene::Authorize => None,
            Scene::Api => signing.api.then_some(Role::Details),
            Scene::Call(index) => self.script.calls.get(*index).filter(|call| call.is_signed).map(|call| call.role),
        };
        let Some(role) = role else { return Ok(()) };
        let signed = asked.signed.as_ref().ok_or_else(|| format!("{} {} is not signed", asked.method, asked.path))?;
        let secret = match (role, signed.find("oauth_token")) {
            (Role::Temporary, None) => Some(""),
            (Role::Temporary, Some(_)) | (_, None) => None,
            (_, Some(token)) => memory.access.get(token).and_then(|token| memory.secrets.get(&token.family)).map(String::as_str),
        };
        let is_app = signed.find("oauth_consumer_key") == Some(signing.key.as_str());
        match secret {
            Some(secret) if is_app && signed.fits(&signing.secret, secret) => Ok(()),
            _ => Err(format!("{} {} is not signed as it must be", asked.method, asked.path)),
        }
    }

    /// Sends the browser back with a code, or with what the effects say instead.
    fn send_back(&self, memory: &mut Memory, asked: &Asked, effects: &Effects, now: u64) -> Result<Response, Refusal> {
        let Some(script) = &self.script.authorize else { return Err(Refusal::new("server_error", "no browser is sent here")) };
        let value = |name: &str| asked.values(Place::Query, name).into_iter().next();
        let token = script.by_token.then(|| value("oauth_token").unwrap_or_default());
        if token.as_ref().is_some_and(|token| memory.lives(token, now).is_none()) {
            return Err(memory.complain("the temporary token is none that was given out, or it was used".to_owned()));
        }
        let denied_param = self.script.signing.as_ref().and_then(|signing| signing.denied_param.clone());
        let mut params = match (&effects.deny, token) {
            (Some(error), token) => vec![denied_param.zip(token).unwrap_or_else(|| ("error".to_owned(), error.clone()))],
            (None, token) => {
                let code = format!("{CODE_PREFIX}{}", random_text()?);
                memory.codes.insert(code.clone(), Consent { challenge: value("code_challenge"), ends: now + CODE_LIFE });
                match token {
                    Some(token) => vec![("oauth_token".to_owned(), token), ("oauth_verifier".to_owned(), code)],
                    None => vec![("code".to_owned(), format!("{code}{}", script.code_suffix.as_deref().unwrap_or_default()))],
                }
            }
        };
        params.extend(value("state").map(|state| ("state".to_owned(), state)));
        params.extend(script.issuer.clone().map(|issuer| ("iss".to_owned(), issuer)));
        authorize::edit(&mut params, &effects.edits);
        Ok(authorize::send_back(&script.redirect_uri, &params))
    }

    fn answer_call(
        &self,
        memory: &mut Memory,
        call: &Call,
        found: &[Found],
        effects: &Effects,
        now: u64,
    ) -> Result<Response, Refusal> {
        let named = |wanted: Value| {
            found.iter().find_map(|found| match found {
                Found::Plain(value, text) if *value == wanted => Some(text.as_str()),
                _ => None,
            })
        };
        if let Some(assertion) = named(Value::Assertion)
            && assertion.split('.').filter(|part| !part.is_empty()).count() != 3
        {
            return Err(memory.complain("the assertion has no three parts".to_owned()));
        }
        let mut family = 0;
        let mut refresh_token = None;
        match call.role {
            Role::First => {
                if let Some(code) = named(Value::Code) {
                    self.redeem(memory, code, named(Value::Verifier), now)?;
                }
                // A temporary token serves once (RFC 5849 section 2.3).
                if call.is_signed {
                    let used = memory.tokens_work(found, now)?;
                    memory.ended.extend(used);
                }
                family = memory.begin_family();
            }
            Role::Temporary => family = memory.begin_family(),
            Role::Refresh => match named(Value::RefreshToken) {
                Some(old) => (family, refresh_token) = self.renew(memory, old, now)?,
                None => {
                    let lives = memory.tokens_work(found, now).map_err(|_| Refusal::grant("the access token does not work"))?;
                    family = lives.unwrap_or_else(|| memory.begin_family());
                }
            },
            Role::Exchange => {
                let lives = memory.tokens_work(found, now).map_err(|_| Refusal::grant("the access token does not work"))?;
                family = lives.unwrap_or_else(|| memory.begin_family());
            }
            Role::Identity | Role::Details => {
                family = memory.tokens_work(found, now)?.unwrap_or_default();
            }
            Role::Revoke => {
                let tokens = [named(Value::RefreshToken), named(Value::AccessToken)];
                let of = |token: &str| memory.refresh.get(token).or_else(|| memory.access.get(token)).map(|token| token.family);
                // Unknown is what the caller wanted (RFC 7009 section 2.2).
                if let Some(family) = tokens.into_iter().flatten().find_map(of) {
                    memory.ended.push(family);
                }
            }
            Role::Register => {}
        }
        let Some(tree) = &call.answer.body else { return Ok(StatusCode::OK.into_response()) };
        let mut making = Making { memory, script: &self.script, effects, family, refresh_token, now };
        let Some(body) = making.body(tree)? else { return Ok(StatusCode::OK.into_response()) };
        if !call.answer.form {
            return Ok(answer(StatusCode::OK, &body));
        }
        let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let pairs = body.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), text(value)));
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/x-www-form-urlencoded")], form).into_response())
    }

    /// Spends a code (RFC 6749 section 4.1.3, RFC 7636 section 4.6).
    fn redeem(&self, memory: &mut Memory, code: &str, verifier: Option<&str>, now: u64) -> Result<(), Refusal> {
        let Some(consent) = memory.codes.remove(code).filter(|consent| now < consent.ends) else {
            return Err(memory.complain("the code is not one that was given out, or it was spent before".to_owned()));
        };
        let way = self.script.authorize.as_ref().and_then(|authorize| authorize.challenge);
        let fits = match (way, &consent.challenge, verifier) {
            (None, _, None) => true,
            (Some(way), Some(challenge), Some(verifier)) => same(&challenge_of(way, verifier), challenge),
            _ => false,
        };
        if fits { Ok(()) } else { Err(memory.complain("the PKCE verifier does not belong to the challenge".to_owned())) }
    }

    /// The family of a refresh token, and the one that counts from now on.
    fn renew(&self, memory: &mut Memory, old: &str, now: u64) -> Result<(u64, Option<String>), Refusal> {
        let dead = || Refusal::grant("the refresh token does not work");
        let life = self.script.tokens;
        let token = memory.refresh.get(old).ok_or_else(dead)?;
        let family = token.family;
        if memory.ended.contains(&family) || now >= token.ends {
            return Err(dead());
        }
        if let Some((at, successor)) = &token.replaced {
            if now < at.saturating_add(life.grace.saturating_mul(1000)) {
                return Ok((family, Some(successor.clone())));
            }
            if life.reuse_kills_family {
                memory.ended.push(family);
            }
            return Err(dead());
        }
        if !life.rotates || memory.left_out.contains(&Said::RefreshToken) {
            return Ok((family, Some(old.to_owned())));
        }
        let fresh = mint(REFRESH_PREFIX, &Effects::default())?;
        memory.refresh.insert(fresh.clone(), Token { family, ends: later(now, life.refresh), replaced: None });
        if let Some(token) = memory.refresh.get_mut(old) {
            token.replaced = Some((now, fresh.clone()));
        }
        Ok((family, Some(fresh)))
    }
}

impl Memory {
    /// Notes what is wrong with a request, and refuses it.
    fn complain(&mut self, why: String) -> Refusal {
        self.complaints.push(why);
        Refusal::request("the request is not as the script has it")
    }

    /// The secret of a family's tokens.
    fn secret_of(&mut self, family: u64) -> Result<String, Refusal> {
        if let Some(known) = self.secrets.get(&family) {
            return Ok(known.clone());
        }
        let fresh = random_text()?;
        self.secrets.insert(family, fresh.clone());
        Ok(fresh)
    }

    fn begin_family(&mut self) -> u64 {
        self.families += 1;
        self.families
    }

    fn lives(&self, access_token: &str, now: u64) -> Option<u64> {
        let token = self.access.get(access_token).filter(|token| now < token.ends)?;
        (!self.ended.contains(&token.family)).then_some(token.family)
    }

    /// The family of the access token that was found, which must work; nothing where none was found.
    fn tokens_work(&self, found: &[Found], now: u64) -> Result<Option<u64>, Refusal> {
        let refuse = || Refusal::new("invalid_token", "the access token is unknown, revoked or expired");
        let mut family = None;
        for found in found {
            match found {
                Found::Plain(Value::AccessToken, token) => family = Some(self.lives(token, now).ok_or_else(refuse)?),
                Found::Hmac { key, of: Value::AccessToken, hex } => {
                    let fits = |token: &&String| self.lives(token, now).is_some() && same(&keyed_hash(key, token), hex);
                    self.access.keys().find(fits).ok_or_else(refuse)?;
                }
                _ => {}
            }
        }
        Ok(family)
    }
}

/// An answer under construction.
struct Making<'a> {
    memory: &'a mut Memory,
    script: &'a Script,
    effects: &'a Effects,
    family: u64,
    /// The refresh token that counts; absent before there is one.
    refresh_token: Option<String>,
    now: u64,
}

impl Making<'_> {
    /// The value of a tree; nothing for what is left out.
    fn body(&mut self, tree: &Tree) -> Result<Option<Json>, Refusal> {
        Ok(Some(match tree {
            Tree::Plain(value) => value.clone(),
            Tree::Said(said) if self.memory.left_out.contains(said) => return Ok(None),
            Tree::Said(said) => self.said(*said)?,
            Tree::List(items) => {
                let mut list = Vec::new();
                for item in items {
                    list.extend(self.body(item)?);
                }
                Json::Array(list)
            }
            Tree::Object(members) => {
                let mut map = Map::new();
                for (name, member) in members {
                    if let Some(value) = self.body(member)? {
                        map.insert(name.clone(), value);
                    }
                }
                Json::Object(map)
            }
        }))
    }

    fn said(&mut self, said: Said) -> Result<Json, Refusal> {
        let life = self.script.tokens;
        let ends = later(self.now, life.access);
        Ok(match said {
            Said::AccessToken | Said::ResourceToken => {
                let token = self.mint(ACCESS_PREFIX, ends)?;
                self.memory.access.insert(token.clone(), Token { family: self.family, ends, replaced: None });
                token.into()
            }
            Said::RefreshToken => match self.refresh_token.clone() {
                Some(token) => token.into(),
                None => {
                    let ends = later(self.now, life.refresh);
                    let token = self.mint(REFRESH_PREFIX, ends)?;
                    self.memory.refresh.insert(token.clone(), Token { family: self.family, ends, replaced: None });
                    token.into()
                }
            },
            Said::TokenSecret => self.memory.secret_of(self.family)?.into(),
            Said::ExpiresIn => life.access.into(),
            Said::RefreshExpiresIn => life.refresh.into(),
            Said::ExpiresAtSeconds => (ends / 1000).into(),
            Said::ExpiresAtMs => ends.into(),
            Said::ExpiresAtText => rfc3339(ends / 1000).into(),
        })
    }

    fn mint(&self, prefix: &str, ends: u64) -> Result<String, Refusal> {
        if !self.script.tokens.jwt || self.effects.control_characters {
            return mint(prefix, self.effects);
        }
        let part = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let claims = json!({ "exp": ends / 1000, "jti": random_text()? });
        // Nobody checks the signature; a real one would be as long.
        Ok(format!("{}.{}.{}", part(b"{\"alg\":\"none\"}"), part(claims.to_string().as_bytes()), part(prefix.as_bytes())))
    }
}

fn mint(prefix: &str, effects: &Effects) -> Result<String, Refusal> {
    let odd = if effects.control_characters { "\n\u{1b}" } else { "" };
    Ok(format!("{prefix}{odd}{}", random_text()?))
}

/// `seconds` after `at`, in milliseconds.
fn later(at: u64, seconds: u64) -> u64 {
    at.saturating_add(seconds.saturating_mul(1000))
}

fn challenge_of(way: Challenge, verifier: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    match way {
        Challenge::Base64Url => base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest),
        Challenge::Hex => hex(digest.as_ref()),
    }
}

fn keyed_hash(key: &str, text: &str) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
    hex(aws_lc_rs::hmac::sign(&key, text.as_bytes()).as_ref())
}
