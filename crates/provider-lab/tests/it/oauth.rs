//! The authorization server when nobody told it to misbehave.

use std::time::Duration;

use provider_lab::{Client, ClientAuth, FamilyEnd, Rotation, Settings, fingerprint};
use serde_json::json;

use crate::support::{CALLBACK, Caller, VERIFIER, callback, good, refused, text, value};

#[tokio::test]
async fn a_person_approves_on_the_page_and_the_client_gets_tokens() {
    let caller = Caller::start().await;
    let page = caller.http.get(caller.authorize_url(&[])).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let html = page.text().await.unwrap();
    for part in ["Valet Key (lab)", "posts:write", "Alice Archer", "Bob Baker", "Carol Cooper", "Approve", "Deny"] {
        assert!(html.contains(part), "the page names {part}");
    }
    assert!(!html.contains("<script"));

    // What a browser sends: the hidden fields as they stand, the person and the button.
    let mut form: Vec<(String, String)> = html
        .split(r#"<input type="hidden" name=""#)
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once(r#"" value=""#).unwrap();
            (name.to_owned(), rest.split_once('"').unwrap().0.replace("&amp;", "&"))
        })
        .collect();
    form.extend([("person".to_owned(), "bob".to_owned()), ("decision".to_owned(), "approve".to_owned())]);
    let response = caller.post("/authorize").form(&form).send().await.unwrap();
    let params = callback(&response);
    assert_eq!(value(&params, "state").as_deref(), Some("the-state"));
    assert_eq!(value(&params, "iss"), Some(caller.lab.origin()));
    let code = value(&params, "code").unwrap();
    assert!(code.starts_with("lab_code_"));

    let tokens = good(caller.redeem(&code)).await;
    assert!(text(&tokens, "access_token").starts_with("lab_at_"));
    assert!(text(&tokens, "refresh_token").starts_with("lab_rt_"));
    assert_eq!(tokens["expires_in"], 3600);
    assert_eq!(tokens["token_type"], "Bearer");
    assert_eq!(tokens["scope"], "profile posts:read posts:write");
    let me = good(caller.get("/userinfo").bearer_auth(text(&tokens, "access_token"))).await;
    assert_eq!(me, json!({ "id": "1002", "username": "bob", "name": "Bob Baker", "email": "bob@lab.example" }));
}

#[tokio::test]
async fn a_person_may_say_no() {
    let caller = Caller::start().await;
    let url = caller.authorize_url(&[]);
    let query = url.split_once('?').unwrap().1;
    let form = caller.post("/authorize").header("content-type", "application/x-www-form-urlencoded");
    let params = callback(&form.body(format!("{query}&person=alice&decision=deny")).send().await.unwrap());
    assert_eq!(value(&params, "error").as_deref(), Some("access_denied"));
    assert_eq!(value(&params, "state").as_deref(), Some("the-state"));
    assert_eq!(value(&params, "code"), None);
}

#[tokio::test]
async fn a_wrong_client_or_redirect_uri_is_never_redirected() {
    let caller = Caller::start().await;
    caller.lab.register(Client { redirect_uris: vec![CALLBACK.to_owned()], ..Client::new("strict", "s") });
    for changes in [
        [("client_id", "nobody"), ("auto_approve", "alice")],
        [("redirect_uri", "javascript:alert(1)"), ("auto_approve", "alice")],
        [("redirect_uri", "http://127.0.0.1:9/#fragment"), ("auto_approve", "alice")],
        [("redirect_uri", ""), ("auto_approve", "alice")],
        [("client_id", "strict"), ("redirect_uri", "http://127.0.0.1:9/callback?keep=/this")],
    ] {
        let response = caller.http.get(caller.authorize_url(&changes)).send().await.unwrap();
        assert_eq!(response.status(), 400, "{changes:?}");
        assert!(response.headers().get("location").is_none());
    }
}

#[tokio::test]
async fn a_faulty_request_goes_back_with_an_error() {
    let caller = Caller::start().await;
    for (change, error) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge_method", ""), "invalid_request"),
        (("scope", "a  b"), "invalid_scope"),
    ] {
        let params = caller.authorize(&[change, ("auto_approve", "alice")]).await;
        assert_eq!(value(&params, "error").as_deref(), Some(error), "{change:?}");
        assert_eq!(value(&params, "iss"), Some(caller.lab.origin()));
    }
}

#[tokio::test]
async fn a_code_works_once_and_its_replay_ends_what_it_made() {
    let caller = Caller::start().await;
    let code = caller.code("alice").await;
    let tokens = good(caller.redeem(&code)).await;
    assert_eq!(refused(caller.redeem(&code), 400).await, "invalid_grant");
    assert!(!caller.lab.is_live(&text(&tokens, "access_token")));
    assert_eq!(caller.lab.families()[0].ended, Some(FamilyEnd::CodeReplay));
}

