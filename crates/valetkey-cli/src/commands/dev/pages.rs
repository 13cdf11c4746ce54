//! The demo platform's pages: plain HTML, no script.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::Value;
use valetkey::secret::Secret;

use super::platform::{Handed, Platform};
use crate::{failure::Failure, output::cell};

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--accent:#3557c9}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;margin:0;padding:2rem 1rem}
main{max-width:44rem;margin:auto}
header{display:flex;align-items:center;gap:.6rem;margin-bottom:1.5rem;font-weight:600}
header span{background:var(--accent);color:#fff;border-radius:.4rem;padding:.1rem .5rem}
header small{margin-left:auto;font-weight:400}
h1{font-size:1.4rem;line-height:1.3;margin:0 0 1rem}
h2{font-size:1rem;margin:1.5rem 0 .4rem}
.card{border:1px solid var(--line);border-radius:.8rem;padding:1.25rem;margin-bottom:1rem}
.wrong{border-color:#c33}
small,.soft{opacity:.75}
pre{background:var(--soft);border-radius:.5rem;padding:.7rem .9rem;margin:.3rem 0;white-space:pre-wrap;overflow-wrap:anywhere;user-select:all}
h3{font-size:.9rem;font-weight:400;opacity:.75;margin:.8rem 0 0}
button{font:inherit;padding:.6rem 1.4rem;border-radius:.6rem;border:1px solid var(--accent);background:var(--accent);color:#fff;cursor:pointer}
button:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
";

/// Nothing is connected yet.
pub(super) fn start(platform: &Platform, error: Option<&str>) -> Response {
    let wrong = error.map_or_else(String::new, |code| {
        format!(r#"<div class="card wrong" role="alert">It was not connected: <code>{}</code>. Try again.</div>"#, escape(code))
    });
    let slug = escape(&platform.agent.1);
    let body = format!(
        r#"{wrong}<div class="card"><h1>Let your agent use your Lab account, without giving it your keys</h1>
<p>You are signed in here as <strong>{user}</strong>, and your agent <strong>{slug}</strong> would like to act in your name at
the Lab, a stand-in for any outside service. You connect your account once; Valet Key keeps its keys sealed and renews
them. The agent gets a token of its own, which works only through Valet Key, only for what you granted, and only until you
take it back.</p>
<form method="post" action="/connect"><button>Connect your Lab account</button></form></div>"#,
        user = escape(platform.user.as_str()),
    );
    page(platform, StatusCode::OK, "Connect your Lab account", &body, "'self'")
}

/// The step to the broker: the form carries the assertion.
pub(super) fn go_on(platform: &Platform, link: &str, assertion: &Secret) -> Response {
    let body = format!(
        r#"<div class="card"><h1>Go on at Valet Key</h1>
<p>This platform vouches that you are <strong>{user}</strong>. Valet Key shows what will be connected, and asks you.</p>
<form method="post" action="{link}"><input type="hidden" name="assertion" value="{assertion}"><button>Continue</button></form>
<p class="soft"><small>The button works once and for a minute. Too late? <a href="/">Start again</a>.</small></p></div>"#,
        user = escape(platform.user.as_str()),
        link = escape(link),
        assertion = escape(assertion.expose()),
    );
    page(platform, StatusCode::OK, "Continue to Valet Key", &body, &format!("http://{}", platform.api.broker))
}

/// The same step for signing in.
pub(super) fn sign_in(platform: &Platform, assertion: &Secret, return_to: &str) -> Response {
    let broker = format!("http://{}", platform.api.broker);
    let body = format!(
        r#"<div class="card"><h1>Sign in at Valet Key</h1>
<p>This platform vouches that you are <strong>{user}</strong>.</p>
<form method="post" action="{broker}/signin"><input type="hidden" name="assertion" value="{assertion}">
<input type="hidden" name="return_to" value="{return_to}"><button>Sign in</button></form>
<p class="soft"><small>The button works once and for a minute. Too late? Load this page again.</small></p></div>"#,
        user = escape(platform.user.as_str()),
        assertion = escape(assertion.expose()),
        return_to = escape(return_to),
    );
    page(platform, StatusCode::OK, "Sign in at Valet Key", &body, &broker)
}

/// Everything is ready: the commands.
pub(super) fn ready(platform: &Platform, connection: &Value, handed: &Handed) -> Response {
    let id = cell(connection, "/id");
    let account = match cell(connection, "/subject_name") {
        name if name.is_empty() => cell(connection, "/subject"),
        name => name,
    };
    let curl = format!("curl -sS -H 'Authorization: Bearer {}'", handed.token.expose());
    let proxy = format!("http://{}/v1/proxy/{id}", platform.api.broker);
    let commands = Commands {
        me: format!("{curl} {proxy}/me"),
        post: format!("{curl} -H 'Content-Type: application/json' -d '{{\"text\":\"Hello from my agent\"}}' {proxy}/posts"),
        explain: format!(
            "{} explain --agent {} --connection {id} --operation 'GET {}/api/me' --user {}",
            platform.valetkey,
            platform.agent.1,
            platform.lab.trim_start_matches("http://"),
            platform.user
        ),
        revoke: format!("{} grant revoke {}", platform.valetkey, handed.grant),
        audit: format!("{} audit list --limit 10", platform.valetkey),
    };
    let body = format!(
        r#"<div class="card"><h1>Your Lab account <em>{account}</em> is connected</h1>
<p>Agent <strong>{slug}</strong> may use it for you, through Valet Key's proxy only. The token in these commands is the agent's
own; the Lab's token never leaves Valet Key.</p>
<h2>Act as the agent</h2><h3>Ask who it is there</h3><pre id="me">{me}</pre><h3>Post in your name</h3><pre id="post">{post}</pre>
<p class="soft"><small>What it posts stands at <a href="{lab}">the Lab</a>.</small></p>
<h2>Ask why it may</h2><pre id="explain">{explain}</pre>
<h2>Take it back, and try the first command again</h2><pre id="revoke">{revoke}</pre>
<h2>See what happened</h2><pre id="audit">{audit}</pre>
<p class="soft"><small>Each is one line; one click selects it.</small></p>
<h2>Or do it yourself</h2><p><a href="{broker}/">Sign in at Valet Key</a>: your accounts, which agents may use each, and the taking back.</p></div>"#,
        broker = format_args!("http://{}", platform.api.broker),
        account = escape(&account),
        slug = escape(&platform.agent.1),
        me = escape(&commands.me),
        post = escape(&commands.post),
        explain = escape(&commands.explain),
        revoke = escape(&commands.revoke),
        audit = escape(&commands.audit),
        lab = escape(&platform.lab),
    );
    page(platform, StatusCode::OK, "Connected", &body, "'self'")
}

struct Commands {
    me: String,
    post: String,
    explain: String,
    revoke: String,
    audit: String,
}

/// Something did not work.
pub(super) fn failed(failure: &Failure) -> Response {
    let text = escape(failure.to_string().trim());
    let body = format!(
        r#"<div class="card wrong" role="alert"><h1>That did not work</h1><p>{text}</p><p><a href="/">Back</a></p></div>"#
    );
    html(StatusCode::BAD_GATEWAY, "That did not work", "", &body, "'self'")
}

fn page(platform: &Platform, status: StatusCode, title: &str, body: &str, form_action: &str) -> Response {
    html(status, title, &format!("<small>signed in as {}</small>", escape(platform.user.as_str())), body, form_action)
}

/// `body` and `right` are HTML.
fn html(status: StatusCode, title: &str, right: &str, body: &str, form_action: &str) -> Response {
    let html = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body><main><header><span>demo</span> A platform{right}</header>{body}</main></body></html>"#
    );
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; form-action {form_action}; frame-ancestors 'none'; base-uri 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        // The broker is told by the form's Origin header where it came from; a stricter policy has the browser say `null` there.
        (header::REFERRER_POLICY, "strict-origin".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
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
