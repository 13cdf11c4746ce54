//! The page of a link whose account is made of entered values: the form, and what becomes of its answer.
//!
//! A secret is never shown again, not even to whoever has just entered it: after a refusal its field is empty.

use std::collections::BTreeMap;

use askama::Template;
use axum::response::Response;
use http::StatusCode;
use valetkey::{
    Error, Result,
    connect::{
        self, Binding,
        form::{Input, Submitted},
        session::{self, Proof, View, Visit},
    },
    principal::Owner,
    provider::FieldType,
    secret::{Secret, SecretMap},
};

use super::{
    CHOICE_AGE, Deps,
    answer::{Forms, page, redirect},
    cookies::Cookies,
    host_of, minute, origin_of, outcome, reach,
};
use crate::error::status;

#[derive(Template)]
#[template(path = "enter.html")]
struct Enter {
    view: View,
    inputs: Vec<Shown>,
    csrf: Secret,
    action: String,
    is_site: bool,
    reach: String,
    returns_to: Option<String>,
    until: String,
    why: Option<String>,
    left: i64,
}

/// How a field is shown.
enum Shape {
    /// It came with the link.
    Fixed,
    /// One of several.
    Select,
    /// A text of several lines.
    Lines,
    /// One line that nobody reads over a shoulder.
    Hidden,
    /// One line.
    Line,
}

/// A field with what is in it.
struct Shown {
    name: String,
    label: String,
    kind: FieldType,
    required: bool,
    secret: bool,
    fixed: bool,
    options: Vec<String>,
    value: String,
    help: Option<String>,
    placeholder: Option<String>,
    autocomplete: &'static str,
}

impl Shown {
    fn new(input: &Input, entered: &BTreeMap<String, String>) -> Self {
        let entered = entered.get(&input.name).filter(|_| !input.fixed);
        Self {
            name: input.name.clone(),
            label: input.label.clone(),
            kind: input.kind,
            required: input.required,
            secret: input.secret,
            fixed: input.fixed,
            options: input.options.clone(),
            value: entered.unwrap_or(&input.value).clone(),
            help: input.help.clone(),
            placeholder: input.placeholder.clone(),
            autocomplete: input.autocomplete,
        }
    }

    fn shape(&self) -> Shape {
        match self.kind {
            _ if self.fixed => Shape::Fixed,
            FieldType::Select => Shape::Select,
            // A key has lines, and an input of one line would lose them.
            FieldType::Textarea => Shape::Lines,
            FieldType::Password => Shape::Hidden,
            _ if self.secret => Shape::Hidden,
            FieldType::Text | FieldType::Url | FieldType::Number => Shape::Line,
        }
    }
}

/// The form as it is at first.
pub(super) fn show(link: &Secret, visit: Visit, cookies: &Cookies) -> Option<Response> {
    form(link, visit, cookies, &BTreeMap::new(), None)
}

/// The form, perhaps with why the last answer came to nothing and what of it may be shown again.
fn form(
    link: &Secret,
    visit: Visit,
    cookies: &Cookies,
    entered: &BTreeMap<String, String>,
    failure: Option<(&Error, i64)>,
) -> Option<Response> {
    let (inputs, csrf) = (visit.view.inputs.as_ref()?, visit.csrf?);
    let enter = Enter {
        inputs: inputs.iter().map(|input| Shown::new(input, entered)).collect(),
        action: format!("/connect/{}", link.expose()),
        is_site: visit.view.owner == Owner::Site,
        reach: reach(&visit.view),
        returns_to: visit.view.return_to.as_deref().and_then(host_of),
        until: minute(visit.view.expires_at),
        why: failure.map(|(why, _)| why.message().to_owned()),
        left: failure.map_or(i64::MAX, |(_, left)| left),
        csrf,
        view: visit.view,
    };
    let code = failure.map_or(StatusCode::OK, |(why, _)| status(why.code()));
    let forms = Forms::To(enter.view.return_to.as_deref().and_then(origin_of).into_iter().collect());
    let mut response = page(code, &enter, &forms);
    if let Some(fresh) = visit.fresh {
        cookies.set_visit(&mut response, &fresh);
    }
    Some(response)
}

/// The person's answer.
pub(super) async fn answer(deps: &Deps, link: &Secret, cookies: &Cookies, csrf: &Secret, given: SecretMap) -> Result<Response> {
    let key = session::visit_key(link);
    let browser = cookies.visit(&key);
    // What is no secret is shown again where the answer comes to nothing; of what is, no copy is kept.
    let asked = session::view(&deps.outside, link).await?.inputs.unwrap_or_default();
    let plain: BTreeMap<String, String> = asked
        .iter()
        .filter(|input| !input.secret)
        .filter_map(|input| Some((input.name.clone(), given.expose().get(&input.name)?.as_str()?.to_owned())))
        .collect();
    let submitted = connect::form::submit(&deps.outside, &deps.tasks, link, browser.as_ref(), csrf, given).await?;
    match submitted {
        Submitted::Over(ended) => {
            let mut response = redirect(&outcome::target(&ended))?;
            cookies.clear_visit(&mut response, &key);
            // The page on which the person chooses belongs to this browser, too.
            if let Some(((_, session), value)) = ended.choose.as_ref().zip(browser) {
                cookies.set_flow(&mut response, &Binding { key: connect::session_key(session), value }, CHOICE_AGE);
            }
            Ok(response)
        }
        Submitted::Again { why, left } => {
            let visit = session::visit(&deps.outside, link, browser.as_ref()).await?;
            form(link, visit, cookies, &plain, Some((&why, left))).ok_or_else(|| Error::internal("a form without fields"))
        }
    }
}
