//! Misbehaviour on demand.

use std::time::{Duration, Instant};

use provider_lab::{At, Client, Fault, Rule, fingerprint};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{CALLBACK, Caller, VERIFIER, good, refused, text, value};

const PATIENCE: Duration = Duration::from_secs(10);

impl Caller {
    /// A refresh token without a flow.
    fn refresh_token(&self) -> String {
        self.lab.issue("lab-client", "alice", "profile posts:read").unwrap().refresh_token.unwrap()
    }

    /// The body of one refresh under one fault.
    async fn refresh_with(&self, fault: Fault) -> String {
        self.lab.misbehave(Rule::once(At::Refresh, fault));
        self.refresh(&self.refresh_token()).send().await.unwrap().text().await.unwrap()
    }
}

#[tokio::test]
async fn a_rule_counts_skips_and_ends() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::always(At::Userinfo, Fault::status(503)).skip(1).times(2));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(caller.get("/userinfo").send().await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [401, 503, 503, 401]);
}

#[tokio::test]
async fn a_rule_may_be_for_one_client_or_one_path_only() {
    let caller = Caller::start().await;
    caller.lab.register(Client::new("other", "s"));
    caller.lab.misbehave(Rule::always(At::Token, Fault::status(500)).client("other"));
    caller.lab.misbehave(Rule::always(At::Api, Fault::status(502)).path("/api/echo"));
    let as_other = caller.post("/token").basic_auth("other", Some("s")).form(&[("grant_type", "refresh_token")]);
    assert_eq!(as_other.send().await.unwrap().status(), 500);
    good(caller.refresh(&caller.refresh_token())).await;
    assert_eq!(caller.get("/api/echo").send().await.unwrap().status(), 502);
    assert_eq!(caller.get("/api/me").send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_lost_response_has_spent_the_token() {
    let caller = Caller::start().await;
    let token = caller.refresh_token();
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
    assert!(caller.refresh(&token).send().await.is_err(), "the connection is closed without an answer");
    assert_eq!(caller.lab.spends_of_refresh_token(&fingerprint(&token)), 1);
    assert_eq!(caller.lab.counters().refreshes, 1);
    assert_eq!(refused(caller.refresh(&token), 400).await, "invalid_grant");
}

#[tokio::test]
async fn a_dropped_request_has_not() {
    let caller = Caller::start().await;
    let token = caller.refresh_token();
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::Drop));
    assert!(caller.refresh(&token).send().await.is_err());
    let sha256 = fingerprint(&token);
    let control = caller.lab.control();
    assert_eq!((control.presentations_of_refresh_token(&sha256), control.spends_of_refresh_token(&sha256)), (1, 0));
    good(caller.refresh(&token)).await;
}

#[tokio::test]
async fn an_answer_that_never_comes_has_done_its_work() {
    let caller = Caller::start().await;
    let token = caller.refresh_token();
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::NeverAnswer));
    let waited = caller.refresh(&token).timeout(Duration::from_millis(300)).send().await;
    assert!(waited.unwrap_err().is_timeout());
    assert_eq!(caller.lab.counters().refreshes, 1);
}

#[tokio::test]
async fn a_caller_who_is_killed_does_not_stop_the_work() {
    let caller = Caller::start().await;
    let token = caller.refresh_token();
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::HoldBefore));
    let form = format!("grant_type=refresh_token&refresh_token={token}&client_id=lab-client&client_secret=lab-secret");
    let mut stream = TcpStream::connect(caller.lab.addr()).await.unwrap();
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: lab\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        form.len()
    );
    stream.write_all(format!("{head}{form}").as_bytes()).await.unwrap();
    assert!(caller.lab.wait_until(PATIENCE, |lab| lab.held() == 1).await);
    drop(stream);
    // Time for the lab to notice that its caller is gone.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(caller.lab.counters().refreshes, 0);
    caller.lab.release();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if caller.lab.counters().refreshes == 1 {
            return;
        }
    }
    panic!("the refresh was not done");
}

#[tokio::test]
async fn a_held_answer_comes_after_the_release_with_the_work_done_before() {
    let caller = Caller::start().await;
    let token = caller.refresh_token();
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
    let request = tokio::spawn(caller.refresh(&token).send());
    assert!(caller.lab.wait_until(PATIENCE, |lab| lab.held() == 1).await);
    assert_eq!(caller.lab.counters().refreshes, 1);
    assert!(!request.is_finished());
    caller.lab.release();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert_eq!(caller.lab.held(), 0);
}

