//! Signing in and out.
//!
//! The platform's page posts the assertion here, across sites, so no cookie of ours comes with it and no token of ours can. What
//! stands against a form of somebody else's page is the origin that the browser names ([`valetkey::session::sign_in`]). The
//! answer redirects to a page of ours, so that nothing of it stays in an address.

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, header};
use valetkey::{Code, Error, Result, secret::Secret, session};

use super::{Deps, answer::redirect, cookies::Cookies, failed, form::Fields};
use crate::{
    csrf,
    signed_in::{self, SignedForm, named_site, own_path},
};

/// `GET /signin`: where to sign in, for whoever asks. `?site=` says at which site.
pub(super) async fn show(State(deps): State<Deps>, RawQuery(query): RawQuery) -> Response {
    signed_in::ask(&deps.outside, named_site(query.as_deref()).as_ref(), "/").await
}

/// `POST /signin`: `assertion`, and `return_to`, a path of ours.
pub(super) async fn sign_in(State(deps): State<Deps>, headers: HeaderMap, body: Bytes) -> Response {
    take(&deps, &headers, &body).await.unwrap_or_else(failed)
}

async fn take(deps: &Deps, headers: &HeaderMap, body: &[u8]) -> Result<Response> {
    let odd = |why: &'static str| Error::new(Code::InvalidRequest, why);
    let fields = Fields::read(headers, body)?;
    let assertion = fields.one("assertion")?.ok_or_else(|| odd("the form has no field `assertion`; start at your platform"))?;
    // Before the assertion is used up.
    let back = match fields.one("return_to")?.map(Secret::expose).filter(|path| !path.is_empty()) {
        Some(path) => own_path(&deps.outside.public_url, path)
            .ok_or_else(|| odd("return_to is a path on this server, such as `/`; it leads nowhere else"))?,
        None => "/".to_owned(),
    };
    // What is no text, or comes twice, is nobody's.
    let origin = csrf::only(headers, header::ORIGIN.as_str()).unwrap_or_default();
    let (secret, _) = session::sign_in(&deps.outside, origin, assertion).await?;
    // The browser forgets the one it had. A platform on another site than ours cannot bring it along; that one ends by its time.
    if let Some(before) = signed_in::current(&deps.outside, headers).await? {
        session::close(&deps.outside.base, &before.session).await?;
    }
    let mut response = redirect(&back)?;
    Cookies::new(&deps.outside, headers).set_session(&mut response, &secret);
    Ok(response)
}

/// `POST /signout`: ends the session; with `everywhere` all of the person's.
pub(super) async fn sign_out(State(deps): State<Deps>, headers: HeaderMap, form: SignedForm) -> Response {
    let signed_out = async {
        let (base, session) = (&deps.outside.base, &form.signed_in.session);
        match form.fields.one("everywhere")? {
            Some(_) => session::close_all(base, &session.site, &session.actor(), &session.user).await.map(|_| ())?,
            None => session::close(base, session).await?,
        }
        let mut response = redirect("/")?;
        Cookies::new(&deps.outside, &headers).clear_session(&mut response);
        Ok::<_, Error>(response)
    };
    signed_out.await.unwrap_or_else(failed)
}
