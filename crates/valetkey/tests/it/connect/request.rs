//! What we send: the authorization request, the token request, and where they may go.

use base64::Engine as _;
use provider_lab::{Client, ClientAuth, DefinitionOptions, Lab, Settings};
use serde_json::json;
use url::Url;
use valetkey::{
    Code, on_each_db,
    provider::{Catalogue, FieldLevel, Trust},
};

use super::{
    tokens::sibling,
    world::{OPERATOR, PUBLIC, Stub, TOKENS, World, alices, connected, failure, fields, of, param, provider},
};

on_each_db! {
    /// R17: the redirect URI of the token request is byte by byte that of the authorization request, though the public URL
    /// changed in between.
    async fn both_requests_name_the_same_redirect_uri(db: Db) {
        let stub = Stub::start(TOKENS).await;
        let mut world = stub.world(&db, "client_auth = \"body\"\npkce = \"off\"").await;
        let started = world.start(alices()).await;
        let named = param(&started, "redirect_uri").unwrap();
        assert_eq!(named, format!("{PUBLIC}/callback/lab"));
        world.outside.public_url = Url::parse("http://127.0.0.1:8888").unwrap();
        let query = format!("code=c&state={}", param(&started, "state").unwrap());
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
        assert_eq!(stub.seen()[0].field("redirect_uri"), Some(named));
    }

    /// R18: the redirect URI is absolute, without a fragment, and https unless it stays on this machine; a provider may
    /// want more.
    async fn a_redirect_uri_that_is_not_safe_is_refused(db: Db) {
        let stub = Stub::start(TOKENS).await;
        let with = |rule: &str| format!("client_auth = \"body\"\npkce = \"off\"\nredirect_rule = \"{rule}\"");
        for (rule, public, fine) in [
            ("any", "https://keys.example", true),
            ("any", "http://127.0.0.1:7777", true),
            ("any", "http://[::1]:7777", true),
            ("any", "http://localhost:7777", true),
            ("any", "http://keys.example", false),
            ("any", "http://10.0.0.1", false),
            ("any", "ftp://keys.example", false),
            ("any", "https://keys.example/#f", false),
            ("https_or_loopback_ip", "http://127.0.0.1:7777", true),
            ("https_or_loopback_ip", "http://localhost:7777", false),
            ("https", "https://keys.example", true),
            ("https", "http://127.0.0.1:7777", false),
        ] {
            let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let (fresh, _folder) = sibling(&db).await;
            let definition = stub.definition(&with(rule));
            let world = World::around(&fresh, lab, &definition, vec![stub.addr.to_string()], public).await;
            let made = valetkey::connect::session::create(&world.outside, &world.house.site, &OPERATOR, alices()).await;
            match made {
                Ok(_) => assert!(fine, "{rule} took {public}"),
                Err(error) => {
                    assert!(!fine, "{rule} refused {public}: {error}");
                    assert_eq!(error.code(), Code::InvalidConfig);
                }
            }
        }
    }

    /// R23: the code flow and nothing else.
    ///
    async fn the_response_type_is_code(db: Db) {
        let world = World::new(&db).await;
        let started = world.start(alices()).await;
        assert_eq!(param(&started, "response_type").as_deref(), Some("code"));
        assert!(!started.authorize_url.expose().contains("lab-secret"));
        let stub = Stub::start(TOKENS).await;
        let (fresh, _folder) = sibling(&db).await;
        let world = stub.world(&fresh, "client_auth = \"body\"\npkce = \"off\"").await;
        let started = world.start(alices()).await;
        let query = format!("code=c&state={}", param(&started, "state").unwrap());
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
        assert_eq!(stub.seen()[0].field("grant_type").as_deref(), Some("authorization_code"));
        assert_eq!(stub.seen()[0].field("password"), None);
    }

    /// R24, R43: an address that a person gives for a connection is an https server in public, or it is refused before any
    /// link is made.
    async fn an_instance_that_is_no_public_server_is_refused(db: Db) {
        let world = World::with(&db, &DefinitionOptions::default(), with_instance).await;
        for instance in [
            "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "ftp://a.example", "http://a.example",
            "https://127.0.0.1", "https://127.1", "https://2130706433", "https://0x7f000001", "https://0177.0.0.1",
            "https://[::1]", "https://[::ffff:127.0.0.1]", "https://[::ffff:a9fe:a9fe]", "https://169.254.169.254",
            "https://10.0.0.1", "https://192.168.1.1", "https://localhost", "https://metadata.google.internal",
            "https://printer.local", "https://intranet", "https://user:pw@a.example", "https://a.example/path",
            "https://a.example#f", "http://127.0.0.1:9",
        ] {
            let mut new = alices();
            new.fields = fields(json!({ "instance": instance }));
            let code = world.refused(new).await;
            assert!(matches!(code, Code::InvalidRequest | Code::AddressRefused), "{instance}: {code}");
        }
        let mut new = alices();
        new.fields = fields(json!({ "instance": world.lab.origin() }));
        connected(&world.connect(new, "alice").await);
    }

    /// R42, R43: a token endpoint at an address that nobody admitted gets nothing.
    async fn a_token_endpoint_on_this_machine_gets_nothing_unless_it_was_admitted(db: Db) {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let stub = Stub::start(TOKENS).await;
        let definition = stub.definition("client_auth = \"body\"\npkce = \"off\"");
        let world = World::around(&db, lab, &definition, Vec::new(), PUBLIC).await;
        let started = world.start(alices()).await;
        let query = format!("code=c&state={}", param(&started, "state").unwrap());
        let ended = world.come_back(&query, Some(&started.binding.value)).await;
        assert_eq!(failure(&ended), Code::TokenExchangeFailed);
        assert!(stub.seen().is_empty());
        let (_, facts) = world.audited("connection.connect").await.remove(0);
        assert_eq!(facts["word"], "address_refused");
    }

    /// R28: POST, form-encoded, nothing twice, no secret in the URL.
    async fn the_token_request_is_one_form(db: Db) {
        let stub = Stub::start(TOKENS).await;
        let world = stub.world(&db, "client_auth = \"body\"\npkce = \"required\"").await;
        let started = world.start(alices()).await;
        let query = format!("code=the%2Fcode&state={}", param(&started, "state").unwrap());
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
        let seen = stub.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].line, "POST /token HTTP/1.1");
        assert_eq!(seen[0].header("content-type"), Some("application/x-www-form-urlencoded"));
        let form = seen[0].form();
        let mut names: Vec<&str> = form.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["client_id", "client_secret", "code", "code_verifier", "grant_type", "redirect_uri"]);
        assert_eq!(seen[0].field("code").as_deref(), Some("the/code"));
    }

    /// R29: id and secret are form-encoded each, then joined, then Base64.
    async fn basic_encodes_id_and_secret_before_base64(db: Db) {
        let (id, secret) = ("lab:client+1 %é", "s:e+c r%t/ü=&");
        let stub = Stub::start(TOKENS).await;
        let (fresh, _folder) = sibling(&db).await;
        let world = stub.world(&fresh, "client_auth = \"basic\"\npkce = \"off\"").await;
        world.configure(id, secret).await;
        let started = world.start(alices()).await;
        assert_eq!(param(&started, "client_id").as_deref(), Some(id));
        let query = format!("code=c&state={}", param(&started, "state").unwrap());
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
        let seen = stub.seen().remove(0);
        let sent = seen.header("authorization").unwrap().strip_prefix("Basic ").unwrap();
        let plain = base64::engine::general_purpose::STANDARD.decode(sent).unwrap();
        assert_eq!(String::from_utf8(plain).unwrap(), "lab%3Aclient%2B1+%25%C3%A9:s%3Ae%2Bc+r%25t%2F%C3%BC%3D%26");
        assert_eq!((seen.field("client_secret"), seen.field("client_id")), (None, None));

        // A server that none of this was written for takes it too.
        let world = World::new(&db).await;
        world.lab.register(Client::new(id, secret).with(Settings { client_auth: ClientAuth::Basic, ..Settings::default() }));
        world.configure(id, secret).await;
        connected(&world.connect(alices(), "alice").await);
    }

    /// Every built-in definition that says it can be connected leads a browser to its own provider.
    async fn every_connectable_definition_builds_an_authorization_request(db: Db) {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let text = lab.definition_toml();
        let world = World::around(&db, lab, &text, Vec::new(), "https://keys.example").await;
        let mut built = 0;
        for definition in Catalogue::embedded().unwrap().iter() {
            let mut new = of("site");
            new.provider = definition.name.clone();
            if definition.is_entered() {
                continue;
            }
            if definition.is_connectable().is_err() {
                assert_eq!(world.refused(new).await, Code::EngineMissing, "{}", definition.name);
                continue;
            }
            // Where every server is an instance, it must be named first; an app is registered there.
            if definition.register.is_some() {
                assert_eq!(world.refused(new).await, Code::InvalidRequest, "{}", definition.name);
                continue;
            }
            let asked = definition.fields_of(FieldLevel::Connection).filter(|field| field.required && !field.secret);
            new.fields.extend(asked.map(|field| (field.name.clone(), json!(field.placeholder))));
            assert_eq!(world.refused(new.clone()).await, Code::NotConfigured, "{}", definition.name);
            // It would be asked for a temporary token, and nothing outside is spoken to here.
            if definition.oauth1.is_some() {
                continue;
            }
            let values = definition.fields_of(FieldLevel::App).map(|field| (field.name.clone(), json!("word")));
            world.configure_provider(definition.name.as_str(), &serde_json::Value::Object(values.collect())).await;
            let started = world.start(new).await;
            let url = Url::parse(started.authorize_url.expose()).unwrap();
            assert_eq!(url.scheme(), "https");
            assert_eq!(param(&started, "response_type").as_deref(), Some("code"));
            assert_eq!(param(&started, "redirect_uri"), Some(format!("https://keys.example/callback/{}", definition.name)));
            assert!(param(&started, "state").is_some());
            built += 1;
        }
        assert!(built >= 15, "only {built}");
    }
}