#[tokio::test]
async fn delays_are_before_or_after_the_work() {
    let caller = Caller::start().await;
    for (fault, done_meanwhile) in [(Fault::DelayBefore { ms: 400 }, 0), (Fault::DelayAfter { ms: 400 }, 1)] {
        caller.lab.reset_records();
        caller.lab.misbehave(Rule::once(At::Refresh, fault));
        let begun = Instant::now();
        let request = tokio::spawn(caller.refresh(&caller.refresh_token()).send());
        assert!(caller.lab.wait_until(PATIENCE, |lab| lab.refresh_requests() == 1).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(caller.lab.counters().refreshes, done_meanwhile);
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
        assert!(begun.elapsed() >= Duration::from_millis(400));
    }
}

#[tokio::test]
async fn a_status_comes_with_its_retry_after_and_with_or_without_the_work() {
    let caller = Caller::start().await;
    let token = caller.refresh_token();
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::too_many("7")));
    let response = caller.refresh(&token).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(caller.lab.counters().refreshes, 0);
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::Status { status: 502, retry_after: None, work: true }));
    assert_eq!(caller.refresh(&token).send().await.unwrap().status(), 502);
    assert_eq!(caller.lab.counters().refreshes, 1);
}

#[tokio::test]
async fn oauth_errors_come_with_their_status() {
    let caller = Caller::start().await;
    let token = caller.refresh_token();
    for (fault, status, error) in [
        (Fault::oauth("invalid_grant"), 400, "invalid_grant"),
        (Fault::OauthError { error: "invalid_client".to_owned(), status: 401 }, 401, "invalid_client"),
        (Fault::error_with_200("bad_verification_code"), 200, "bad_verification_code"),
    ] {
        caller.lab.misbehave(Rule::once(At::Refresh, fault));
        assert_eq!(refused(caller.refresh(&token), status).await, error);
    }
    good(caller.refresh(&token)).await;
}

#[tokio::test]
async fn members_are_set_left_out_and_doubled() {
    let caller = Caller::start().await;
    let code = caller.code("alice").await;
    for value in [json!("3600"), json!(0), json!(-5), json!(1e300), json!(null)] {
        let body = caller.refresh_with(Fault::set("expires_in", value.clone())).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["expires_in"], value);
        assert!(text(&body, "access_token").starts_with("lab_at_"));
    }
    for field in ["expires_in", "refresh_token", "scope", "token_type"] {
        let body: Value = serde_json::from_str(&caller.refresh_with(Fault::omit(field)).await).unwrap();
        assert!(body.get(field).is_none());
    }
    let body: Value = serde_json::from_str(&caller.refresh_with(Fault::set("token_type", "BEARER")).await).unwrap();
    assert_eq!(body["token_type"], "BEARER");
    let twice = Fault::Duplicate { field: "access_token".to_owned(), value: json!("false") };
    let body = caller.refresh_with(twice).await;
    assert!(body.starts_with(r#"{"access_token":"false","access_token":"lab_at_"#));
    // None of this touched the codes.
    good(caller.redeem(&code)).await;
}

#[tokio::test]
async fn the_callback_may_lie_about_iss_and_say_too_much() {
    let caller = Caller::start().await;
    let authorize = async |fault: Fault| {
        caller.lab.misbehave(Rule::once(At::Authorize, fault));
        caller.authorize(&[("auto_approve", "alice")]).await
    };
    let params = authorize(Fault::set("iss", "http://mallory.example")).await;
    assert_eq!(value(&params, "iss").as_deref(), Some("http://mallory.example"));
    assert_eq!(value(&authorize(Fault::omit("iss")).await, "iss"), None);
    assert_eq!(value(&authorize(Fault::set("extra", "x y")).await, "extra").as_deref(), Some("x y"));
    let doubled = authorize(Fault::Duplicate { field: "state".to_owned(), value: json!("false") }).await;
    let states: Vec<_> = doubled.iter().filter(|(name, _)| name == "state").map(|(_, value)| value.as_str()).collect();
    assert_eq!(states, ["false", "the-state"]);
    let denied = authorize(Fault::Deny { error: "access_denied".to_owned() }).await;
    assert_eq!((value(&denied, "error").as_deref(), value(&denied, "code")), (Some("access_denied"), None));
    assert!(value(&caller.authorize(&[("auto_approve", "alice")]).await, "code").is_some());
}

#[tokio::test]
async fn the_consent_page_itself_uses_up_no_rule() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::once(At::Authorize, Fault::Deny { error: "access_denied".to_owned() }));
    let page = caller.http.get(caller.authorize_url(&[])).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(value(&caller.authorize(&[("auto_approve", "alice")]).await, "error").is_some());
}

