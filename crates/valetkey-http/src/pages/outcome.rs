//! What became of a flow: where the browser is sent with it, and the page that shows it.
//!
//! The page takes words from its query, so it shows only words of closed lists, and says nothing that a made-up link
//! could turn into a lie that matters.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use url::form_urlencoded;
use valetkey::{
    Code, Error,
    connect::{ERROR_WORDS, Ended, Outcome},
    id::ProviderName,
};

use super::{
    Deps,
    answer::{Forms, page},
    failed,
};

const CONNECTED: &str = "connected";

/// Where the browser goes: to the lists, where the person has to choose; then to the session's `return_to`, else to our page.
pub(super) fn target(ended: &Ended) -> String {
    if let Some((site, session)) = &ended.choose {
        return format!("/connect/choose/{site}/{session}");
    }
    if let Some(url) = ended.return_url() {
        return url;
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    match &ended.outcome {
        Outcome::Connected { missing_scopes, .. } => {
            query.append_pair("outcome", CONNECTED);
            if !missing_scopes.is_empty() {
                query.append_pair("missing", &missing_scopes.join(" "));
            }
        }
        Outcome::Failed { code, word } => {
            query.append_pair("outcome", code.as_str());
            if let Some(word) = word {
                query.append_pair("word", word);
            }
        }
    }
    if let Some(provider) = &ended.provider {
        query.append_pair("provider", provider.as_str());
    }
    format!("/connect/done?{}", query.finish())
}

/// The same for an answer of which nothing is known.
pub(super) fn failure(code: Code) -> String {
    format!("/connect/done?outcome={code}")
}

#[derive(Template)]
#[template(path = "done.html")]
struct Done {
    heading: String,
    text: String,
    tone: &'static str,
    word: Option<&'static str>,
    missing: Vec<String>,
    missing_others: bool,
    outcome: &'static str,
}

/// `GET /connect/done`
pub(super) async fn done(State(deps): State<Deps>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let value = |wanted: &str| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value);
    let provider = value("provider").and_then(|name| name.parse::<ProviderName>().ok());
    let definition = provider.and_then(|name| deps.outside.catalogue.get(&name).cloned());
    let title = definition.as_ref().map_or_else(|| "the provider".to_owned(), |definition| definition.title.clone());
    let named = value("outcome").unwrap_or_default();
    let word = value("word");
    // A name is repeated only where the definition has it: anybody can make up a link.
    let told = value("missing").unwrap_or_default();
    let usual = definition.map(|definition| definition.needed_scopes()).unwrap_or_default();
    let (missing, others): (Vec<String>, Vec<String>) =
        told.split_whitespace().map(str::to_owned).partition(|scope| usual.contains(scope));
    let missing_others = !others.is_empty();
    if named == CONNECTED {
        let done = Done {
            heading: format!("The account of {title} is linked"),
            text: "It can be used now, as far as its owner grants it.".to_owned(),
            tone: "good",
            word: None,
            missing,
            missing_others,
            outcome: CONNECTED,
        };
        return page(StatusCode::OK, &done, &Forms::None);
    }
    let Some(code) = Code::ALL.iter().copied().find(|code| code.as_str() == named) else {
        return failed(Error::new(Code::NotFound, "there is no such outcome"));
    };
    let text = TEXTS.iter().find(|(known, _)| *known == code).map_or(OTHERWISE, |(_, text)| text);
    let done = Done {
        heading: format!("No account of {title} was linked"),
        text: text.to_owned(),
        tone: "bad",
        word: ERROR_WORDS.into_iter().find(|known| code == Code::OauthDenied && word.as_deref() == Some(*known)),
        missing: Vec::new(),
        missing_others: false,
        outcome: code.as_str(),
    };
    page(StatusCode::OK, &done, &Forms::None)
}

const OTHERWISE: &str = "Something went wrong here. Tell your operator.";

/// What is said about an outcome.
const TEXTS: &[(Code, &str)] = &[
    (Code::OauthDenied, "It was refused, by you or by the provider. What was linked before stays as it was."),
    (
        Code::InvalidState,
        "This answer does not belong to anything this browser began, or it came too late or twice. If you pressed reload, look \
         whether the account is linked already; else start again.",
    ),
    (Code::AccessDenied, "It was refused, by you or by the provider. What was linked before stays as it was."),
    (Code::MissingParameters, "The answer lacks what is needed to go on. Start again; if it stays, tell your operator."),
    (
        Code::TokenSecretExpired,
        "This answer does not belong to anything this browser began, or it came too late or twice. If you pressed reload, look \
         whether the account is linked already; else start again.",
    ),
    (
        Code::AccessTokenFailed,
        "The provider did not give out what its answer promised. Start again; if it stays, tell your operator.",
    ),
    (
        Code::Forbidden,
        "Whoever this account was for, or whoever made the link, may not do that here any more. Ask where you got the link.",
    ),
    (Code::IssuerMismatch, "The answer came from somebody else than the provider that was asked. Nothing was done with it."),
    (
        Code::TokenExchangeFailed,
        "The provider did not give out what its answer promised. Start again; if it stays, tell your operator.",
    ),
    (Code::TokenTransformFailed, "The provider did not complete the second step. Start again; if it stays, tell your operator."),
    (Code::AccountFetchFailed, "The provider did not say whose account it is. Start again; if it stays, tell your operator."),
    (Code::StorageFailed, "The account could not be stored here. Start again in a while."),
    (
        Code::SubjectMismatch,
        "You signed in with another account than the one that is linked here. Sign in there with that one, or ask for a link that \
         may replace it.",
    ),
    (
        Code::LoginRefused,
        "The provider refused what was entered, as often as it may be tried with one link. Check it, and ask for a new link.",
    ),
    (Code::RateLimited, "The provider wants no more attempts for now. Wait a while, and ask for a new link."),
    (Code::UpstreamUnreachable, "The provider could not be reached. Ask for a new link in a while."),
    (Code::UpstreamTimeout, "The provider did not answer in time. Ask for a new link in a while."),
    (Code::UpstreamInvalid, "The provider answered in a way that cannot be used. If it stays, tell your operator."),
    (Code::TlsFailed, "The account's server cannot be spoken to in secret: check its host and port, and ask for a new link."),
    (
        Code::StarttlsMissing,
        "The account's server does not offer the encryption that was chosen. Check it and the port, and ask for a new link.",
    ),
    (Code::AddressRefused, "The account's server is not at a public address, and is not spoken to."),
    (Code::HostRefused, "The account's server cannot be used."),
    (Code::NotConfigured, "The provider's app is not set up here any more. Tell your operator."),
    (Code::EngineMissing, "This provider cannot be connected by this version."),
    (Code::NotFound, "There is no such provider here."),
    (Code::InvalidRequest, "The answer was not one that can be read. Start again."),
    (Code::Unavailable, "The service is not ready. Start again in a while."),
    (Code::Unsealable, "What was kept for this flow cannot be opened. Tell your operator."),
    (Code::KeyUnavailable, "The keys of this server are not ready. Tell your operator."),
];
