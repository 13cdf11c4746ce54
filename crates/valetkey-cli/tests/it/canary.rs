//! No secret leaves by accident (promise 1): secrets are planted in every field, every route is called and everything is
//! made to fail, with everything logged; then all that came out is searched for each of them. A secret may be in the one
//! answer that was asked for it, and nowhere else outside the sealed columns.
//!
//! Searched are: what the servers and the commands printed, at the log level `trace`; every HTTP answer with its headers;
//! what was sent to a webhook; the audit; the metrics; and every byte of the database: the SQLite files with their write-ahead log, or a `pg_dump`.
//! Each secret is looked for as it is, in hex, in base64 and as a part of a URL.

mod hook;
mod kinds;
mod mcp;
mod trap;

use std::{fs, process::Command, time::Duration};

use provider_lab::{At, Fault, Rule};
use reqwest::{
    Method, StatusCode,
    header::{COOKIE, LOCATION, SET_COOKIE},
};
use serde_json::{Value, json};

use self::{
    hook::Hook,
    trap::{Trap, random},
};
use crate::{
    scene::{Answer, LabProvider, On, PATIENCE, Plan, Scene, Usable, client_id, client_secret, eventually, on_each, text},
    support::Server,
};

/// A scene with a trap around it.
struct Cage {
    scene: Scene,
    trap: Trap,
    turn: usize,
}

impl Cage {
    /// The server whose turn it is.
    fn at(&mut self, path: &str) -> String {
        self.turn += 1;
        self.scene.replicas[self.turn % self.scene.replicas.len()].at(path)
    }

    /// A request with a bearer and perhaps a JSON body.
    async fn call(&mut self, bearer: &str, method: Method, path: &str, body: Option<&Value>) -> (Answer, usize) {
        let url = self.at(path);
        let mut request = self.scene.http.request(method.clone(), url).bearer_auth(bearer);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.trap.ask(&format!("{method} {path}"), request).await
    }

    async fn platform(&mut self, method: Method, path: &str, body: Value) -> (Answer, usize) {
        let key = self.scene.key.key.clone();
        let body = Some(body).filter(|body| !body.is_null());
        self.call(&key, method, path, body.as_ref()).await
    }

    /// What the lab made, and the broker keeps.
    fn lab_tokens(&mut self, account: &Value, at: usize) {
        for (member, mark) in [("access_token", provider_lab::ACCESS_PREFIX), ("refresh_token", provider_lab::REFRESH_PREFIX)] {
            if let Some(token) = account[member].as_str() {
                assert!(token.starts_with(mark), "{member} is not the lab's");
                // The mark itself is looked for, too: so that no token escapes that nobody told us of.
                self.trap.secret(&format!("{member} of the lab"), token, &[at]);
                self.trap.secret(&format!("some {member} of the lab"), mark, &[at]);
            }
        }
    }