/// R28: where a provider's own call wants a secret in the URL and no other way is documented, its definition says so; these do,
/// and no others. docs/security.md has the reasons.
#[test]
fn only_listed_definitions_put_a_secret_in_a_url() {
    fn says_so(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Object(members) => {
                members.get("secret_in_query") == Some(&serde_json::Value::Bool(true)) || members.values().any(says_so)
            }
            serde_json::Value::Array(items) => items.iter().any(says_so),
            _ => false,
        }
    }
    let catalogue = valetkey::provider::Catalogue::embedded().unwrap();
    let found = catalogue.iter().filter(|definition| says_so(&serde_json::to_value(&***definition).unwrap()));
    let mut found: Vec<_> = found.map(|definition| definition.name.to_string()).collect();
    found.sort();
    assert_eq!(found, ["facebook", "instagram", "instagram_fb", "threads", "trello"]);
    // Where a provider takes a key in the query of every call, the proxy puts it there.
    let in_query = |definition: &valetkey::provider::Definition| {
        let inject = definition.proxy.iter().flat_map(|proxy| &proxy.inject);
        inject.into_iter().any(|inject| matches!(inject, valetkey::provider::Inject::Query { .. }))
    };
    let mut found: Vec<_> = catalogue.iter().filter(|one| in_query(one)).map(|one| one.name.to_string()).collect();
    found.sort();
    assert_eq!(found, ["bing_webmaster", "facebook", "geonames", "google_api_key", "instagram_fb", "ticketmaster"]);
}

