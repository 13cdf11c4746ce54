//! What goes out: requests are made of the definition and the values, and nothing else gets in.

use http::{Method, header};
use serde_json::json;

use super::{GOOD, Trust, load, load_as, map, with};
use crate::{
    error::Code,
    provider::{
        Client, Vars,
        step::{Step, client_basic},
    },
    secret::{Secret, SecretMap},
};

/// The identity step of a definition that has this one.
fn step(section: &str) -> Step {
    let start = GOOD.find("[identity]").unwrap();
    let text = format!("{}{section}\n{}", &GOOD[..start], &GOOD[GOOD.find("[proxy]").unwrap()..]);
    match load(&text).identity {
        crate::provider::Identity::Step(step) => *step,
        other => panic!("{other:?}"),
    }
}

fn body(request: &http::Request<bytes::Bytes>) -> &str {
    std::str::from_utf8(request.body()).unwrap()
}

struct Values {
    app: SecretMap,
    fields: SecretMap,
    account: SecretMap,
    secret: Secret,
    code: Secret,
}

impl Values {
    fn new() -> Self {
        Self {
            app: map(json!({"app_id": "id", "app_secret": "s3cret"})),
            fields: map(json!({"instance": "https://m.example"})),
            account: map(json!({"access_token": "at", "refresh_token": "rt", "team": "t1"})),
            secret: Secret::new("s3cret"),
            code: Secret::new("c0de"),
        }
    }

    fn vars(&self) -> Vars<'_> {
        Vars {
            app: Some(&self.app),
            fields: Some(&self.fields),
            account: Some(&self.account),
            client: Some(Client { id: "id", secret: Some(&self.secret) }),
            callback: Some("https://us.example/callback"),
            ..Vars::default()
        }
    }
}

/// R17, R28: POST, a form, no parameter twice, the secret not in the URL.
#[test]
fn the_token_request_is_that_of_the_standard() {
    let oauth2 = load(GOOD).oauth2.unwrap();
    let values = Values::new();
    let verifier = Secret::new("v".repeat(43));
    let vars = Vars { code: Some(&values.code), code_verifier: Some(&verifier), ..values.vars() };
    let request = oauth2.token.render(&vars).unwrap();
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "https://api.good.example/v1/token"));
    assert_eq!(
        body(&request),
        format!(
            "grant_type=authorization_code&code=c0de&redirect_uri=https%3A%2F%2Fus.example%2Fcallback&code_verifier={}",
            "v".repeat(43)
        )
    );
    assert_eq!(request.headers()[header::CONTENT_TYPE], "application/x-www-form-urlencoded");
    assert_eq!(request.headers()[header::ACCEPT], "application/json");
    assert_eq!(request.headers()[header::AUTHORIZATION], "Basic aWQ6czNjcmV0");
    assert!(request.headers()[header::AUTHORIZATION].is_sensitive());
}

/// What a revocation that waits for its provider keeps of an account.
#[test]
fn a_step_says_of_which_members_of_an_account_it_is_made() {
    let members = |section: &str| step(section).members().into_iter().collect::<Vec<_>>();
    let named = "[identity]\nmethod = \"POST\"\nurl = \"{{field.instance}}/teams/{{extra.team}}\"\nauth = \"bearer\"\n\
                 form = { a = \"{{token.refresh_token}}\", b = \"{{field.app_id}} refresh\" }\n\
                 out = { id = \"id\", \"extra.team\" = \"team.id\" }";
    assert_eq!(members(named), ["access_token", "instance", "refresh_token", "team"]);
    let as_proxied = "[identity]\nmethod = \"GET\"\nurl = \"https://api.good.example/of/{{id}}\"\nauth = \"proxy\"\n\
                      out = { id = \"id\", \"extra.team\" = \"team.id\" }";
    assert_eq!(members(as_proxied), ["access_token", "id"]);
    let as_client = "[identity]\nmethod = \"GET\"\nurl = \"https://api.good.example/me\"\nauth = \"client_basic\"\n\
                     out = { id = \"id\", \"extra.team\" = \"team.id\" }";
    assert!(members(as_client).is_empty());
}

#[test]
fn a_parameter_that_renders_to_nothing_is_left_out() {
    let oauth2 = load(GOOD).oauth2.unwrap();
    let values = Values::new();
    let request = oauth2.token.render(&Vars { code: Some(&values.code), ..values.vars() }).unwrap();
    assert!(!body(&request).contains("code_verifier"));
}

