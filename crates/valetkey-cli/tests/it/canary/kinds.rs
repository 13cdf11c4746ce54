//! The same for the other kinds of accounts, and for what an import brings: a static key, an app password, a private key, a mailbox,
//! the temporary and the lasting secrets of OAuth 1.0a, the tokens of chosen pages, and the sealed values and salts of a Data Machine
//! site.

use provider_lab::{
    ACCESS_PREFIX, APP_PASSWORD, At, DefinitionOptions, Fault, Lab, REFRESH_PREFIX, Rule, Signing, TEMPORARY_PREFIX,
};
use reqwest::{
    Method, StatusCode,
    header::{COOKIE, LOCATION},
};
use serde_json::{Value, json};
use valetkey::{
    import::data_machine::{envelope::Key, salts::Salts},
    secret::SecretBytes,
};

use super::Cage;
use crate::scene::{Answer, LabProvider, Plan, client_secret, text};

/// Adds the providers of this module to a plan; the second lab plays those whose accounts are entered.
pub(super) async fn prepare(plan: &mut Plan) -> Lab {
    let definition = DefinitionOptions { oauth1: Some("HMAC-SHA1".to_owned()), ..DefinitionOptions::default() };
    plan.providers.push(LabProvider { name: "signed", definition, ..LabProvider::default() });
    let definition = DefinitionOptions { pages: true, ..DefinitionOptions::default() };
    plan.providers.push(LabProvider { name: "paged", definition, ..LabProvider::default() });
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    plan.allowed.push(lab.addr());
    plan.definitions.push(("blue".to_owned(), lab.session_definition()));
    plan.definitions.push(("robot".to_owned(), lab.assertion_definition(Signing::Es256)));
    // The lab knows one key, which is no secret. Without being tried any key is kept.
    let definition = lab.key_definition();
    let (fields, rest) = definition.split_once("[verify]").unwrap();
    let (_, proxy) = rest.split_once("[proxy]").unwrap();
    plan.definitions.push(("keyed".to_owned(), format!("{fields}[proxy]{proxy}")));
    lab
}

/// Connects, reads and uses an account of every kind, as it should be and as it fails.
pub(super) async fn of_every_kind(cage: &mut Cage, lab: Lab) {
    for provider in ["signed", "paged"] {
        cage.trap.secret("client secret", &client_secret(provider), &[]);
    }
    static_key(cage).await;
    app_password(cage).await;
    private_key(cage, &lab).await;
    untried_mailbox(cage).await;
    signed(cage).await;
    chosen_pages(cage).await;
    imported(cage).await;
    lab.stop().await;
}

async fn static_key(cage: &mut Cage) {
    let key = cage.trap.plant("a static key");
    let mut link = Link::open(cage, "keyed").await;
    let (done, _) = link.answer(cage, &[("decision", "enter"), ("field.api_key", key.as_str()), ("field.note", "")]).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{done:?}");
    let at = link.account(cage).await;
    cage.trap.secret("a static key", &key, &[at]);
    let connection = link.connection(cage).await;
    // An agent with a grant for it reads the very key.
    let at = used(cage, &connection, "key").await;
    cage.trap.secret("a static key", &key, &[at]);
}

async fn app_password(cage: &mut Cage) {
    let wrong = cage.trap.plant("a wrong app password");
    let mut link = Link::open(cage, "blue").await;
    for (password, expected) in [(wrong.as_str(), StatusCode::UNPROCESSABLE_ENTITY), (APP_PASSWORD, StatusCode::SEE_OTHER)] {
        let values = [
            ("decision", "enter"),
            ("field.username", "alice.lab.example"),
            ("field.app_password", password),
            ("field.service", ""),
        ];
        let (answer, _) = link.answer(cage, &values).await;
        assert_eq!(answer.status, expected, "{answer:?}");
    }
    let at = link.account(cage).await;
    cage.trap.secret("an app password", APP_PASSWORD, &[at]);
    let connection = link.connection(cage).await;
    used(cage, &connection, "api/me").await;
}

