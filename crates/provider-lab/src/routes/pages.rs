//! The pages that a person sees: the consent page, error pages, and a front page with the latest posts. Plain HTML,
//! no script.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    params::Params,
    settings::{Client, PEOPLE},
    world::World,
};

/// How many posts the front page shows.
const SHOWN_POSTS: usize = 50;

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--accent:#0b6e4f}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0;padding:2rem 1rem}
main{max-width:30rem;margin:auto}
header{display:flex;align-items:center;gap:.6rem;margin-bottom:1.5rem;font-weight:600}
header span{background:var(--accent);color:#fff;border-radius:.4rem;padding:.1rem .5rem}
h1{font-size:1.35rem;line-height:1.3;margin:0 0 1rem}
.card{border:1px solid var(--line);border-radius:.8rem;padding:1.25rem;margin-bottom:1rem}
fieldset{border:0;padding:0;margin:1.25rem 0}
legend{padding:0;margin-bottom:.4rem;font-weight:600}
label{display:flex;gap:.7rem;align-items:center;padding:.6rem .8rem;border:1px solid var(--line);border-radius:.6rem;margin-bottom:.4rem;cursor:pointer}
label:has(:checked){border-color:var(--accent);background:var(--soft)}
small,.soft{opacity:.75}
code{background:var(--soft);padding:.1rem .3rem;border-radius:.3rem;overflow-wrap:anywhere}
.buttons{display:flex;gap:.6rem}
button{font:inherit;padding:.6rem 1.2rem;border-radius:.6rem;border:1px solid var(--line);background:none;color:inherit;cursor:pointer}
button.go{background:var(--accent);border-color:var(--accent);color:#fff;flex:1}
button:focus-visible,input:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
article{padding:.8rem 0;overflow-wrap:anywhere}
article+article{border-top:1px solid var(--line)}
";

/// The consent page: which app asks, for what, and who signs in.
pub(super) fn consent(client: &Client, scope: &str, redirect_uri: &str, params: &Params) -> Response {
    consent_at("/authorize", client, scope, redirect_uri, params)
}

/// The same, whose form goes to `action`. Without scopes nothing is said of them.
pub(super) fn consent_at(action: &str, client: &Client, scope: &str, redirect_uri: &str, params: &Params) -> Response {
    let mut hidden = String::new();
    for (name, value) in params.iter().filter(|(name, _)| !matches!(*name, "person" | "decision" | "auto_approve")) {
        let _ = write!(hidden, r#"<input type="hidden" name="{}" value="{}">"#, escape(name), escape(value));
    }
    let mut scopes = String::new();
    for one in scope.split(' ').filter(|one| !one.is_empty()) {
        let _ = write!(scopes, "<li><code>{}</code>{}</li>", escape(one), meaning(one));
    }
    if !scopes.is_empty() {
        scopes = format!("<p>It asks for:</p><ul>{scopes}</ul>");
    }
    let mut people = String::new();
    for (at, person) in PEOPLE.iter().enumerate() {
        let checked = if at == 0 { " checked" } else { "" };
        let _ = write!(
            people,
            r#"<label><input type="radio" name="person" value="{0}"{checked}><span>{1}<br><small>@{0}</small></span></label>"#,
            person.username, person.name
        );
    }
    let origin = url::Url::parse(redirect_uri).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let (app, origin) = (escape(client.title()), escape(&origin));
    page(
        StatusCode::OK,
        &format!("Allow {app}?"),
        &format!(
            r#"<form method="post" action="{action}" class="card">{hidden}
<h1>{app} wants to use your lab account</h1>
{scopes}
<fieldset><legend>Who signs in?</legend>{people}</fieldset>
<div class="buttons"><button class="go" name="decision" value="approve">Approve</button><button name="decision" value="deny">Deny</button></div>
<p class="soft"><small>You go back to <code>{origin}</code> afterwards.</small></p></form>"#
        ),
    )
}

/// The page on which a person types in the code of another device.
pub(super) fn device(user_code: &str) -> Response {
    let mut people = String::new();
    for person in &PEOPLE {
        let _ = write!(
            people,
            r#"<label><input type="radio" name="person" value="{0}"><span>{1}<br><small>@{0}</small></span></label>"#,
            person.username, person.name
        );
    }
    page(
        StatusCode::OK,
        "Connect a device",
        &format!(
            r#"<form method="post" action="/device" class="card"><h1>Connect a device</h1>
<label><span>The code it shows</span><input name="user_code" value="{}" autocomplete="off"></label>
<fieldset><legend>Who signs in?</legend>{people}</fieldset>
<div class="buttons"><button class="go" name="decision" value="approve">Approve</button><button name="decision" value="deny">Deny</button></div></form>"#,
            escape(user_code)
        ),
    )
}

/// A page that says one thing.
pub(super) fn told(message: &str) -> Response {
    page(StatusCode::OK, "Done", &format!(r#"<div class="card"><h1>Done</h1><p>{}</p></div>"#, escape(message)))
}

/// A page for what cannot be answered to the client.
pub(super) fn error(message: &str) -> Response {
    let body = format!(r#"<div class="card"><h1>This request cannot go on</h1><p>{}</p></div>"#, escape(message));
    page(StatusCode::BAD_REQUEST, "Request refused", &body)
}

/// `GET /`: what the lab is, and the latest posts.
pub(super) async fn home(State(world): State<Arc<World>>) -> Response {
    let mut posts = String::new();
    world.with(|state, _| {
        for post in state.posts().take(SHOWN_POSTS) {
            let _ = write!(
                posts,
                "<article><strong>@{}</strong> <small>via {}</small><br>{}</article>",
                post.author,
                escape(&post.via),
                escape(&post.text)
            );
        }
    });
    if posts.is_empty() {
        posts.push_str("<p class=\"soft\">Nobody has posted yet.</p>");
    }
    let body = format!(
        r#"<h1>A small social network that exists for tests</h1>
<p class="soft">Alice, Bob and Carol have accounts here. Apps may post for them with <code>POST /api/posts</code>.</p>
<div class="card">{posts}</div>"#
    );
    page(StatusCode::OK, "Provider lab", &body)
}

fn meaning(scope: &str) -> &'static str {
    match scope {
        "profile" => " — see who you are",
        "email" => " — see your e-mail address",
        "posts:read" => " — read posts",
        "posts:write" => " — post in your name",
        _ => "",
    }
}

/// `title` and `body` are HTML.
fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body><main><header><span>lab</span> Provider lab</header>{body}</main></body></html>"#
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        // No `form-action`: browsers apply it to the redirect that follows the form, too.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
        ),
    ];
    (status, headers, html).into_response()
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
        safe
    })
}