#[test]
fn the_client_authenticates_as_the_definition_says() {
    let values = Values::new();
    for (style, expected_body, basic) in [
        ("body", "token=rt&client_id=id&client_secret=s3cret", false),
        ("basic", "token=rt", true),
        ("basic+client_id", "token=rt&client_id=id", true),
        ("none", "token=rt&client_id=id", false),
    ] {
        let definition = load(&with("client_auth = \"basic\"", &format!("client_auth = \"{style}\"")));
        let request = definition.revoke.unwrap().steps[0].render(&values.vars()).unwrap();
        assert_eq!((body(&request), request.headers().contains_key(header::AUTHORIZATION)), (expected_body, basic), "{style}");
    }
}

#[test]
fn a_public_client_names_itself_and_proves_nothing() {
    let values = Values::new();
    for style in ["body", "basic", "basic+client_id"] {
        let definition = load(&with("client_auth = \"basic\"", &format!("client_auth = \"{style}\"")));
        let vars = Vars { client: Some(Client { id: "id", secret: None }), ..values.vars() };
        let request = definition.revoke.unwrap().steps[0].render(&vars).unwrap();
        assert_eq!(body(&request), "token=rt&client_id=id");
        assert!(!request.headers().contains_key(header::AUTHORIZATION));
    }
}

#[test]
fn parameters_are_called_what_the_provider_calls_them() {
    let text = with("client_auth = \"basic\"", "client_auth = \"body\"\nclient_id_param = \"client_key\"");
    let values = Values::new();
    let request = load(&text).revoke.unwrap().steps[0].render(&values.vars()).unwrap();
    assert_eq!(body(&request), "token=rt&client_key=id&client_secret=s3cret");
}

/// R29: id and secret are form-encoded before Base64.
#[test]
fn basic_credentials_are_encoded_before_base64() {
    use base64::Engine as _;
    for (id, secret, plain) in [
        ("a:b", "c:d", "a%3Ab:c%3Ad"),
        ("a+b", "100%", "a%2Bb:100%25"),
        ("a b", "é", "a+b:%C3%A9"),
        ("plain-._*", "x~y", "plain-._*:x%7Ey"),
    ] {
        let value = client_basic(id, &Secret::new(secret));
        let decoded = base64::engine::general_purpose::STANDARD.decode(value.expose().strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(decoded).unwrap(), plain);
    }
}

#[test]
fn a_value_that_looks_like_a_template_is_a_text() {
    let values = Values::new();
    let account = map(json!({"refresh_token": "{{field.app_secret}}"}));
    let vars = Vars { account: Some(&account), ..values.vars() };
    let request = load(GOOD).revoke.unwrap().steps[0].render(&vars).unwrap();
    assert_eq!(body(&request), "token=%7B%7Bfield.app_secret%7D%7D");
}

#[test]
fn a_value_in_a_path_stays_one_piece_of_it() {
    let step =
        step("[identity]\nmethod = \"GET\"\nurl = \"https://api.good.example/u/{{field.app_id}}/x\"\nout = { id = \"id\" }");
    let url = |value: &str| {
        let app = map(json!({ "app_id": value }));
        step.render(&Vars { app: Some(&app), ..Vars::default() }).map(|request| request.uri().to_string())
    };
    for (value, path) in [
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("../../admin", "..%2F..%2Fadmin"),
        ("%2e%2e", "%252e%252e"),
        ("a b", "a%20b"),
        ("é", "%C3%A9"),
        ("a\r\nHost: x", "a%0D%0AHost%3A%20x"),
        ("@evil.example", "%40evil.example"),
    ] {
        assert_eq!(url(value).unwrap(), format!("https://api.good.example/u/{path}/x"));
    }
    for value in ["..", "."] {
        assert_eq!(url(value).unwrap_err().code(), Code::PathRefused);
    }
    assert_eq!(url("").unwrap_err().code(), Code::NotConfigured);
}

#[test]
fn an_instance_that_is_not_an_origin_is_refused_at_use_too() {
    let step = step("[identity]\nmethod = \"GET\"\nurl = \"{{field.instance}}/me\"\nout = { id = \"id\" }");
    let url = |value: &str| {
        let fields = map(json!({ "instance": value }));
        step.render(&Vars { fields: Some(&fields), ..Vars::default() }).map(|request| request.uri().to_string())
    };
    assert_eq!(url("https://m.example").unwrap(), "https://m.example/me");
    for value in
        ["https://m.example/x", "https://m.example@evil.example", "http://m.example", "https://m.example?", "m", "file:///etc"]
    {
        match url(value) {
            Ok(made) => assert!(made.starts_with("https://m/"), "{value} gave {made}"),
            Err(error) => assert_eq!(error.code(), Code::HostRefused, "{value}"),
        }
    }
    assert_eq!(step.render(&Vars::default()).unwrap_err().code(), Code::NotConfigured);
}