#[tokio::test]
async fn a_code_is_bound_to_its_redirect_uri_its_verifier_its_client_and_its_minute() {
    let caller = Caller::start().await;
    caller.lab.register(Client::new("other", "s"));
    let code = caller.code("alice").await;
    let form = |uri: &'static str, verifier: &'static str| {
        [("grant_type", "authorization_code"), ("code", code.as_str()), ("redirect_uri", uri), ("code_verifier", verifier)]
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec()
    };
    let send = |form: Vec<(&str, String)>, id: &str, secret: &str| caller.post("/token").basic_auth(id, Some(secret)).form(&form);
    let wrong = [
        send(form("http://127.0.0.1:9/callback?keep=/this", VERIFIER), "lab-client", "lab-secret"),
        send(form(CALLBACK, "another-verifier-of-the-tests-that-is-43-chars"), "lab-client", "lab-secret"),
        send(form(CALLBACK, ""), "lab-client", "lab-secret"),
        send(form(CALLBACK, VERIFIER), "other", "s"),
    ];
    for request in wrong {
        assert_eq!(refused(request, 400).await, "invalid_grant");
    }
    caller.lab.advance(Duration::from_secs(61));
    assert_eq!(refused(caller.redeem(&code), 400).await, "invalid_grant");
    let code = caller.code("alice").await;
    good(caller.redeem(&code)).await;
}

#[tokio::test]
async fn a_client_proves_itself_in_the_header_or_in_the_body_but_not_twice() {
    let caller = Caller::start().await;
    // The form encoding before Base64 matters for such a secret (R29).
    caller.lab.register(Client::new("odd:client", "a+b%c d:ü"));
    let form = [("grant_type", "refresh_token"), ("refresh_token", "unknown")];
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let proven = caller.post("/token").basic_auth(encode("odd:client"), Some(encode("a+b%c d:ü"))).form(&form);
    assert_eq!(refused(proven, 400).await, "invalid_grant");
    let raw = caller.post("/token").basic_auth("odd%3Aclient", Some("a+b%c d:ü")).form(&form);
    assert_eq!(refused(raw, 401).await, "invalid_client");

    let in_body = |secret| {
        let form = [form[0], form[1], ("client_id", "lab-client"), ("client_secret", secret)];
        caller.post("/token").form(&form)
    };
    assert_eq!(refused(in_body("lab-secret"), 400).await, "invalid_grant");
    assert_eq!(refused(in_body("wrong"), 401).await, "invalid_client");
    let twice = in_body("lab-secret").basic_auth("lab-client", Some("lab-secret"));
    assert_eq!(refused(twice, 400).await, "invalid_request");

    caller.lab.settings("lab-client", |settings| settings.client_auth = ClientAuth::Basic);
    assert_eq!(refused(in_body("lab-secret"), 401).await, "invalid_client");
}

#[tokio::test]
async fn a_public_client_needs_no_secret_and_must_not_send_one() {
    let caller = Caller::start().await;
    caller.lab.register(Client::public("app"));
    let form = |secret: &'static str| {
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", "unknown"), ("client_id", "app"), ("client_secret", secret)];
        caller.post("/token").form(&form)
    };
    assert_eq!(refused(form(""), 400).await, "invalid_grant");
    assert_eq!(refused(form("guess"), 401).await, "invalid_client");
}

#[tokio::test]
async fn parameters_in_the_url_repeated_or_not_form_encoded_are_refused() {
    let caller = Caller::start().await;
    let form = "grant_type=refresh_token&refresh_token=x&client_id=lab-client&client_secret=lab-secret";
    let with = |path: &str, kind: &'static str, body: String| caller.post(path).header("content-type", kind).body(body);
    let encoded = "application/x-www-form-urlencoded";
    assert_eq!(refused(with("/token?x=1", encoded, form.to_owned()), 400).await, "invalid_request");
    assert_eq!(refused(with("/token", encoded, format!("{form}&refresh_token=y")), 400).await, "invalid_request");
    assert_eq!(refused(with("/token", "application/json", form.to_owned()), 400).await, "invalid_request");
    assert_eq!(refused(with("/token", encoded, form.to_owned()), 400).await, "invalid_grant");
}

#[tokio::test]
async fn rotation_always_spends_the_old_token() {
    let caller = Caller::start().await;
    let first = text(&caller.connect("alice").await, "refresh_token");
    let second = text(&good(caller.refresh(&first)).await, "refresh_token");
    assert_ne!(first, second);
    assert_eq!(refused(caller.refresh(&first), 400).await, "invalid_grant");
    good(caller.refresh(&second)).await;
    assert_eq!(caller.lab.spends_of_refresh_token(&fingerprint(&first)), 2);
    assert_eq!(caller.lab.spends_of_refresh_token(&fingerprint(&second)), 1);
    assert_eq!(caller.lab.most_spends_of_one_refresh_token(), 2);
    assert_eq!(caller.lab.refresh_requests(), 3);
}