async fn private_key(cage: &mut Cage, lab: &Lab) {
    let pem = lab.signing_key("robot@lab.example", Signing::Es256).unwrap();
    let wrong = cage.trap.plant("a private key that is none");
    let mut link = Link::open(cage, "robot").await;
    for (key, connects) in [(&wrong, false), (&pem, true)] {
        let file = json!({ "type": "service_account", "client_email": "robot@lab.example", "private_key": key }).to_string();
        let (answer, _) = link.answer(cage, &[("decision", "enter"), ("field.service_account_json", file.as_str())]).await;
        assert_eq!(answer.status == StatusCode::SEE_OTHER, connects, "{answer:?}");
    }
    let at = link.account(cage).await;
    // Its lines, as they also are where line breaks are written otherwise.
    for line in pem.lines().filter(|line| !line.starts_with('-')) {
        cage.trap.secret("a private key", line, &[at]);
    }
    let connection = link.connection(cage).await;
    used(cage, &connection, "me").await;
}

/// Nobody answers there, so that nothing is linked; what was entered is not said again.
async fn untried_mailbox(cage: &mut Cage) {
    let (password, other) = (cage.trap.plant("a password of a mailbox"), cage.trap.plant("a password for sending"));
    let mut link = Link::open(cage, "email_imap").await;
    let values = [
        ("decision", "enter"),
        ("field.imap_host", "127.0.0.1"),
        ("field.imap_port", "9"),
        ("field.imap_encryption", "ssl"),
        ("field.imap_user", "alice@example.test"),
        ("field.imap_password", password.as_str()),
        ("field.smtp_host", "127.0.0.1"),
        ("field.smtp_port", "9"),
        ("field.smtp_encryption", "tls"),
        ("field.smtp_user", ""),
        ("field.smtp_password", other.as_str()),
    ];
    let (answer, _) = link.answer(cage, &values).await;
    assert!(!answer.status.is_success() && !answer.status.is_redirection(), "{answer:?}");
}

async fn signed(cage: &mut Cage) {
    let strange = cage.trap.plant("an answer of OAuth 1.0a");
    let strange = Fault::Body { text: format!("oauth_token_secret={strange}&oauth_problem={strange}") };
    for fault in [Some(strange), None] {
        let connects = fault.is_none();
        if let Some(fault) = fault {
            cage.scene.lab.misbehave(Rule::once(At::VerifiedToken, fault));
        }
        let mut link = Link::open(cage, "signed").await;
        let (gone, at) = link.answer(cage, &[("decision", "approve")]).await;
        assert_eq!(gone.status, StatusCode::SEE_OTHER, "{gone:?}");
        // The temporary token is in the address there. Its secret begins alike, and is nowhere.
        cage.trap.secret("some temporary credential of the lab", TEMPORARY_PREFIX, &[at]);
        let http = cage.scene.http.clone();
        let back = http.get(gone.headers[LOCATION].to_str().unwrap()).send().await.unwrap();
        let callback = back.headers()[LOCATION].to_str().unwrap().to_owned();
        let url = url::Url::parse(&callback).unwrap();
        let verifier = url.query_pairs().find(|(name, _)| name == "oauth_verifier").unwrap().1.into_owned();
        cage.trap.secret("verifier", &verifier, &[]);
        let request = http.get(&callback).header(COOKIE, link.cookies.join("; "));
        let (done, _) = cage.trap.ask("the callback of OAuth 1.0a", request).await;
        assert_eq!(done.headers[LOCATION].to_str().unwrap().contains("outcome=connected"), connects, "{:?}", done.headers);
        cage.scene.lab.behave();
        if connects {
            link.account(cage).await;
            let connection = link.connection(cage).await;
            used(cage, &connection, "me").await;
        }
    }
}