#[test]
fn an_instance_on_loopback_is_taken_in_development_only() {
    let text = with("https://api.good.example/me", "{{field.instance}}/me");
    let fields = map(json!({"instance": "http://127.0.0.1:9"}));
    let account = map(json!({"access_token": "at"}));
    let vars = Vars { fields: Some(&fields), account: Some(&account), ..Vars::default() };
    let render = |trust| match load_as(&text, trust).unwrap().identity {
        crate::provider::Identity::Step(step) => step.render(&vars).map(|request| request.uri().to_string()),
        _ => panic!("no step"),
    };
    assert_eq!(render(Trust::Dev).unwrap(), "http://127.0.0.1:9/me");
    assert_eq!(render(Trust::Normal).unwrap_err().code(), Code::HostRefused);
}

#[test]
fn half_a_header_is_an_error_and_not_sent() {
    let step = step(
        "[identity]\nmethod = \"GET\"\nurl = \"https://api.good.example/me\"\nheaders = { X-App = \"app {{field.app_id}}\" }\nout = { id = \"id\" }",
    );
    let error = step.render(&Vars::default()).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::NotConfigured, "the app configuration lacks `app_id`"));
}

#[test]
fn a_line_break_does_not_make_a_second_header() {
    let step = step(
        "[identity]\nmethod = \"GET\"\nurl = \"https://api.good.example/me\"\nheaders = { X-App = \"{{field.app_id}}\" }\nout = { id = \"id\" }",
    );
    let app = map(json!({"app_id": "a\r\nX-Evil: 1"}));
    let error = step.render(&Vars { app: Some(&app), ..Vars::default() }).unwrap_err();
    assert_eq!(error.code(), Code::NotConfigured);
    assert!(!format!("{error:?}").contains("X-Evil"));
}

#[test]
fn a_step_without_its_token_is_an_error() {
    let definition = load(GOOD);
    let crate::provider::Identity::Step(step) = definition.identity else { panic!("no step") };
    assert_eq!(step.render(&Vars::default()).unwrap_err().code(), Code::NoCredentials);
    let values = Values::new();
    assert_eq!(step.render(&values.vars()).unwrap().headers()[header::AUTHORIZATION], "Bearer at");
}

#[test]
fn a_json_body_is_filled_in_where_texts_stand() {
    let step = step(
        "[identity]\nmethod = \"POST\"\nurl = \"https://api.good.example/me\"\nout = { id = \"id\" }\n\
         json = { a = \"{{field.app_id}}\", b = [1, true, \"x\"], c = { d = \"{{field.instance}}\", e = \"e\" } }",
    );
    let app = map(json!({"app_id": "\"quoted\""}));
    let request = step.render(&Vars { app: Some(&app), ..Vars::default() }).unwrap();
    let sent: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
    assert_eq!(sent, json!({"a": "\"quoted\"", "b": [1, true, "x"], "c": {"e": "e"}}));
    assert_eq!(request.headers()[header::CONTENT_TYPE], "application/json");
}

#[test]
fn an_extra_comes_from_the_account() {
    let step = step(
        "[identity]\nmethod = \"GET\"\nurl = \"https://api.good.example/teams/{{extra.team}}\"\nout = { id = \"id\", \"extra.team\" = \"t\" }",
    );
    let values = Values::new();
    assert_eq!(step.render(&values.vars()).unwrap().uri().path(), "/teams/t1");
}

#[test]
fn a_filter_turns_the_value() {
    let step = step(
        "[identity]\nmethod = \"POST\"\nurl = \"https://api.good.example/me\"\nout = { id = \"id\" }\n\
         form = { b = \"{{field.app_id|b64}}\", h = \"{{token.access_token|hmac_sha256_hex(field.app_secret)}}\" }",
    );
    let app = map(json!({"app_id": "id", "app_secret": "key"}));
    let account = map(json!({"access_token": "The quick brown fox jumps over the lazy dog"}));
    let request = step.render(&Vars { app: Some(&app), account: Some(&account), ..Vars::default() }).unwrap();
    // The test vector that every HMAC page has.
    assert_eq!(body(&request), "b=aWQ%3D&h=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
}

#[test]
fn a_revocation_names_only_tokens_that_are_there() {
    let text = with(
        "kills = \"family\"\nmethod = \"POST\"\nurl = \"https://api.good.example/revoke\"\nauth = \"client\"\nform = { token = \"{{token.refresh_token}}\" }\n",
        "kills = \"token\"\n[[revoke.steps]]\nmethod = \"POST\"\nurl = \"https://api.good.example/revoke\"\nauth = \"client_basic\"\n\
         form = { token = \"{{token.refresh_token}}\", token_type_hint = \"refresh_token\" }\n\
         [[revoke.steps]]\nmethod = \"POST\"\nurl = \"https://api.good.example/revoke\"\nauth = \"client_basic\"\n\
         form = { token = \"{{token.access_token}}\", token_type_hint = \"access_token\" }\n",
    );
    let values = Values::new();
    let without = map(json!({"access_token": "at"}));
    let calls = |kills: &str, vars: &Vars<'_>| {
        let revoke = load(&text.replace("kills = \"token\"", &format!("kills = \"{kills}\""))).revoke.unwrap();
        revoke.calls(vars).map(|step| body(&step.render(vars).unwrap()).to_owned()).collect::<Vec<_>>()
    };
    let (refresh, access) = ("token=rt&token_type_hint=refresh_token", "token=at&token_type_hint=access_token");
    assert_eq!(calls("token", &values.vars()), [refresh, access]);
    assert_eq!(calls("family", &values.vars()), [refresh]);
    assert_eq!(calls("token", &Vars { account: Some(&without), ..values.vars() }), [access]);
    assert!(calls("token", &Vars { account: None, ..values.vars() }).is_empty());
}