#[tokio::test]
async fn of_many_who_spend_one_token_at_once_one_wins() {
    let caller = Caller::start().await;
    let token = text(&caller.connect("alice").await, "refresh_token");
    let requests: Vec<_> = (0..20).map(|_| tokio::spawn(caller.refresh(&token).send())).collect();
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(request.await.unwrap().unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, [400; 19].as_slice()));
    assert_eq!(caller.lab.spends_of_refresh_token(&fingerprint(&token)), 20);
    assert_eq!(caller.lab.counters().refreshes, 1);
}

#[tokio::test]
async fn rotation_never_same_and_maybe() {
    let caller = Caller::start().await;
    let rotate = |rotation| caller.lab.settings("lab-client", |settings| settings.rotation = rotation);
    let first = text(&caller.connect("alice").await, "refresh_token");
    rotate(Rotation::Never);
    assert!(good(caller.refresh(&first)).await.get("refresh_token").is_none());
    rotate(Rotation::Same);
    assert_eq!(text(&good(caller.refresh(&first)).await, "refresh_token"), first);
    rotate(Rotation::Maybe);
    let second = text(&good(caller.refresh(&first)).await, "refresh_token");
    assert_ne!(second, first);
    assert!(good(caller.refresh(&second)).await.get("refresh_token").is_none());
    assert!(good(caller.refresh(&second)).await.get("refresh_token").is_some());
}

#[tokio::test]
async fn reuse_kills_the_family_where_the_client_is_so_set() {
    let caller = Caller::start().await;
    caller.lab.settings("lab-client", |settings| settings.reuse_kills_family = true);
    let first = text(&caller.connect("alice").await, "refresh_token");
    let tokens = good(caller.refresh(&first)).await;
    assert_eq!(caller.lab.live_access_tokens("alice"), 2);
    assert_eq!(refused(caller.refresh(&first), 400).await, "invalid_grant");
    assert_eq!(refused(caller.refresh(&text(&tokens, "refresh_token")), 400).await, "invalid_grant");
    assert_eq!(caller.lab.live_access_tokens("alice"), 0);
    assert_eq!(caller.lab.families()[0].ended, Some(FamilyEnd::Reuse));
    assert_eq!(caller.lab.counters().families_ended_by_reuse, 1);
}

/// R81: the same old token returns the same successor.
#[tokio::test]
async fn within_the_grace_the_old_token_yields_the_same_successor() {
    let caller = Caller::start().await;
    caller.lab.settings("lab-client", |settings| {
        settings.grace = 30;
        settings.reuse_kills_family = true;
    });
    let first = text(&caller.connect("alice").await, "refresh_token");
    let second = text(&good(caller.refresh(&first)).await, "refresh_token");
    assert_eq!(text(&good(caller.refresh(&first)).await, "refresh_token"), second);
    caller.lab.advance(Duration::from_secs(31));
    assert_eq!(refused(caller.refresh(&first), 400).await, "invalid_grant");
    assert_eq!(caller.lab.families()[0].ended, Some(FamilyEnd::Reuse));
}

#[tokio::test]
async fn a_refresh_never_widens_the_scope() {
    let caller = Caller::start().await;
    let token = text(&caller.connect("alice").await, "refresh_token");
    let with = |scope| caller.token(&[("grant_type", "refresh_token"), ("refresh_token", &token), ("scope", scope)]);
    assert_eq!(refused(with("profile admin"), 400).await, "invalid_scope");
    assert_eq!(text(&good(with("profile")).await, "scope"), "profile");
}

#[tokio::test]
async fn lifetimes_are_settings_of_the_client() {
    let caller = Caller::start().await;
    let settings = Settings { access_ttl: 10, refresh_ttl: 100, code_ttl: 5, ..Settings::default() };
    caller.lab.register(Client::new("lab-client", "lab-secret").with(settings));
    let tokens = caller.connect("alice").await;
    assert_eq!(tokens["expires_in"], 10);
    caller.lab.advance(Duration::from_secs(11));
    assert!(!caller.lab.is_live(&text(&tokens, "access_token")));
    let tokens = good(caller.refresh(&text(&tokens, "refresh_token"))).await;
    caller.lab.advance(Duration::from_secs(101));
    assert_eq!(refused(caller.refresh(&text(&tokens, "refresh_token")), 400).await, "invalid_grant");
}