/// Lists and choices name the pages, and none of their tokens; an agent gets that of the page which it names.
async fn chosen_pages(cage: &mut Cage) {
    let connection = cage.scene.connect("paged").await;
    let path = format!("/v1/connections/{connection}/resources");
    cage.platform(Method::GET, &path, Value::Null).await;
    let (chosen, _) = cage.platform(Method::PUT, &path, json!({ "chosen": { "page": ["p1", "p2"] } })).await;
    assert_eq!(chosen.status, StatusCode::OK, "{chosen:?}");
    let token = cage.usable(&connection).await.token.token;
    let reveal = format!("/v1/connections/{connection}/token");
    for (slot, expected) in [("page", StatusCode::CONFLICT), ("page/p3", StatusCode::NOT_FOUND), ("page/p2", StatusCode::OK)] {
        let (revealed, at) = cage.call(&token, Method::POST, &reveal, Some(&json!({ "slot": slot }))).await;
        assert_eq!(revealed.status, expected, "{revealed:?}");
        if expected == StatusCode::OK {
            of_the_lab(cage, &revealed.body, at);
        }
    }
    let url = cage.at(&format!("/v1/proxy/{connection}/me"));
    let request = cage.scene.http.get(url).bearer_auth(&token).header("valet-slot", "page/p1");
    let (called, _) = cage.trap.ask("a call with the token of a page", request).await;
    assert_eq!(called.body["scope"], "page:p1", "{called:?}");
}

/// The option of a Data Machine site: once with other salts, which open nothing, once to look, once for good.
async fn imported(cage: &mut Cage) {
    let salts = [("AUTH_KEY", cage.trap.plant("a key of the salts")), ("AUTH_SALT", cage.trap.plant("a salt"))];
    let bytes = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
    let seal = Key::derive(&Salts::given(bytes(&salts[0].1), bytes(&salts[1].1))).unwrap();
    let mut planted = Vec::new();
    let mut sealed = |cage: &mut Cage, what: &str| {
        let canary = cage.trap.plant(what);
        let sealed = seal.seal(canary.as_bytes()).unwrap();
        planted.push((what.to_owned(), canary));
        sealed
    };
    let account = json!({
        "access_token": sealed(cage, "an imported access token"),
        "refresh_token": sealed(cage, "an imported refresh token"),
        "token_expires_at": 1_990_000_000,
        "username": "snoo",
    });
    let inbox = json!({
        "imap_host": "imap.example.test",
        "imap_port": 993,
        "imap_encryption": "ssl",
        "imap_user": "ops@example.test",
        "imap_password": sealed(cage, "an imported password of a mailbox"),
    });
    // Plain, as a site that never saved it again has it.
    let secret = cage.trap.plant("an imported client secret");
    let option = json!({
        "reddit": { "config": { "client_id": "rd-client", "client_secret": secret }, "account": account },
        "email_imap": { "accounts": { "inbox": inbox } },
    });
    let folder = cage.scene.home.folder().to_owned();
    let written = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = |salts: &[(&str, String)]| -> String {
        let lines = salts.iter().map(|(name, value)| format!("define( '{name}', '{value}' );\n"));
        format!("<?php\n{}", lines.collect::<String>())
    };
    let wrong = [("AUTH_KEY", cage.trap.plant("a wrong key of the salts")), ("AUTH_SALT", cage.trap.plant("a wrong salt"))];
    let option = written("auth_data.json", &option.to_string());
    let (right, wrong) = (written("wp-config.php", &config(&salts)), written("wp-config-of-another.php", &config(&wrong)));
    let runs: [(&str, &[&str], i32); 3] =
        [(wrong.as_str(), &[], 1), (right.as_str(), &["--dry-run"], 0), (right.as_str(), &["--json"], 0)];
    for (config, more, code) in runs {
        let words = [&["import", "data-machine", "--auth-data", option.as_str(), "--wp-config", config][..], more].concat();
        let ran = cage.scene.home.cli(&words);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        cage.trap.hear_ran(ran);
    }

    for (path, count) in [("reddit/accounts/site", 2), ("email_imap/accounts/site?name=inbox", 1)] {
        let reveal = if path.contains('?') { "&reveal=true" } else { "?reveal=true" };
        let (read, at) = cage.platform(Method::GET, &format!("/v1/providers/{path}{reveal}"), Value::Null).await;
        assert_eq!(read.status, StatusCode::OK, "{read:?}");
        for (what, canary) in planted.drain(..count) {
            cage.trap.secret(&what, &canary, &[at]);
        }
    }
    cage.platform(Method::GET, "/v1/providers/reddit/config", Value::Null).await;
}

/// A link for a named account of the site, opened in a browser.
struct Link {
    id: String,
    url: String,
    provider: &'static str,
    name: String,
    cookies: Vec<String>,
    csrf: String,
}