#[tokio::test]
async fn a_token_may_die_before_its_time() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::EarlyExpiry { seconds: 5 }));
    let tokens = good(caller.refresh(&caller.refresh_token())).await;
    assert_eq!(tokens["expires_in"], 3600);
    let access = text(&tokens, "access_token");
    assert!(caller.lab.is_live(&access));
    caller.lab.advance(Duration::from_secs(6));
    assert!(!caller.lab.is_live(&access));
}

#[tokio::test]
async fn a_token_may_hold_control_characters_and_still_work() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::ControlCharacters));
    let tokens = good(caller.refresh(&caller.refresh_token())).await;
    assert!(text(&tokens, "access_token").contains('\n'));
    let refresh = text(&tokens, "refresh_token");
    assert!(refresh.contains('\u{1b}'));
    good(caller.refresh(&refresh)).await;
}

#[tokio::test]
async fn somebody_else_may_sign_in_or_be_described() {
    let caller = Caller::start().await;
    let bob = || Fault::Subject { person: "bob".to_owned() };
    caller.lab.misbehave(Rule::once(At::Authorize, bob()));
    let tokens = caller.connect("alice").await;
    let ask =
        async |tokens: &Value| text(&good(caller.get("/userinfo").bearer_auth(text(tokens, "access_token"))).await, "username");
    assert_eq!(ask(&tokens).await, "bob");
    caller.lab.misbehave(Rule::once(At::Code, bob()));
    assert_eq!(ask(&caller.connect("alice").await).await, "bob");
    let tokens = caller.connect("alice").await;
    caller.lab.misbehave(Rule::once(At::Userinfo, bob()));
    assert_eq!(ask(&tokens).await, "bob");
    assert_eq!(ask(&tokens).await, "alice");
}

#[tokio::test]
async fn fewer_scopes_may_be_granted_than_asked() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::once(At::Code, Fault::Scope { scope: "profile".to_owned() }));
    let code = caller.code("alice").await;
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", CALLBACK), ("code_verifier", VERIFIER)];
    let tokens = good(caller.token(&form)).await;
    assert_eq!(text(&tokens, "scope"), "profile");
    let posts = caller.get("/api/posts").bearer_auth(text(&tokens, "access_token"));
    assert_eq!(refused(posts, 403).await, "insufficient_scope");
}

#[tokio::test]
async fn bodies_may_be_pages_huge_slow_cut_or_mislabelled() {
    let caller = Caller::start().await;
    assert!(caller.refresh_with(Fault::HtmlBody).await.starts_with("<!doctype html>"));
    assert_eq!(caller.refresh_with(Fault::Body { text: "[1,".to_owned() }).await, "[1,");
    let huge = caller.refresh_with(Fault::HugeBody { bytes: 10 << 20 }).await;
    assert!(huge.len() > 10 << 20);
    assert!(serde_json::from_str::<Value>(&huge).is_ok());

    let begun = Instant::now();
    let slow = caller.refresh_with(Fault::SlowBody { chunk: 50, ms: 50 }).await;
    assert!(serde_json::from_str::<Value>(&slow).is_ok());
    assert!(begun.elapsed() >= Duration::from_millis(200));

    caller.lab.misbehave(Rule::once(At::Refresh, Fault::TruncatedBody));
    let cut = caller.refresh(&caller.refresh_token()).send().await.unwrap();
    assert_eq!(cut.status(), 200);
    assert!(cut.text().await.is_err());

    caller.lab.misbehave(Rule::once(At::Refresh, Fault::ContentType { value: "text/plain".to_owned() }));
    let labelled = caller.refresh(&caller.refresh_token()).send().await.unwrap();
    assert_eq!(labelled.headers()["content-type"], "text/plain");
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::ContentType { value: String::new() }));
    let unlabelled = caller.refresh(&caller.refresh_token()).send().await.unwrap();
    assert!(unlabelled.headers().get("content-type").is_none());
}

#[tokio::test]
async fn faults_combine() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::DelayBefore { ms: 150 }));
    caller.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
    let begun = Instant::now();
    assert!(caller.refresh(&caller.refresh_token()).send().await.is_err());
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert_eq!(caller.lab.log()[0].faults, ["delay_before", "lose_response"]);
}

#[tokio::test]
async fn the_api_misbehaves_too() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::once(At::Api, Fault::Drop));
    assert!(caller.get("/api/echo").send().await.is_err());
    caller.lab.misbehave(Rule::once(At::Api, Fault::TruncatedBody));
    assert!(caller.get("/api/echo").send().await.unwrap().bytes().await.is_err());
    caller.lab.misbehave(Rule::once(At::Any, Fault::too_many("Wed, 21 Oct 2026 07:28:00 GMT")));
    assert_eq!(caller.get("/api/echo").send().await.unwrap().headers()["retry-after"], "Wed, 21 Oct 2026 07:28:00 GMT");
    good(caller.get("/api/echo")).await;
}