#[tokio::test]
async fn revoking_the_refresh_token_ends_everything_and_the_access_token_only_itself() {
    let caller = Caller::start().await;
    caller.lab.register(Client::new("other", "s"));
    let tokens = caller.connect("alice").await;
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    let revoke =
        |token: &str, id: &str, secret: &str| caller.post("/revoke").basic_auth(id, Some(secret)).form(&[("token", token)]);
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();

    assert_eq!(status(revoke(&access, "other", "s")).await, 400);
    assert!(caller.lab.is_live(&access));
    assert_eq!(status(revoke(&access, "lab-client", "wrong")).await, 401);
    assert_eq!(status(revoke(&access, "lab-client", "lab-secret")).await, 200);
    assert!(!caller.lab.is_live(&access));
    let tokens = good(caller.refresh(&refresh)).await;
    let refresh = text(&tokens, "refresh_token");
    assert_eq!(status(revoke(&refresh, "lab-client", "lab-secret")).await, 200);
    assert!(!caller.lab.is_live(&text(&tokens, "access_token")));
    assert_eq!(refused(caller.refresh(&refresh), 400).await, "invalid_grant");
    assert_eq!(status(revoke("never-heard-of", "lab-client", "lab-secret")).await, 200);

    let revoked: Vec<_> = caller.lab.revoked_tokens().into_iter().map(|token| (token.sha256, token.kind)).collect();
    assert_eq!(revoked, [(fingerprint(&access), "access_token"), (fingerprint(&refresh), "refresh_token")]);
}

#[tokio::test]
async fn one_revocation_ends_all_of_a_person_where_the_client_is_so_set() {
    let caller = Caller::start().await;
    caller.lab.settings("lab-client", |settings| settings.revoke_ends_all = true);
    let (one, _two, bobs) = (caller.connect("alice").await, caller.connect("alice").await, caller.connect("bob").await);
    let revoke = caller.post("/revoke").basic_auth("lab-client", Some("lab-secret"));
    assert_eq!(revoke.form(&[("token", text(&one, "access_token"))]).send().await.unwrap().status(), 200);
    assert_eq!(caller.lab.live_access_tokens("alice"), 0);
    assert!(caller.lab.is_live(&text(&bobs, "access_token")));
}

#[tokio::test]
async fn introspection_knows_live_from_dead() {
    let caller = Caller::start().await;
    let tokens = caller.connect("carol").await;
    let ask = |token: &str| caller.post("/introspect").basic_auth("lab-client", Some("lab-secret")).form(&[("token", token)]);
    let live = good(ask(&text(&tokens, "access_token"))).await;
    assert_eq!((&live["active"], &live["sub"], &live["username"]), (&json!(true), &json!("1003"), &json!("carol")));
    assert_eq!(good(ask(&text(&tokens, "refresh_token"))).await["active"], true);
    caller.lab.withdraw("lab-client", "carol");
    assert_eq!(good(ask(&text(&tokens, "access_token"))).await, json!({ "active": false }));
    assert_eq!(good(ask("nonsense")).await, json!({ "active": false }));
    let anonymous = caller.post("/introspect").form(&[("token", "x")]);
    assert_eq!(anonymous.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_short_lived_token_becomes_a_long_lived_one_that_can_be_extended() {
    let caller = Caller::start().await;
    let short = text(&caller.connect("alice").await, "access_token");
    let exchange = |kind: &str, secret: &str, token: &str| {
        caller.get("/exchange").query(&[("grant_type", kind), ("client_secret", secret), ("access_token", token)])
    };
    assert_eq!(refused(exchange("lab_exchange_token", "wrong", &short), 401).await, "invalid_client");
    assert_eq!(refused(exchange("lab_extend_token", "", &short), 400).await, "invalid_grant");
    let long = good(exchange("lab_exchange_token", "lab-secret", &short)).await;
    assert_eq!(long["expires_in"], 60 * 86_400);
    assert!(long.get("refresh_token").is_none());
    caller.lab.advance(Duration::from_secs(30 * 86_400));
    let extended = good(exchange("lab_extend_token", "", &text(&long, "access_token"))).await;
    caller.lab.advance(Duration::from_secs(31 * 86_400));
    assert!(!caller.lab.is_live(&text(&long, "access_token")));
    assert!(caller.lab.is_live(&text(&extended, "access_token")));
    let by_post = [("grant_type", "lab_extend_token"), ("access_token", &text(&extended, "access_token"))];
    good(caller.post("/exchange").form(&by_post)).await;
}

#[tokio::test]
async fn the_metadata_is_that_of_this_lab() {
    let caller = Caller::start().await;
    let metadata = good(caller.get("/.well-known/oauth-authorization-server")).await;
    assert_eq!(text(&metadata, "issuer"), caller.lab.origin());
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    for endpoint in
        ["token_endpoint", "revocation_endpoint", "introspection_endpoint", "userinfo_endpoint", "authorization_endpoint"]
    {
        let status = caller.http.get(text(&metadata, endpoint)).send().await.unwrap().status();
        assert_ne!(status, 404, "{endpoint}");
    }
}