impl Link {
    async fn open(cage: &mut Cage, provider: &'static str) -> Self {
        let name = cage.scene.fresh(provider);
        let session = json!({ "provider": provider, "owner": "site", "name": name });
        let (session, minted) = cage.platform(Method::POST, "/v1/connect-sessions", session).await;
        let (id, url) = (text(&session.body, "id"), text(&session.body, "url"));
        let mut link = Self { id, url, provider, name, cookies: Vec::new(), csrf: String::new() };
        cage.trap.secret("link", link.secret_part(), &[minted]);
        let request = cage.scene.http.get(&link.url);
        let (page, at) = cage.trap.ask("the page", request).await;
        link.read(cage, &page, at);
        assert!(!link.csrf.is_empty(), "{page:?}");
        link
    }

    fn secret_part(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// Presses a button of the page; the answer, and where it is among what was heard.
    async fn answer(&mut self, cage: &mut Cage, values: &[(&str, &str)]) -> (Answer, usize) {
        let form = [&[("csrf", self.csrf.as_str())][..], values].concat();
        let request = cage.scene.http.post(&self.url).header(COOKIE, self.cookies.join("; ")).form(&form);
        let (answer, at) = cage.trap.ask("what a link was answered", request).await;
        self.read(cage, &answer, at);
        (answer, at)
    }

    /// What a page holds because it is there to be answered: a form that is shown again holds it again.
    fn read(&mut self, cage: &mut Cage, page: &Answer, at: usize) {
        cage.take_cookies(page, at, &mut self.cookies);
        if page.text.contains(self.secret_part()) {
            cage.trap.secret("link", self.secret_part(), &[at]);
        }
        if let Some(rest) = page.text.split("name=\"csrf\" value=\"").nth(1) {
            self.csrf = rest.split('"').next().unwrap().to_owned();
            cage.trap.secret("csrf token", &self.csrf, &[at]);
        }
    }

    /// The connection that came of it.
    async fn connection(&self, cage: &mut Cage) -> String {
        let (session, _) = cage.platform(Method::GET, &format!("/v1/connect-sessions/{}", self.id), Value::Null).await;
        assert_eq!(session.body["state"], "connected", "{session:?}");
        text(&session.body, "connection")
    }

    /// Reads the account with its secrets, as the platform may; where the answer is among what was heard.
    async fn account(&self, cage: &mut Cage) -> usize {
        let path = format!("/v1/providers/{}/accounts/site?name={}&reveal=true", self.provider, self.name);
        let (account, at) = cage.platform(Method::GET, &path, Value::Null).await;
        assert_eq!(account.status, StatusCode::OK, "{account:?}");
        of_the_lab(cage, &account.body["account"], at);
        at
    }
}

/// An agent reads what it may and makes a call; where the first answer is among what was heard.
async fn used(cage: &mut Cage, connection: &str, path: &str) -> usize {
    let usable = cage.usable(connection).await;
    let token = usable.token.token;
    let (revealed, at) = cage.call(&token, Method::POST, &format!("/v1/connections/{connection}/token"), None).await;
    assert_eq!(revealed.status, StatusCode::OK, "{revealed:?}");
    of_the_lab(cage, &revealed.body, at);
    let (called, _) = cage.call(&token, Method::GET, &format!("/v1/proxy/{connection}/{path}"), None).await;
    assert!(!called.status.is_server_error(), "{called:?}");
    at
}

/// What the lab made, in an answer that was asked for it.
fn of_the_lab(cage: &mut Cage, account: &Value, at: usize) {
    for (member, value) in account.as_object().unwrap() {
        let Some(text) = value.as_str() else { continue };
        let mark = [ACCESS_PREFIX, REFRESH_PREFIX].into_iter().find(|mark| text.starts_with(*mark));
        if mark.is_some() || ["access_token", "refresh_token"].contains(&member.as_str()) {
            cage.trap.secret(&format!("{member} of the lab"), text, &[at]);
        }
        if let Some(mark) = mark {
            cage.trap.secret(&format!("some {member} of the lab"), mark, &[at]);
        }
    }
}
