//! The controls, the records, the definition, and the life of the lab itself.

use std::time::Duration;

use provider_lab::{At, DefinitionOptions, Fault, Lab, Rule, fingerprint};
use serde_json::{Value, json};

use crate::support::{Caller, good, refused, text};

impl Caller {
    async fn control(&self, path: &str, body: Value) -> u16 {
        self.post(path).json(&body).send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn another_process_steers_the_lab_over_http() {
    let caller = Caller::start().await;
    let client = json!({ "client_id": "app", "client_secret": "s", "settings": { "access_ttl": 60, "rotation": "never" } });
    assert_eq!(caller.control("/lab/clients", client).await, 204);
    let tokens = good(caller.post("/lab/tokens").json(&json!({ "client_id": "app", "person": "bob" }))).await;
    assert_eq!(tokens["expires_in"], 60);
    let refresh = text(&tokens, "refresh_token");
    let send = || {
        let form = [("grant_type", "refresh_token"), ("refresh_token", &refresh)];
        caller.post("/token").basic_auth("app", Some("s")).form(&form)
    };
    let rules = json!([
        { "at": "refresh", "fault": { "kind": "oauth_error", "error": "invalid_grant" }, "times": 1, "client_id": "app" },
        { "at": "any", "fault": { "kind": "delay_before", "ms": 1 }, "skip": 3 },
    ]);
    assert_eq!(caller.control("/lab/misbehave", rules).await, 200);
    assert_eq!(refused(send(), 400).await, "invalid_grant");
    good(send()).await;

    let counters = good(caller.get("/lab/counters")).await;
    assert_eq!(counters["requests"]["token.refresh_token"], 2);
    assert_eq!((&counters["refreshes"], &counters["most_spends_of_one_refresh_token"]), (&json!(1), &json!(1)));
    assert_eq!(counters["live_access_tokens"], json!({ "alice": 0, "bob": 2, "carol": 0 }));
    let spends = good(caller.get(&format!("/lab/spends/{}", fingerprint(&refresh)))).await;
    assert_eq!(spends, json!({ "presented": 2, "spent": 1 }));

    assert_eq!(caller.control("/lab/expire-access-tokens", json!({ "client_id": "app" })).await, 204);
    assert_eq!(good(caller.get("/lab/counters")).await["live_access_tokens"]["bob"], 0);
    let families = good(caller.get("/lab/families")).await;
    assert_eq!((&families[0]["person"], &families[0]["live_refresh_tokens"]), (&json!("bob"), &json!(1)));
    assert_eq!(good(caller.post("/lab/withdraw").json(&json!({ "client_id": "app", "person": "bob" }))).await["ended"], 1);
    assert_eq!(refused(send(), 400).await, "invalid_grant");
    assert_eq!(good(caller.get("/lab/families")).await[0]["ended"], "withdrawn");

    assert_eq!(caller.post("/lab/reset").send().await.unwrap().status(), 204);
    assert_eq!(good(caller.get("/lab/families")).await, json!([]));
    assert_eq!(refused(send(), 401).await, "invalid_client");
}

#[tokio::test]
async fn time_and_approval_are_steered_over_http() {
    let caller = Caller::start().await;
    assert_eq!(caller.control("/lab/auto-approve", json!({ "person": "carol" })).await, 204);
    let params = caller.authorize(&[]).await;
    let tokens = good(caller.redeem(&crate::support::value(&params, "code").unwrap())).await;
    assert!(caller.lab.is_live(&text(&tokens, "access_token")));
    assert_eq!(caller.control("/lab/advance", json!({ "seconds": 3601 })).await, 204);
    assert!(!caller.lab.is_live(&text(&tokens, "access_token")));
    assert_eq!(caller.post("/lab/expire-refresh-tokens").send().await.unwrap().status(), 204);
    assert_eq!(refused(caller.refresh(&text(&tokens, "refresh_token")), 400).await, "invalid_grant");
    assert_eq!(caller.post("/lab/auto-approve").send().await.unwrap().status(), 204);
    assert_eq!(caller.http.get(caller.authorize_url(&[])).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_rule_that_makes_no_sense_is_refused_whole() {
    let caller = Caller::start().await;
    let sound = json!({ "at": "any", "fault": { "kind": "drop" } });
    for wrong in [
        json!({ "at": "any", "fault": { "kind": "explode" } }),
        json!({ "at": "nowhere", "fault": { "kind": "drop" } }),
        json!({ "at": "any", "fault": { "kind": "delay_before", "ms": 1, "typo": 1 } }),
        json!({ "at": "any", "fault": { "kind": "drop" }, "tmies": 1 }),
        json!({ "at": "any", "fault": { "kind": "status", "status": 42 } }),
        json!({ "at": "any", "fault": { "kind": "status", "status": 429, "retry_after": "a\nb" } }),
        json!({ "at": "token", "fault": { "kind": "deny", "error": "access_denied" } }),
        json!({ "at": "any", "fault": { "kind": "subject", "person": "dave" } }),
    ] {
        assert_eq!(caller.control("/lab/misbehave", json!([sound, wrong])).await, 400, "{wrong}");
    }
    good(caller.get("/api/echo")).await;
}

#[tokio::test]
async fn web_pages_cannot_steer_the_lab() {
    let caller = Caller::start().await;
    let with_origin = caller.post("/lab/reset").header("origin", "https://evil.example");
    assert_eq!(with_origin.send().await.unwrap().status(), 403);
    let rebound = caller.get("/lab/counters").header("host", "evil.example");
    assert_eq!(rebound.send().await.unwrap().status(), 403);
    good(caller.get("/lab/counters")).await;
}

#[tokio::test]
async fn the_log_names_no_credential() {
    let caller = Caller::start().await;
    let code = caller.code("alice").await;
    let tokens = good(caller.redeem(&code)).await;
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    caller.get("/api/me").bearer_auth(&access).send().await.unwrap();
    caller.get(&format!("/exchange?access_token={access}")).send().await.unwrap();
    good(caller.refresh(&refresh)).await;
    let records = ["/lab/log", "/lab/counters", "/lab/families", "/lab/revoked", "/lab/clients"];
    let mut all = format!("{:?}", caller.lab);
    for path in records {
        all.push_str(&caller.get(path).send().await.unwrap().text().await.unwrap());
    }
    for credential in [&code, &access, &refresh] {
        assert!(all.contains(&fingerprint(credential)) && !all.contains(credential.as_str()));
    }
    assert!(!all.contains("lab-secret"));
    let log = caller.lab.log();
    let endpoints: Vec<_> = log.iter().map(|entry| (entry.endpoint, entry.status)).collect();
    let expected = [
        ("authorize", Some(303)),
        ("token.authorization_code", Some(200)),
        ("api", Some(200)),
        ("exchange", Some(400)),
        ("token.refresh_token", Some(200)),
    ];
    assert_eq!(endpoints, expected);
    assert_eq!(log[2].client_id.as_deref(), Some("lab-client"));
}

#[tokio::test]
async fn the_lab_listens_on_loopback_only() {
    let refused = Lab::start("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_stopped_lab_lets_hanging_requests_go_and_frees_its_port() {
    let caller = Caller::start().await;
    let addr = caller.lab.addr();
    caller.lab.misbehave(Rule::always(At::Api, Fault::HoldBefore));
    let hanging = tokio::spawn(caller.get("/api/echo").send());
    assert!(caller.lab.wait_until(Duration::from_secs(10), |lab| lab.held() == 1).await);
    tokio::time::timeout(Duration::from_secs(20), caller.lab.stop()).await.expect("it stops");
    // Either an answer or a closed connection, but no more waiting.
    let _ = hanging.await.unwrap();
    let again = Lab::start(addr).await.unwrap();
    assert_eq!(again.addr(), addr);
}

#[tokio::test]
async fn the_definition_names_this_lab() {
    let caller = Caller::start().await;
    let options = [
        DefinitionOptions::default(),
        DefinitionOptions { exchange: true, ..DefinitionOptions::default() },
        DefinitionOptions { without_identity: true, replay_kills_family: true, ..DefinitionOptions::default() },
        DefinitionOptions { grace: Some("30s".to_owned()), access_ttl: Some("60s".to_owned()), ..DefinitionOptions::default() },
    ];
    for options in &options {
        let definition: toml::Table = caller.lab.definition(options).parse().unwrap();
        let at = |path: &str| path.split('.').try_fold(&toml::Value::Table(definition.clone()), |v, key| v.get(key)).cloned();
        assert_eq!(at("oauth2.issuer"), Some(caller.lab.origin().into()));
        assert_eq!(
            at("proxy.hosts.0").or_else(|| at("proxy.hosts")?.get(0).cloned()),
            Some(caller.lab.addr().to_string().into())
        );
        assert_eq!(at("identity").is_some_and(|identity| identity.is_table()), !options.without_identity);
        assert_eq!(at("oauth2.exchange").is_some(), options.exchange);
        assert_eq!(at("refresh.replay_kills_family").is_some(), options.replay_kills_family);
        assert_eq!(at("refresh.grace"), options.grace.clone().map(Into::into));
        let strategy = if options.exchange { "extend" } else { "refresh_token" };
        assert_eq!(at("refresh.strategy"), Some(strategy.into()));
    }
    let over_http = caller.get("/lab/definition?grace=30s&access_ttl=60s").send().await.unwrap().text().await.unwrap();
    assert_eq!(over_http, caller.lab.definition(&options[3]));
}
