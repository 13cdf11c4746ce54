//! The trap: secrets on one side, everything that was heard on the other, and the search for the one in the other.

use std::collections::BTreeMap;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use reqwest::RequestBuilder;

use crate::{scene::Answer, support::Ran};

/// What was heard of the broker, and the secrets that must not be in it.
#[derive(Default)]
pub(super) struct Trap {
    /// By their text: what they are, and in which of `heard` they may be.
    secrets: BTreeMap<String, (String, Vec<usize>)>,
    heard: Vec<(String, String)>,
}

impl Trap {
    /// A secret that nobody ever asks for.
    pub(super) fn plant(&mut self, what: &str) -> String {
        let canary = format!("canary-{}-{}", what.replace(' ', "-"), random());
        self.secret(what, &canary, &[]);
        canary
    }

    /// A secret that was made elsewhere, and the answers that may hold it.
    pub(super) fn secret(&mut self, what: &str, text: &str, allowed: &[usize]) {
        assert!(text.len() >= 7, "{what}: `{text}` is too short to be looked for");
        let known = self.secrets.entry(text.to_owned()).or_insert_with(|| (what.to_owned(), Vec::new()));
        known.1.extend(allowed);
    }

    pub(super) fn hear(&mut self, where_from: impl Into<String>, text: impl Into<String>) -> usize {
        self.heard.push((where_from.into(), text.into()));
        self.heard.len() - 1
    }

    pub(super) fn hear_ran(&mut self, ran: Ran) -> usize {
        self.hear(format!("valetkey {}", ran.what), format!("{}{}", ran.stdout, ran.stderr))
    }

    /// Sends a request, and keeps all of its answer, however far that came.
    pub(super) async fn ask(&mut self, what: &str, request: RequestBuilder) -> (Answer, usize) {
        let answer = match request.send().await {
            Ok(mut response) => {
                let mut bytes = Vec::new();
                while let Ok(Some(piece)) = response.chunk().await {
                    bytes.extend_from_slice(&piece);
                }
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let body = serde_json::from_str(&text).unwrap_or_default();
                Answer { status: response.status(), headers: response.headers().clone(), body, text }
            }
            Err(_) => Answer::none(),
        };
        let at = self.hear(what, format!("{} {:?}\n{}", answer.status, answer.headers, answer.text));
        (answer, at)
    }

    /// Everything that was found where it should not be.
    pub(super) fn caught(&self) -> Vec<String> {
        let mut caught = Vec::new();
        for (secret, (what, allowed)) in &self.secrets {
            let (mut seen, forms) = (false, forms(secret));
            for (at, (where_from, text)) in self.heard.iter().enumerate() {
                let Some(form) = forms.iter().find(|(_, form)| text.contains(form.as_str())) else { continue };
                if allowed.contains(&at) {
                    seen = true;
                } else {
                    let found = text.find(form.1.as_str()).unwrap();
                    let from = (found.saturating_sub(160)..=found).find(|at| text.is_char_boundary(*at)).unwrap();
                    let around: String = text[from..].chars().take(320).collect();
                    caught.push(format!("{what} ({}) in {where_from}: ...{around}...", form.0));
                }
            }
            // Else the search would find nothing because there was nothing.
            assert!(allowed.is_empty() || seen, "{what} was not even in the answer that was asked for it");
        }
        caught
    }
}

/// Text that nobody else has.
pub(super) fn random() -> String {
    valetkey::id::random_text::<24>().unwrap()
}

/// How a secret may look.
fn forms(secret: &str) -> Vec<(&'static str, String)> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut forms = vec![("as it is", secret.to_owned()), ("in hex", hex), ("in a URL", url)];
    for skipped in 0..3 {
        // Whole groups of three bytes, however the text lies in a larger one.
        let bytes = &secret.as_bytes()[skipped..];
        let whole = &bytes[..bytes.len() / 3 * 3];
        forms.push(("in base64", STANDARD.encode(whole)));
        forms.push(("in base64url", URL_SAFE.encode(whole)));
    }
    forms
}

#[test]
fn the_search_finds_what_is_there() {
    let secret = "canary-of-this-test-0123456789";
    for form in [
        format!("x{secret}y"),
        secret.bytes().map(|byte| format!("{byte:02x}")).collect(),
        STANDARD.encode(format!("Basic a:{secret}")),
        STANDARD.encode(format!("Basic ab:{secret}!")),
        STANDARD.encode(format!("Basic abc:{secret}?!")),
    ] {
        let mut trap = Trap::default();
        trap.secret("it", secret, &[]);
        trap.hear("somewhere", form.clone());
        assert_eq!(trap.caught().len(), 1, "{form}");
    }
}