/// R24: a definition cannot send a browser to anything but https, in production.
#[test]
fn an_authorization_address_that_is_not_https_does_not_load() {
    let text = |url: &str| {
        format!(
            "title = \"X\"\nkind = \"oauth2\"\nidentity = \"none\"\nidentity_none_reason = \"x\"\n[fields]\nclient_id = {{ label = \"Client ID\", type = \"text\", required = true, level = \
             \"app\", role = \"client_id\" }}\n[oauth2]\nauthorize_url = \"{url}\"\ntoken_url = \
             \"https://x.example/token\"\nclient_auth = \"none\"\npkce = \"required\"\nscope_separator = \" \"\nscopes = {{ default = \
             [] }}\n[refresh]\nstrategy = \"none\"\n[proxy]\nhosts = [\"x.example\"]\ncredential_paths = [\"/token\"]\ninject = [{{ in = \
             \"header\", name = \"Authorization\", value = \"Bearer {{{{token.access_token}}}}\" }}]\n"
        )
    };
    let load = |url: &str, trust| Catalogue::default().with_text(&provider(), &text(url), trust);
    load("https://x.example/authorize", Trust::Normal).unwrap_or_else(|problems| panic!("{problems:#?}"));
    for url in
        ["http://x.example/a", "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//x.example/a", "x.example"]
    {
        assert!(load(url, Trust::Normal).is_err(), "{url}");
        assert!(load(url, Trust::Dev).is_err(), "{url} in development");
    }
    assert!(load("http://127.0.0.1:9/a", Trust::Normal).is_err());
}

/// The lab as a provider of which every server is an instance.
pub(crate) fn with_instance(text: String) -> String {
    let origin = text.split("issuer = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let host = origin.strip_prefix("http://").unwrap();
    let text = text.replace(&format!("issuer = \"{origin}\"\niss_supported = true\n"), "");
    let text = text.replace(&format!("hosts = [\"{host}\"]"), "hosts = [\"{{field.instance|host}}\"]");
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with("path_allow") && !line.starts_with("setup_url"))
        .map(|line| line.replace(&origin, "{{field.instance}}"))
        .collect();
    lines.join("\n").replace(
        "[fields]\n",
        "[fields]\ninstance = { label = \"Instance\", type = \"url\", required = true, level = \"connection\", normalize = \
         \"https_origin\" }\n",
    )
}