#[test]
fn a_step_in_the_proxys_way_carries_what_the_proxy_injects() {
    let text = with("auth = \"bearer\"", "auth = \"proxy\"").replace(
        "inject = [{ in = \"header\", name = \"Authorization\", value = \"Bearer {{token.access_token}}\" }]",
        "inject = [{ in = \"basic\", user = \"{{field.app_id}}\", password = \"{{field.app_secret}}\" }, \
         { in = \"query\", name = \"key\", value = \"{{token.access_token}}\" }, \
         { in = \"header\", name = \"X-Team\", value = \"{{extra.team}}\", omit_empty = true }]",
    );
    let crate::provider::Identity::Step(step) = load(&text).identity else { panic!("no step") };
    let values = Values::new();
    let request = step.render(&values.vars()).unwrap();
    assert_eq!(request.uri().to_string(), "https://api.good.example/me?key=at");
    assert_eq!(request.headers()[header::AUTHORIZATION], "Basic aWQ6czNjcmV0");
    assert_eq!(request.headers()["x-team"], "t1");
    let account = map(json!({"access_token": "at"}));
    let request = step.render(&Vars { account: Some(&account), ..values.vars() }).unwrap();
    assert!(!request.headers().contains_key("x-team"));
    let colon = map(json!({"app_id": "a:b", "app_secret": "x"}));
    assert!(step.render(&Vars { app: Some(&colon), ..values.vars() }).is_err());
}

#[test]
fn vars_are_silent() {
    let values = Values::new();
    assert_eq!(format!("{:?}", values.vars()), "Vars([redacted])");
}

/// R48: a signed step is signed anew each time; what of it belongs to the protocol stands in the header and nowhere else.
#[test]
fn a_signed_step_comes_out_signed_or_not_at_all() {
    let catalogue = crate::provider::Catalogue::embedded().unwrap();
    let oauth1 = catalogue.get(&super::name("twitter")).unwrap().oauth1.clone().unwrap();
    let secret = Secret::new("app-s3cret");
    let vars = Vars {
        client: Some(Client { id: "ck", secret: Some(&secret) }),
        callback: Some("https://keys.example/callback/twitter"),
        now: Some(crate::clock::Timestamp::from_unix_seconds(1_800_000_000)),
        ..Vars::default()
    };
    let signed = |step: &Step, vars: &Vars<'_>| {
        let request = step.render(vars).unwrap();
        assert_eq!((body(&request), request.uri().query()), ("", None));
        assert!(!format!("{request:?}").contains("oauth_"), "the header is shown");
        request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned()
    };
    let first = signed(&oauth1.request, &vars);
    assert!(first.contains("oauth_callback=\"https%3A%2F%2Fkeys.example%2Fcallback%2Ftwitter\""), "{first}");
    assert!(first.contains("oauth_timestamp=\"1800000000\"") && !first.contains("oauth_token="), "{first}");
    assert_ne!(first, signed(&oauth1.request, &vars), "a nonce was used twice");

    let (temporary, verifier) = (map(json!({"access_token": "tt", "access_token_secret": "ts"})), Secret::new("v"));
    let second = signed(&oauth1.token, &Vars { account: Some(&temporary), code: Some(&verifier), ..vars });
    assert!(second.contains("oauth_token=\"tt\"") && second.contains("oauth_verifier=\"v\""), "{second}");

    let half = map(json!({"access_token": "tt"}));
    let code = |vars: &Vars<'_>| oauth1.token.render(vars).unwrap_err().code();
    assert_eq!(code(&Vars { account: Some(&half), ..vars }), Code::NoCredentials);
    assert_eq!(code(&Vars { client: Some(Client { id: "ck", secret: None }), ..vars }), Code::NotConfigured);
    assert_eq!(code(&Vars { client: None, ..vars }), Code::NotConfigured);
    assert_eq!(code(&Vars { now: None, ..vars }), Code::Internal);
}
