//! The page on which a person chooses from the provider's lists, after their account was connected.

use askama::Template;
use axum::{
    body::Bytes,
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use valetkey::{
    Code, Error, Result,
    connect::{
        self,
        choice::{self, Choosing},
    },
    id::{ConnectSessionId, SiteId},
    resource::Choice,
    secret::Secret,
};

use super::{
    Deps,
    answer::{Forms, page, redirect},
    cookies::Cookies,
    failed, form, outcome,
};

/// What a form's field begins with that names a chosen entry; then comes the list.
const CHOSEN: &str = "chosen.";

#[derive(Template)]
#[template(path = "choose.html")]
struct Choose {
    choosing: Choosing,
    action: String,
}

/// `GET /connect/choose/{site}/{session}`
pub(super) async fn show(
    State(deps): State<Deps>,
    Path((site, session)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let shown = async {
        let (site, session) = session_of(&site, &session)?;
        let binding = Cookies::new(&deps.outside, &headers).flow(&connect::session_key(&session));
        let choosing = choice::open(&deps.outside, &site, &session, binding.as_ref()).await?;
        let action = format!("/connect/choose/{site}/{session}");
        // The form comes back to us, and from there the browser goes on to wherever its link says.
        let forms = Forms::To(choosing.return_to.iter().cloned().collect());
        Ok::<_, Error>(page(StatusCode::OK, &Choose { choosing, action }, &forms))
    };
    shown.await.unwrap_or_else(failed)
}

/// `POST /connect/choose/{site}/{session}`
pub(super) async fn take(
    State(deps): State<Deps>,
    Path((site, session)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let taken = async {
        let (site, session) = session_of(&site, &session)?;
        let (cookies, key) = (Cookies::new(&deps.outside, &headers), connect::session_key(&session));
        let binding = cookies.flow(&key);
        // Before the form, which is anybody's, is read.
        let lists = choice::open(&deps.outside, &site, &session, binding.as_ref()).await?.lists;
        let (csrf, mut choice) = read(&headers, &body)?;
        // An unticked list sends nothing: what is not chosen on the page is chosen no more.
        for list in lists {
            choice.entry(list.name).or_default();
        }
        let ended = choice::take(&deps.outside, &site, &session, binding.as_ref(), &csrf, &choice).await?;
        let mut response = redirect(&outcome::target(&ended))?;
        cookies.clear_flow(&mut response, &key);
        Ok::<_, Error>(response)
    };
    taken.await.unwrap_or_else(failed)
}

/// The ids of the path. What is none is answered like a session that there is not.
pub(super) fn session_of(site: &str, session: &str) -> Result<(SiteId, ConnectSessionId)> {
    let gone = |_| Error::new(Code::NotFound, "there is no such page; ask for a new link");
    Ok((site.parse().map_err(gone)?, session.parse().map_err(gone)?))
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<(Secret, Choice)> {
    let odd = |why: &'static str| Error::new(Code::InvalidRequest, why);
    let (mut csrf, mut choice) = (None, Choice::new());
    for (name, value) in form::pairs(headers, body)? {
        if let Some(list) = name.strip_prefix(CHOSEN) {
            let ids = choice.entry(list.to_owned()).or_default();
            if !ids.iter().any(|id| *id == value) {
                ids.push(value.into_owned());
            }
        } else if name == "csrf" && csrf.replace(Secret::new(value.into_owned())).is_some() {
            return Err(odd("the form names a field twice"));
        }
    }
    Ok((csrf.ok_or_else(|| odd("the form is not complete; open the page again"))?, choice))
}