    /// Connects an account by hand, so that every secret on the way is known, and says how it ended.
    ///
    /// `spoil` may put something else into the way back.
    async fn connect(&mut self, owner: &str, name: &str, spoil: fn(&str) -> String) -> (String, String) {
        let payload = random();
        let session = json!({ "provider": "lab", "owner": owner, "name": name, "payload": payload });
        let (session, minted) = self.platform(Method::POST, "/v1/connect-sessions", session).await;
        let (id, link) = (text(&session.body, "id"), text(&session.body, "url"));
        let secret_part = link.rsplit('/').next().unwrap().to_owned();
        let http = self.scene.http.clone();
        let mut cookies = Vec::new();
        if let Some(user) = owner.strip_prefix("user:") {
            self.trap.ask("an unproven link", http.get(&link)).await;
            let wrong = self.trap.plant("a wrong assertion");
            self.trap.ask("a wrong assertion", http.post(&link).form(&[("assertion", wrong)])).await;
            let assertion = self.scene.assertion(user, &id);
            self.trap.secret("assertion", assertion.rsplit('.').next().unwrap(), &[]);
            let (proven, at) = self.trap.ask("an assertion", http.post(&link).form(&[("assertion", &assertion)])).await;
            assert_eq!(proven.status, StatusCode::SEE_OTHER, "{proven:?}");
            self.trap.secret("link", &secret_part, &[at]);
            self.take_cookies(&proven, at, &mut cookies);
            let (again, _) = self.trap.ask("a used assertion", http.post(&link).form(&[("assertion", &assertion)])).await;
            assert_eq!(again.status, StatusCode::UNAUTHORIZED);
        }
        let (page, at) = self.trap.ask("the page", http.get(&link).header(COOKIE, cookies.join("; "))).await;
        self.trap.secret("link", &secret_part, &[minted, at]);
        self.take_cookies(&page, at, &mut cookies);
        let csrf = page.text.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        self.trap.secret("csrf token", &csrf, &[at]);
        let wrong = self.trap.plant("a wrong csrf token");
        self.trap.ask("a wrong form", http.post(&link).form(&[("csrf", wrong.as_str()), ("decision", "approve")])).await;

        let form = [("csrf", csrf.as_str()), ("decision", "approve")];
        let (gone, at) = self.trap.ask("approved", http.post(&link).header(COOKIE, cookies.join("; ")).form(&form)).await;
        self.take_cookies(&gone, at, &mut cookies);
        let authorize = url::Url::parse(gone.headers[LOCATION].to_str().unwrap()).unwrap();
        let state = authorize.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        self.trap.secret("state", &state, &[at]);
        // To the provider and back; that answer is not the broker's.
        let back = http.get(authorize).send().await.unwrap();
        let callback = back.headers()[LOCATION].to_str().unwrap().to_owned();
        if let Some((_, code)) = url::Url::parse(&callback).unwrap().query_pairs().find(|(name, _)| name == "code") {
            self.trap.secret("code", &code, &[]);
        }
        let callback = spoil(&callback);
        self.trap.ask("another browser", http.get(&callback)).await;
        let (done, _) = self.trap.ask("the callback", http.get(&callback).header(COOKIE, cookies.join("; "))).await;
        let done = format!("{}{}", self.scene.public_url(), done.headers[LOCATION].to_str().unwrap());
        self.trap.ask("the outcome", http.get(&done)).await;
        self.trap.ask("the callback again", http.get(&callback).header(COOKIE, cookies.join("; "))).await;
        let path = format!("/v1/connect-sessions/{id}");
        let (session, at) = self.platform(Method::GET, &path, Value::Null).await;
        // Its maker gets back what they gave; it stays sealed until the session is forgotten.
        self.trap.secret("payload", &payload, &[at]);
        (text(&session.body, "state"), session.body["connection"].as_str().unwrap_or_default().to_owned())
    }

    fn take_cookies(&mut self, answer: &Answer, at: usize, cookies: &mut Vec<String>) {
        for cookie in answer.headers.get_all(SET_COOKIE) {
            let (name, value) = cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            cookies.retain(|known| !known.starts_with(&format!("{name}=")));
            if !value.is_empty() {
                self.trap.secret("cookie", value, &[at]);
                cookies.push(format!("{name}={value}"));
            }
        }
    }

    /// An agent that may use a connection; its token is a secret.
    async fn usable(&mut self, connection: &str) -> Usable {
        let agent = self.scene.agent().await;
        let (minted, at) = self.platform(Method::POST, &format!("/v1/agents/{agent}/tokens"), json!({ "label": "canary" })).await;
        let token = crate::scene::Token { id: text(&minted.body, "id"), token: text(&minted.body, "token") };
        // A prefix is kept, so that people can tell tokens apart.
        self.trap.secret("agent token", &token.token, &[at]);
        self.trap.secret("end of an agent token", &token.token[token.token.len() - 24..], &[at]);
        let grant = self.scene.grant(&agent, connection).await;
        Usable { connection: connection.to_owned(), agent, token, grant }
    }
}

/// The whole of a database, as text.
fn database(scene: &Scene) -> Vec<(String, String)> {
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if scene.on == On::Postgres {
        let dump = Command::new(pg_dump()).arg("--dbname").arg(scene.variable("VALETKEY_DATABASE")).output().unwrap();
        assert!(dump.status.success(), "{}", lossy(dump.stderr));
        return vec![("the dump of the database".to_owned(), lossy(dump.stdout))];
    }
    let mut files = Vec::new();
    for file in fs::read_dir(scene.home.data()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // The key is no part of the database; the socket is no file.
        if name != "root.key" && path.is_file() {
            files.push((format!("the file {name}"), lossy(fs::read(&path).unwrap())));
        }
    }
    assert!(files.iter().any(|(name, _)| name.ends_with("valetkey.db")));
    files
}

