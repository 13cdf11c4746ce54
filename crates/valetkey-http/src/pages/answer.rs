//! What every page and redirect looks like from the outside: its headers.

use askama::Template;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use valetkey::{Error, Result};

/// Where forms of a page may lead.
pub(crate) enum Forms {
    /// There is none.
    None,
    /// To us, and by redirect to these origins.
    To(Vec<String>),
}

impl Forms {
    /// The value of `form-action`.
    ///
    /// Chromium applies it to every redirect after the form too, as far as the first page that is shown. A provider may
    /// redirect to hosts that nobody can list beforehand (a workspace's own, a store's own), so https is admitted as a
    /// whole where the provider is at https; a loopback origin is admitted by itself.
    fn policy(&self) -> String {
        match self {
            Forms::None => "'none'".to_owned(),
            Forms::To(origins) => {
                let mut policy = "'self'".to_owned();
                if origins.iter().any(|origin| origin.starts_with("https://")) {
                    policy.push_str(" https:");
                }
                for origin in origins.iter().filter(|origin| !origin.starts_with("https://")) {
                    policy.push(' ');
                    policy.push_str(origin);
                }
                policy
            }
        }
    }
}

/// A page.
pub(crate) fn page(status: StatusCode, template: &impl Template, forms: &Forms) -> Response {
    let Ok(body) = template.render() else {
        tracing::error!("a page could not be made");
        return secured(StatusCode::INTERNAL_SERVER_ERROR.into_response(), &Forms::None);
    };
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    secured((status, [(header::CONTENT_TYPE, html)], body).into_response(), forms)
}

/// A page for somebody who is signed in, with forms that come back to us.
pub(crate) fn own_page(status: StatusCode, template: &impl Template) -> Response {
    let mut response = page(status, template, &Forms::To(Vec::new()));
    // Without a referrer a browser says `Origin: null` of a form's sender (Fetch, "append a request `Origin` header").
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// A redirect after which the browser repeats nothing (RFC 9700 section 4.12).
pub(crate) fn redirect(location: &str) -> Result<Response> {
    let location = HeaderValue::from_str(location).map_err(|_| Error::internal("a redirect to what is no URL"))?;
    let response = (StatusCode::SEE_OTHER, [(header::LOCATION, location)], Body::empty()).into_response();
    Ok(secured(response, &Forms::None))
}

/// `GET /assets/page.css`: the same for everybody, so it may be kept.
pub(super) async fn style() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, include_str!("../../templates/page.css")).into_response()
}

/// The headers of everything here. What an answer says for itself stays.
pub(super) fn secured(mut response: Response, forms: &Forms) -> Response {
    let policy =
        format!("default-src 'none'; style-src 'self'; form-action {}; frame-ancestors 'none'; base-uri 'none'", forms.policy());
    // An origin that is no header value leads nowhere.
    let policy = HeaderValue::from_str(&policy).unwrap_or(STRICT);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // For browsers that do not know frame-ancestors.
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ] {
        headers.entry(name).or_insert(value);
    }
    response
}

const STRICT: HeaderValue =
    HeaderValue::from_static("default-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'");
