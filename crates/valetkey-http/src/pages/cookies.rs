//! The cookies. Two are of connecting: a *visit* binds the page to a browser, a *flow* binds the way back to it. One is a
//! person's *session*.
//!
//! Over https their names begin with `__Host-`: no other host can set them, and they go to this host alone. On plain
//! http, which is for loopback only, browsers refuse that prefix, so they go without. Nothing turns the binding off.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use valetkey::{
    base::Outside,
    connect::Binding,
    secret::Secret,
    session::{self, SessionSecret},
};

/// How long a visit lasts, in seconds: as long as a link.
const VISIT_AGE: u64 = 600;

/// What the session's cookie is called.
const SESSION: &str = "vk_session";

/// The cookies of one request, and how ours are written.
pub(crate) struct Cookies {
    secure: bool,
    sent: Vec<(String, Secret)>,
}

impl Cookies {
    pub(crate) fn new(outside: &Outside, headers: &HeaderMap) -> Self {
        let pairs =
            headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|line| line.split(';'));
        let sent = pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| name.contains("vk_"))
            .map(|(name, value)| (name.to_owned(), Secret::new(value)))
            .collect();
        Self { secure: outside.public_url.scheme() == "https", sent }
    }

    pub(super) fn visit(&self, key: &str) -> Option<Secret> {
        self.find(&self.visit_name(key))
    }

    pub(super) fn flow(&self, key: &str) -> Option<Secret> {
        self.find(&self.flow_name(key))
    }

    pub(super) fn set_visit(&self, response: &mut Response, binding: &Binding) {
        self.set(response, &self.visit_name(&binding.key), binding.value.expose(), VISIT_AGE);
    }

    pub(super) fn set_flow(&self, response: &mut Response, binding: &Binding, max_age: u64) {
        self.set(response, &self.flow_name(&binding.key), binding.value.expose(), max_age);
    }

    pub(super) fn clear_visit(&self, response: &mut Response, key: &str) {
        self.set(response, &self.visit_name(key), "", 0);
    }

    pub(super) fn clear_flow(&self, response: &mut Response, key: &str) {
        let name = self.flow_name(key);
        if self.find(&name).is_some() {
            self.set(response, &name, "", 0);
        }
    }

    /// The session that the browser says it has.
    pub(crate) fn session(&self) -> Option<SessionSecret> {
        SessionSecret::presented(self.find(&self.session_name())?)
    }

    pub(super) fn set_session(&self, response: &mut Response, secret: &SessionSecret) {
        self.set(response, &self.session_name(), secret.expose(), session::LIFE.as_secs());
    }

    pub(super) fn clear_session(&self, response: &mut Response) {
        self.set(response, &self.session_name(), "", 0);
    }

    fn session_name(&self) -> String {
        format!("{}{SESSION}", self.prefix())
    }

    fn visit_name(&self, key: &str) -> String {
        format!("{}vk_visit_{key}", self.prefix())
    }

    fn flow_name(&self, key: &str) -> String {
        format!("{}vk_flow_{key}", self.prefix())
    }

    fn prefix(&self) -> &'static str {
        if self.secure { "__Host-" } else { "" }
    }

    /// A cookie by its name; one that is sent twice was set by somebody else too, and counts as none.
    fn find(&self, name: &str) -> Option<Secret> {
        let mut found = self.sent.iter().filter(|(known, _)| known == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value.clone()),
            _ => None,
        }
    }

    fn set(&self, response: &mut Response, name: &str, value: &str, max_age: u64) {
        let secure = if self.secure { "; Secure" } else { "" };
        let cookie = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
        if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
            cookie.set_sensitive(true);
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
}