/// Debian keeps it beside the server, of which several versions may be there: the newest reads them all.
fn pg_dump() -> std::path::PathBuf {
    let mut found: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|version| {
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin/pg_dump"))).filter(|(_, path)| path.exists())
        })
        .collect();
    found.sort();
    found.pop().map_or_else(|| "pg_dump".into(), |(_, path)| path)
}

on_each! {
    /// R41, A-214.
    async fn no_secret_is_anywhere_but_where_it_was_asked_for(on: On) {
        let mut trap = Trap::default();
        let mut plan = Plan::new(on);
        plan.log = "trace";
        plan.providers = vec![LabProvider::usual()];
        let hook = Hook::start();
        plan.allowed.push(hook.address);
        let entered = kinds::prepare(&mut plan).await;
        let scene = Scene::start(plan).await;
        trap.secret("platform key", &scene.key.key, &[]);
        trap.secret("assertion secret", &scene.key.assertion_secret, &[]);
        trap.secret("client secret", &client_secret("lab"), &[]);
        let root = fs::read_to_string(scene.home.root_key()).unwrap();
        for line in root.lines().filter(|line| line.starts_with("vkroot1_")) {
            trap.secret("root key", &line["vkroot1_".len()..], &[]);
        }
        if on == On::Postgres {
            let url = url::Url::parse(scene.variable("VALETKEY_DATABASE")).unwrap();
            trap.secret("password of the database", url.password().unwrap(), &[]);
        }
        let mut cage = Cage { scene, trap, turn: 0 };
        let webhook = listening(&mut cage, &hook).await;
        connecting(&mut cage).await;
        let usable = refreshing(&mut cage).await;
        delivering(&mut cage, &usable).await;
        mcp::by_mcp(&mut cage, &usable).await;
        refresh(&mut cage, Some(Fault::oauth("invalid_client"))).await;
        storing(&mut cage).await;
        kinds::of_every_kind(&mut cage, entered).await;
        commanding(&mut cage);
        starting_wrongly(&mut cage).await;
        for (name, text) in database(&cage.scene) {
            cage.trap.hear(format!("{name}, in use"), text);
        }
        every_route(&mut cage, &usable).await;
        revoking(&mut cage, &usable).await;

        let told = told(&mut cage, &hook, &webhook).await;
        assert!(told.iter().any(|body| body.contains(&usable.connection)), "nothing was told of the connection");
        assert!(told.len() > 30, "only {} messages", told.len());
        cage.trap.hear("the webhook", told.join("\n"));

        // What is known to be there is found there: the search looks at the right things.
        let events = cage.scene.audit().await;
        assert!(events.len() > 50, "only {} events", events.len());
        let Cage { mut scene, mut trap, .. } = cage;
        trap.hear("the audit", Value::from(events).to_string());
        let mut logs = String::new();
        for mut server in std::mem::take(&mut scene.replicas) {
            trap.hear("what a server said when it started", server.said.to_string());
            server.signal("TERM");
            assert_eq!(server.ended(PATIENCE).await, Some(0));
            logs.push_str(&logged(&server).await);
        }
        assert!(logs.contains("TRACE") && logs.contains(&usable.connection), "the log does not hold everything");
        trap.hear("the log", logs);
        let files = database(&scene);
        assert!(files.iter().any(|(_, text)| text.contains(&usable.connection)), "the database was not read");
        for (name, text) in files {
            trap.hear(format!("{name}, at the end"), text);
        }
        let caught = trap.caught();
        assert!(caught.is_empty(), "{} secrets are loose:\n{}", caught.len(), caught.join("\n\n"));
    }
}

/// The whole log of a server that ended.
async fn logged(server: &Server) -> String {
    // Whoever reads it may be a moment behind.
    let mut length = usize::MAX;
    eventually(|| {
        let log = server.log();
        let done = log.len() == length;
        length = log.len();
        async move { done.then_some(log) }
    })
    .await
}

/// An endpoint that is told everything, with a second secret from the start; its id.
async fn listening(cage: &mut Cage, hook: &Hook) -> String {
    let (made, at) = cage.platform(Method::POST, "/v1/webhooks", json!({ "url": format!("http://{}/", hook.address) })).await;
    let id = text(&made.body, "id");
    let (rotated, then) = cage.platform(Method::POST, &format!("/v1/webhooks/{id}/rotate"), json!({})).await;
    for (answer, at) in [(made, at), (rotated, then)] {
        cage.trap.secret("webhook secret", &text(&answer.body, "secret")["whsec_".len()..], &[at]);
    }
    id
}

