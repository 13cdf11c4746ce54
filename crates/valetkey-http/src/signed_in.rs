//! Who is signed in: what the pages ask for that are a person's own.
//!
//! A page that shows takes [`SignedIn`]; one that changes something takes [`SignedForm`], which no handler gets to see before
//! its origin and its token were checked. Whoever is not signed in is told where to do that. What is dangerous asks the
//! session for a fresh proof ([`valetkey::session::Session::require_fresh`]), and [`refused`] shows how to bring it.
//!
//! A session belongs to one site, and a page about another site's things must not take it: compare `session.site`.
//!
//! Cookies count on pages only. Nothing under `/v1` looks at them.

use askama::Template;
use axum::{
    body::Bytes,
    extract::{FromRef, FromRequest, FromRequestParts, Request},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, Method, StatusCode, request::Parts};
use url::{Position, Url};
use valetkey::{
    Code, Error, Result,
    base::Outside,
    id::SiteId,
    secret::Secret,
    session::{self, Session},
    site,
};

use crate::{
    csrf,
    pages::{
        answer::{Forms, page},
        cookies::Cookies,
        failed,
        form::Fields,
    },
};

/// The longest path of ours that somebody is led back to, in bytes.
const LONGEST_PATH: usize = 2000;

/// A person signed in, in the browser that sent this request.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn {
    /// Their session.
    pub(crate) session: Session,
    /// The token that their forms carry ([`csrf::field`]).
    pub(crate) csrf: Secret,
}

/// Who is signed in in a browser, if anybody is.
pub(crate) async fn current(outside: &Outside, headers: &HeaderMap) -> Result<Option<SignedIn>> {
    let Some(secret) = Cookies::new(outside, headers).session() else { return Ok(None) };
    let session = session::resolve(&outside.base, &secret).await?;
    Ok(session.map(|session| SignedIn { session, csrf: secret.form_token() }))
}

impl<S> FromRequestParts<S> for SignedIn
where
    S: Send + Sync,
    Outside: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Response> {
        let outside = Outside::from_ref(state);
        match current(&outside, &parts.headers).await {
            Ok(Some(signed_in)) => Ok(signed_in),
            Ok(None) => Err(needed(&outside, parts).await),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A form that a signed-in person sent from a page of ours.
pub(crate) struct SignedForm {
    /// Who sent it.
    pub(crate) signed_in: SignedIn,
    /// What it holds.
    pub(crate) fields: Fields,
}

impl<S> FromRequest<S> for SignedForm
where
    S: Send + Sync,
    Outside: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Self, Response> {
        let outside = Outside::from_ref(state);
        let (mut parts, body) = request.into_parts();
        let signed_in = SignedIn::from_request_parts(&mut parts, state).await?;
        let headers = parts.headers.clone();
        let body = Bytes::from_request(Request::from_parts(parts, body), state).await.map_err(|error| error.into_response())?;
        let taken = async {
            let fields = Fields::read(&headers, &body)?;
            let checked = csrf::check(&outside.public_url, &headers, &signed_in, fields.one(csrf::FIELD)?);
            if let Err(error) = &checked {
                session::note_refusal(&outside.base, &signed_in.session, error.detail().unwrap_or_default()).await?;
            }
            checked?;
            Ok::<_, Error>(Self { signed_in: signed_in.clone(), fields })
        };
        taken.await.map_err(failed)
    }
}

#[derive(Template)]
#[template(path = "signin.html")]
struct Needed<'a> {
    why: &'a str,
    sign_in: Option<String>,
}

/// The page that says how to sign in, for a page that needs it: the way leads back to it.
async fn needed(outside: &Outside, parts: &Parts) -> Response {
    let back = match parts.method {
        Method::GET | Method::HEAD => parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        // What a form wanted is lost with its session.
        _ => "/",
    };
    ask(outside, named_site(parts.uri.query()).as_ref(), back).await
}

/// The page that says how to sign in at a site, and then leads to `back`: for whoever opened a page that needs it. Where no site
/// is named and there are several, it says that the platform knows the way.
pub(crate) async fn ask(outside: &Outside, site: Option<&SiteId>, back: &str) -> Response {
    show(outside, site, back, "You are not signed in here, or your session is over.", false).await
}

/// A refusal to somebody who is signed in. Where a fresh proof is asked for, it says how to bring that, and leads to `back`.
pub(crate) async fn refused(outside: &Outside, signed_in: &SignedIn, error: Error, back: &str) -> Response {
    if error.code() != Code::FreshProofNeeded {
        return failed(error);
    }
    let why = "To do this, show once more that it is you. You signed in more than five minutes ago.";
    show(outside, Some(&signed_in.session.site), back, why, true).await
}

async fn show(outside: &Outside, site: Option<&SiteId>, back: &str, why: &str, fresh: bool) -> Response {
    match link(outside, site, back, fresh).await {
        Ok(sign_in) => page(StatusCode::FORBIDDEN, &Needed { why, sign_in }, &Forms::None),
        Err(error) => failed(error),
    }
}

/// The platform's page that signs people in, from where the way leads to `back`, which is a path of ours. With `fresh` the
/// platform is asked to make sure anew who is before it.
pub(crate) async fn link(outside: &Outside, site: Option<&SiteId>, back: &str, fresh: bool) -> Result<Option<String>> {
    let Some(mut url) = site::signin_url(&outside.base.db, site).await? else { return Ok(None) };
    let back = own_path(&outside.public_url, back).unwrap_or_else(|| "/".to_owned());
    url.query_pairs_mut().append_pair("return_to", &back);
    if fresh {
        url.query_pairs_mut().append_pair("fresh", "1");
    }
    Ok(Some(url.into()))
}

/// A path and query of ours, as a browser reads the text; absent where it leads anywhere else.
pub(crate) fn own_path(public: &Url, text: &str) -> Option<String> {
    // A parser drops tabs and line breaks, and a backslash is a slash to it.
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if text.len() > LONGEST_PATH || !plain || !text.starts_with('/') {
        return None;
    }
    let url = public.join(text).ok().filter(|url| url.origin() == public.origin())?;
    // `/.//host` becomes `//host`, which is another place.
    let path = &url[Position::BeforePath..Position::AfterQuery];
    (!path.starts_with("//")).then(|| path.to_owned())
}

/// The site that a page's address names, where it does.
pub(crate) fn named_site(query: Option<&str>) -> Option<SiteId> {
    let mut named = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).filter(|(name, _)| name == "site");
    match (named.next(), named.next()) {
        (Some((_, site)), None) => site.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_a_path_of_ours() {
        let public: Url = "https://keys.example.test/".parse().unwrap();
        for (text, path) in [
            ("/", "/"),
            ("/approvals/apr_1?site=shop", "/approvals/apr_1?site=shop"),
            ("/a/../b", "/b"),
            (
                "/oauth/authorize?redirect_uri=https%3A%2F%2Fapp.example",
                "/oauth/authorize?redirect_uri=https%3A%2F%2Fapp.example",
            ),
            ("/x#fragment", "/x"),
        ] {
            assert_eq!(own_path(&public, text).as_deref(), Some(path), "{text}");
        }
        for text in [
            "",
            "approvals",
            "//evil.example",
            "//evil.example/%2f..",
            "/\\evil.example",
            "\\\\evil.example",
            "/.//evil.example",
            "/..//evil.example",
            "/x/..//evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            " //evil.example",
            "https://evil.example/",
            "https:evil.example",
            "javascript:alert(1)",
            "///evil.example",
            &format!("/{}", "x".repeat(2000)),
        ] {
            assert_eq!(own_path(&public, text), None, "{text:?}");
        }
    }
}