/// Everything that was sent there, once nothing waits any more.
async fn told(cage: &mut Cage, hook: &Hook, webhook: &str) -> Vec<String> {
    let path = format!("/v1/webhooks/{webhook}/deliveries");
    loop {
        let (waiting, _) = cage.platform(Method::GET, &format!("{path}?status=pending"), Value::Null).await;
        if waiting.body["deliveries"].as_array().unwrap().is_empty() {
            return hook.heard();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Connecting: as it should be, and every way it fails.
async fn connecting(cage: &mut Cage) {
    let same = |callback: &str| callback.to_owned();
    let (outcome, connection) = cage.connect("user:42", "", same).await;
    assert_eq!(outcome, "connected");
    let again = json!({ "payload": cage.trap.plant("a payload of connecting again") });
    let (link, _) = cage.platform(Method::POST, &format!("/v1/connections/{connection}/reconnect"), again).await;
    assert_eq!(link.status, StatusCode::CREATED, "{link:?}");
    // What a link does not take is not kept either, nor repeated.
    let sent = cage.trap.plant("a link that is refused");
    for part in [
        json!({ "payload": sent.repeat(100) }),
        json!({ "payload": [sent] }),
        json!({ "fields": { "client_secret": sent } }),
        json!({ "fields": { "no_such_field": sent } }),
        json!({ "return_to": format!("https://p.example/{sent}") }),
        json!({ "name": format!("{sent}\u{0}") }),
        json!({ "scopes": [format!("{sent} {sent}")] }),
        json!({ "agent": format!("{sent}/") }),
        json!({ "no_such_member": sent }),
    ] {
        let mut session = json!({ "provider": "lab", "owner": "site" });
        session.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        let (refused, _) = cage.platform(Method::POST, "/v1/connect-sessions", session).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    }
    for (spoiled, expected) in [
        ((|url| url.replace("state=", "state=x")) as fn(&str) -> String, "started"),
        (|url| url.replace("code=", "code=x"), "token_exchange_failed"),
        (|url| format!("{url}&code=twice"), "started"),
        (|url| url.replace("iss=http", "iss=https"), "issuer_mismatch"),
    ] {
        let (outcome, _) = cage.connect("site", "spoiled", spoiled).await;
        assert_eq!(outcome, expected);
    }
    let body = |cage: &mut Cage, what: &str, shape: &str| Fault::Body { text: shape.replace("CANARY", &cage.trap.plant(what)) };
    let faults = [
        (At::Authorize, Fault::Deny { error: "access_denied".to_owned() }, "oauth_denied"),
        (At::Code, Fault::status(500), "token_exchange_failed"),
        (At::Code, Fault::LoseResponse, "token_exchange_failed"),
        (At::Code, body(cage, "token answer", "CANARY is no JSON"), "token_exchange_failed"),
        (
            At::Code,
            body(cage, "token error", r#"{"error":"invalid_grant","error_description":"CANARY"}"#),
            "token_exchange_failed",
        ),
        (At::Code, body(cage, "token type", r#"{"access_token":"CANARY","token_type":"mac"}"#), "token_exchange_failed"),
        (
            At::Code,
            body(cage, "token without identity", r#"{"access_token":"CANARY","token_type":"Bearer"}"#),
            "account_fetch_failed",
        ),
        (At::Userinfo, body(cage, "identity answer", "CANARY"), "account_fetch_failed"),
        (At::Userinfo, body(cage, "identity error", r#"{"error":{"message":"CANARY"}}"#), "account_fetch_failed"),
    ];
    for (at, fault, expected) in faults {
        cage.scene.lab.misbehave(Rule::once(at, fault));
        let (outcome, _) = cage.connect("site", "failed", same).await;
        assert_eq!(outcome, expected);
        cage.scene.lab.behave();
    }
    let (code, state) = (cage.trap.plant("a stray code"), cage.trap.plant("a stray state"));
    let http = cage.scene.http.clone();
    for path in ["/callback/lab", "/callback/nowhere", "/connect/done", "/connect/x", "/nowhere", "/v1/nowhere"] {
        let url = cage.at(&format!("{path}?code={code}&state={state}&error_description={code}&access_token={state}"));
        cage.trap.ask(path, http.get(url)).await;
    }
    let link = cage.trap.plant("a stray link");
    let url = cage.at(&format!("/connect/{link}"));
    cage.trap.ask("a stray link", http.get(url)).await;
}

/// Refreshing: as it should be, and every way it fails. Says an account that is alive in the end.
async fn refreshing(cage: &mut Cage) -> Usable {
    let body = |cage: &mut Cage, what: &str, shape: &str| Fault::Body { text: shape.replace("CANARY", &cage.trap.plant(what)) };
    let faults = [
        None,
        Some(Fault::status(500)),
        Some(Fault::LoseResponse),
        Some(body(cage, "refresh answer", "CANARY")),
        Some(body(cage, "refresh error", r#"{"error":"invalid_grant","error_description":"CANARY"}"#)),
        Some(body(cage, "refresh type", r#"{"access_token":"CANARY","token_type":"mac"}"#)),
    ];
    let mut alive = Vec::new();
    for fault in faults {
        alive.push(refresh(cage, fault).await);
    }
    alive.remove(0)
}

/// An account whose token is over is asked for, and the provider fails in this way.
async fn refresh(cage: &mut Cage, fault: Option<Fault>) -> Usable {
    let life = |cage: &Cage, seconds| cage.scene.lab.settings(&client_id("lab"), |settings| settings.access_ttl = seconds);
    life(cage, 1);
    let name = cage.scene.fresh("refresh");
    let (outcome, connection) = cage.connect("site", &name, str::to_owned).await;
    assert_eq!(outcome, "connected");
    life(cage, 3600);
    let usable = cage.usable(&connection).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    if let Some(fault) = &fault {
        cage.scene.lab.misbehave(Rule::once(At::Refresh, fault.clone()));
    }
    let path = format!("/v1/connections/{connection}/token");
    let (revealed, at) = cage.call(&usable.token.token, Method::POST, &path, None).await;
    assert_eq!(revealed.status == StatusCode::OK, fault.is_none(), "{fault:?}: {revealed:?}");
    cage.lab_tokens(&revealed.body, at);
    cage.scene.lab.behave();
    cage.platform(Method::POST, &format!("/v1/connections/{connection}/refresh"), Value::Null).await;
    let path = format!("/v1/providers/lab/accounts/site?name={name}&reveal=true");
    let (account, at) = cage.platform(Method::GET, &path, Value::Null).await;
    cage.lab_tokens(&account.body["account"], at);
    usable
}

/// Both deliveries, and what they refuse.
async fn delivering(cage: &mut Cage, usable: &Usable) {
    let token = usable.token.token.clone();
    let proxied = format!("/v1/proxy/{}", usable.connection);
    let (header, cookie, query, sent) = (
        cage.trap.plant("a header through the proxy"),
        cage.trap.plant("a cookie through the proxy"),
        cage.trap.plant("a query through the proxy"),
        cage.trap.plant("a body through the proxy"),
    );
    let http = cage.scene.http.clone();
    let two = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let operations = [
        (Method::GET, "/me"),
        (Method::POST, "/echo-nothing"),
        (Method::PUT, "/status/500"),
        (Method::GET, "/set-cookie"),
        (Method::GET, "/trailers"),
        // Refused: a credential path, a path that is not plain, one that is not among the allowed, another host.
        (Method::POST, "/../token"),
        (Method::GET, "/echo-credential"),
        (Method::GET, "/%2e%2e/token"),
        (Method::GET, "/~elsewhere.example/api/me"),
        (Method::TRACE, "/me"),
    ];
    for client in [&http, &two] {
        for (method, path) in operations.clone() {
            let url = cage.at(&format!("{proxied}{path}?secret={query}"));
            let request = client.request(method.clone(), url).bearer_auth(&token).header("x-api-key", &header);
            let request = request.header(COOKIE, format!("session={cookie}")).body(sent.clone());
            cage.trap.ask(&format!("{method} {path} by the proxy"), request).await;
        }
    }
    for fault in [Fault::Drop, Fault::LoseResponse, Fault::TruncatedBody, Fault::status(503)] {
        cage.scene.lab.misbehave(Rule::once(At::Api, fault));
        cage.call(&token, Method::POST, &format!("{proxied}/posts"), Some(&json!({ "text": sent }))).await;
        cage.scene.lab.behave();
    }
    // The provider takes the token no more: refreshed once, in the middle of a call.
    cage.scene.lab.expire_access_tokens(None);
    let (me, _) = cage.call(&token, Method::GET, &format!("{proxied}/me"), None).await;
    assert_eq!(me.body["username"], "alice", "{me:?}");

    let reveal = format!("/v1/connections/{}/token", usable.connection);
    let (revealed, at) = cage.call(&token, Method::POST, &reveal, Some(&json!({ "min_life": 100 }))).await;
    cage.lab_tokens(&revealed.body, at);
    let wish = cage.trap.plant("a wish");
    cage.call(&token, Method::POST, &reveal, Some(&json!({ "min_life": wish }))).await;
    cage.call(&token, Method::POST, &reveal, Some(&json!({ "wish": wish }))).await;
    // Whoever shows something that is no credential, or not theirs.
    let stranger = cage.trap.plant("a stranger");
    let hex: String = random().bytes().map(|byte| format!("{byte:02x}")).collect::<String>()[..64].to_owned();
    cage.trap.secret("a token of the reference's form", &hex, &[]);
    let broken = format!("{}x", token);
    for bearer in
        [stranger.clone(), format!("vk_{stranger}"), format!("vkp_{stranger}"), format!("datamachine_slug_{hex}"), broken]
    {
        for (method, path) in [
            (Method::POST, reveal.clone()),
            (Method::GET, format!("{proxied}/me")),
            (Method::GET, "/v1/me".into()),
            (Method::GET, "/v1/agents".into()),
        ] {
            let (refused, _) = cage.call(&bearer, method, &path, None).await;
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
        }
    }
    for scheme in ["Basic", "Digest", "Bearer Bearer", "bearer", ""] {
        let url = cage.at(&reveal);
        let request = http.post(url).header("authorization", format!("{scheme} {stranger}"));
        cage.trap.ask("another scheme", request).await;
    }
}

/// What platforms store: apps and accounts.
async fn storing(cage: &mut Cage) {
    let config = "/v1/providers/lab/config/users/7";
    let secret = cage.trap.plant("a client secret");
    let (stored, _) =
        cage.platform(Method::PUT, config, json!({ "values": { "client_id": "c", "client_secret": secret } })).await;
    assert_eq!(stored.status, StatusCode::OK, "{stored:?}");
    cage.platform(Method::GET, config, Value::Null).await;
    let wrong = cage.trap.plant("a wrong client secret");
    for values in [
        json!({ "values": { "client_secret": wrong, "client_id": "c", "no_such_field": wrong } }),
        json!({ "values": { "client_secret": [wrong], "client_id": "c" } }),
        json!({ "values": { "client_secret": { "nested": wrong } } }),
        json!({ "values": wrong }),
        json!(wrong),
    ] {
        let (refused, _) = cage.platform(Method::PUT, config, values).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    }
    cage.platform(Method::DELETE, config, Value::Null).await;

    let path = "/v1/providers/lab/accounts/users/43";
    let members = ["access_token", "refresh_token", "note", "password", "id_token", "client_secret"];
    let mut account = serde_json::Map::new();
    for member in members {
        account.insert(member.to_owned(), cage.trap.plant(&format!("account {member}")).into());
    }
    account.insert("nested".to_owned(), json!({ "deep": [cage.trap.plant("account nested")] }));
    let account = json!({ "account": account });
    let (stored, _) = cage.platform(Method::PUT, path, account.clone()).await;
    assert_eq!(stored.status, StatusCode::CREATED, "{stored:?}");
    let (stale, _) = cage.platform(Method::PUT, path, account.clone()).await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_REQUIRED);
    cage.platform(Method::GET, path, Value::Null).await;
    let patched = cage.trap.plant("a patched member");
    let (answer, _) = cage.platform(Method::PATCH, path, json!({ "account": { "note": patched } })).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    cage.platform(Method::PATCH, path, json!({ "account": { "access_token": patched } })).await;
    let (read, at) = cage.platform(Method::GET, &format!("{path}?reveal=true"), Value::Null).await;
    assert_eq!(read.body["account"]["note"], patched);
    let members: Vec<String> =
        read.body["account"].as_object().unwrap().values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    for secret in &members {
        cage.trap.secret("an account's member", secret, &[at]);
    }
    let deep = read.body["account"]["nested"]["deep"][0].as_str().unwrap().to_owned();
    cage.trap.secret("an account's member", &deep, &[at]);

    let wrong = cage.trap.plant("a wrong account");
    for body in [json!({ "account": wrong }), json!({ "account": [wrong] }), json!({ "accounts": { "a": wrong } }), json!(wrong)]
    {
        let (refused, _) = cage.platform(Method::PUT, path, body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    }
    let key = cage.scene.key.key.clone();
    let http = cage.scene.http.clone();
    for (kind, body) in [
        ("application/json", format!("{{\"account\": {{\"access_token\": \"{wrong}\"")),
        ("application/json", format!("{{\"account\": {{\"access_token\": \"{wrong}\\u0000\"}}}}")),
        ("application/json", format!("{{\"account\": {{\"access_token\": \"{}\"}}}}", wrong.repeat(3000))),
        ("text/plain", wrong.clone()),
    ] {
        let url = cage.at(path);
        let request = http.put(url).bearer_auth(&key).header("content-type", kind).body(body);
        let (refused, _) = cage.trap.ask("a broken body", request).await;
        // Whoever sends far too much may be cut off before the answer is read.
        assert!(refused.status.is_client_error() || refused.broke(), "{refused:?}");
    }
    cage.platform(Method::DELETE, path, Value::Null).await;
    cage.platform(Method::GET, "/metrics", Value::Null).await;
    cage.platform(Method::GET, "/v1/revocations", Value::Null).await;
}

/// The operator's commands, with everything logged.
fn commanding(cage: &mut Cage) {
    let Cage { scene, trap, .. } = cage;
    for arguments in [
        &["connection", "list"][..],
        &["agent", "list"],
        &["grant", "list"],
        &["key", "list"],
        &["audit", "list", "--limit", "1000"],
        &["provider", "list"],
        &["provider", "show", "lab"],
        &["account", "get", "lab", "--user", "42"],
        &["keys", "status"],
        &["keys", "rotate", "--verify"],
        &["site", "show"],
    ] {
        for json in [&[][..], &["--json"]] {
            let ran = scene.home.cli(&[arguments, json].concat());
            assert_eq!(ran.code, Some(0), "{ran:?}");
            trap.hear_ran(ran);
        }
    }
    trap.hear_ran(scene.home.cli(&["doctor"]));
    let wrong = trap.plant("an account for a command");
    for input in [wrong.clone(), format!("{{\"access_token\": \"{wrong}\""), format!("[\"{wrong}\"]")] {
        let ran = scene.home.cli_with_input(&["account", "set", "lab", "--user", "44"], &input);
        assert_ne!(ran.code, Some(0));
        trap.hear_ran(ran);
    }
    let stored =
        scene.home.cli_with_input(&["account", "set", "lab", "--user", "44"], &format!("{{\"access_token\": \"{wrong}\"}}"));
    assert_eq!(stored.code, Some(0), "{stored:?}");
    trap.hear_ran(stored);
    let shown = scene.home.cli(&["account", "get", "lab", "--user", "44", "--reveal"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    // Asked for, on standard output; not in what is said beside.
    trap.hear("the log of a reveal", shown.stderr);
    let at = trap.hear("a reveal by a command", shown.stdout);
    trap.secret("an account for a command", &wrong, &[at]);
    let secret = trap.plant("a client secret for a command");
    let configure = ["provider", "configure", "lab", "--user", "44", "--set", "client_id=c", "--secret-file", "client_secret=-"];
    let ran = scene.home.cli_with_input(&configure, &secret);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    trap.hear_ran(ran);
}

/// Servers that do not start, because a setting is wrong that holds a secret.
async fn starting_wrongly(cage: &mut Cage) {
    let Cage { scene, trap, .. } = cage;
    let password = trap.plant("a password of a database");
    let key = trap.plant("a wrong root key");
    let file = scene.home.folder().join("wrong.key");
    fs::write(&file, format!("vkroot1_{key}\n")).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let data = scene.home.folder().join("elsewhere").display().to_string();
    let variables = |pairs: &[(&str, &str)]| {
        let mut all = vec![("VALETKEY_LOG".to_owned(), "trace".to_owned())];
        all.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    };
    for wrong in [
        variables(&[("VALETKEY_DATABASE", &format!("postgres://me:{password}@127.0.0.1:1/x")), ("VALETKEY_ROOT_KEY", &key)]),
        variables(&[
            ("VALETKEY_DATABASE", &format!("postgres://me:{password}@[::broken/x")),
            ("VALETKEY_ROOT_KEY_FILE", file.to_str().unwrap()),
        ]),
        variables(&[("VALETKEY_DATABASE", &password), ("VALETKEY_ROOT_KEY_FILE", file.to_str().unwrap())]),
        variables(&[("VALETKEY_DATA", &data), ("VALETKEY_ROOT_KEY", &key)]),
        variables(&[("VALETKEY_DATA", &data), ("VALETKEY_ROOT_KEY", &format!("vkroot1_{key}"))]),
        variables(&[("VALETKEY_DATA", &data), ("VALETKEY_ROOT_KEY_FILE", file.to_str().unwrap())]),
    ] {
        match Server::run(&wrong, &["serve", "--json", "--listen", "127.0.0.1:0"]).await {
            Ok(_) => panic!("it started with {wrong:?}"),
            Err(ran) => drop(trap.hear_ran(ran)),
        }
    }
}

/// Every operation that the API describes, as everybody, with secrets in the body.
async fn every_route(cage: &mut Cage, usable: &Usable) {
    let (document, _) = cage.platform(Method::GET, "/openapi.json", Value::Null).await;
    let sent = cage.trap.plant("a body for every route");
    let stranger = cage.trap.plant("a bearer for every route");
    let bodies = [
        Value::Null,
        json!({ "secret": sent }),
        json!([sent]),
        json!({ "account": { "access_token": sent }, "values": { "client_secret": sent } }),
    ];
    let bearers = [cage.scene.key.key.clone(), usable.token.token.clone(), stranger];
    let mut called = 0;
    for (path, operations) in document.body["paths"].as_object().unwrap() {
        let path: String = path
            .split('/')
            .map(|part| match part {
                "{provider}" => "lab".to_owned(),
                "{connection}" => usable.connection.clone(),
                "{user}" => "u9".to_owned(),
                // Nothing of that name: what is there is needed afterwards.
                part if part.starts_with('{') => "none".to_owned(),
                part => part.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("/");
        for method in operations.as_object().unwrap().keys() {
            let Ok(method) = method.to_ascii_uppercase().parse::<Method>() else { continue };
            let used = ["/v1/providers/lab/accounts/site", "/v1/providers/lab/config", "/v1/providers/lab/config/site"];
            if used.contains(&path.as_str()) && method != Method::GET {
                continue;
            }
            for bearer in &bearers {
                for body in &bodies {
                    let body = Some(body).filter(|body| !body.is_null());
                    let (answer, at) = cage.call(bearer, method.clone(), &path, body).await;
                    assert!(answer.status != StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}: {answer:?}");
                    // Stored for u9, and handed back to nobody.
                    called += 1;
                    cage.lab_tokens(&answer.body, at);
                }
            }
        }
    }
    assert!(called > 400, "only {called} calls");
}

/// Taking back, also upstream, where that fails first.
async fn revoking(cage: &mut Cage, usable: &Usable) {
    let refused = cage.trap.plant("revocation answer");
    cage.scene.lab.misbehave(Rule::once(
        At::Revoke,
        Fault::Body { text: format!("{{\"error\":\"server_error\",\"error_description\":\"{refused}\"}}") },
    ));
    let (revoked, _) = cage.platform(Method::DELETE, &format!("/v1/connections/{}", usable.connection), Value::Null).await;
    assert_eq!(revoked.status, StatusCode::OK, "{revoked:?}");
    cage.platform(Method::DELETE, &format!("/v1/tokens/{}", usable.token.id), Value::Null).await;
    cage.call(&usable.token.token, Method::GET, "/v1/me", None).await;
    let lab = &cage.scene.lab;
    assert!(lab.wait_until(PATIENCE, |lab| lab.requests("revoke") > 0).await, "nothing was revoked upstream");
    cage.platform(Method::GET, "/v1/revocations", Value::Null).await;
    cage.platform(Method::GET, "/metrics", Value::Null).await;
}
