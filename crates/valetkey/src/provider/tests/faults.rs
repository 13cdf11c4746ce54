//! A planted mistake of every kind is caught, with its file, line, column and key.

use super::{GOOD, Trust, load_as, shown, with};

/// The problems of a definition, which must have some.
fn problems(text: &str) -> Vec<String> {
    match load_as(text, Trust::Normal) {
        Ok(_) => panic!("the mistake was not seen:\n{text}"),
        Err(problems) => shown(&problems),
    }
}

/// Plants a mistake and expects exactly these problems.
#[track_caller]
fn caught(find: &str, replace: &str, expected: &[&str]) {
    assert_eq!(problems(&with(find, replace)), expected);
}

#[test]
fn the_definition_without_a_mistake_loads() {
    assert!(load_as(GOOD, Trust::Normal).is_ok());
}

#[test]
fn a_word_that_is_not_in_its_list_is_told_with_the_list() {
    caught(
        "pkce = \"required\"",
        "pkce = \"maybe\"",
        &["x.toml:14:1: oauth2.pkce: \"maybe\" is not one of required, optional, off"],
    );
    caught(
        "kind = \"oauth2\"",
        "kind = \"oauth3\"",
        &["x.toml:2:1: kind: \"oauth3\" is not one of oauth2, oauth1, jwt_bearer, session, static, mail"],
    );
    caught(
        "method = \"GET\"",
        "method = \"FETCH\"",
        &["x.toml:31:1: identity.method: \"FETCH\" is not one of GET, POST, PUT, PATCH, DELETE"],
    );
}

/// RFC 9700 section 2.1.2 and R23: the implicit grant is not a word of the language.
/// A-126.
#[test]
fn the_implicit_flow_cannot_be_asked_for() {
    caught(
        "client_auth = \"basic\"",
        "client_auth = \"basic\"\nflows = [\"code\", \"token\"]",
        &["x.toml:14:18: oauth2.flows[1]: \"token\" is not one of code, client_credentials, device"],
    );
}

/// R23: nor can the password grant be asked for, wherever a step would do it.
#[test]
fn the_password_grant_cannot_be_asked_for() {
    let token = |body: &str| with("[refresh]", &format!("[oauth2.token]\n{body}\n\n[refresh]"));
    for text in [
        token(r#"form = { grant_type = "password", username = "x" }"#),
        token(r#"query = { Grant_Type = " Password " }"#),
        with(
            "auth = \"client\"\nform = { token = \"{{token.refresh_token}}\" }",
            r#"json = { grant_type = "password", token = "{{token.refresh_token}}" }"#,
        ),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains("asks for the password grant")), "{found:?}");
    }
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    caught(
        "rotation = \"always\"",
        "rotation = \"always\"\nacess_ttl = \"1h\"",
        &["x.toml:22:1: refresh.acess_ttl: unknown key; did you mean `access_ttl`?"],
    );
    let far = problems(&with("kills = \"family\"", "kills = \"family\"\ncolour = \"blue\""));
    assert!(far[0].starts_with("x.toml:25:1: revoke.colour: unknown key; the keys here are method, url,"), "{far:?}");
}

#[test]
fn a_key_that_is_needed_and_missing_is_told_at_its_table() {
    caught(
        "token_url = \"https://api.good.example/{{api_version}}/token\"\n",
        "",
        &["x.toml:10:2: oauth2.token_url: is needed and missing"],
    );
    caught("kills = \"family\"\n", "", &["x.toml:23:2: revoke.kills: is needed and missing: one of token, family, grant"]);
    caught("title = \"Good\"\n", "", &["x.toml:1:1: title: is needed and missing"]);
}

#[test]
fn a_value_of_another_kind_is_told() {
    caught("title = \"Good\"", "title = 7", &["x.toml:1:1: title: must be a text, and is a number"]);
    let found = problems(&with("credential_paths = [\"/*/token\", \"/revoke\"]", "credential_paths = \"/**\""));
    assert!(found.contains(&"x.toml:40:1: proxy.credential_paths: must be a list, and is a text".to_owned()), "{found:?}");
}

#[test]
fn a_key_that_stands_twice_is_told() {
    let found = problems(&with("title = \"Good\"", "title = \"Good\"\ntitle = \"Better\""));
    assert_eq!(found, ["x.toml:2:1: duplicate key"]);
}

#[test]
fn a_bad_duration_is_told_with_the_form() {
    for text in ["5 minutes", "5", "0s", "-5m", "1w"] {
        let found = problems(&with("before = \"5m\"", &format!("before = \"{text}\"")));
        assert_eq!(
            found,
            ["x.toml:20:1: refresh.before: a duration is a number and one of s, m, h, d, such as \"15m\"; at most 10 years"]
        );
    }
}

#[test]
fn a_field_that_is_not_declared_is_told_with_those_that_are() {
    caught(
        "{{token.refresh_token}}",
        "{{field.app_sceret}}",
        &["x.toml:28:10: revoke.form.token: there is no field `app_sceret`; the fields are app_id, app_secret, instance"],
    );
}

#[test]
fn a_name_that_templates_do_not_know_is_told() {
    for (template, why) in [
        ("{{secret.x}}", "`secret.x` is not one of field.NAME"),
        ("{{token.id_token}}", "`token.id_token` is not one of token.access_token"),
        ("{{extra.pds}}", "no answer brings `extra.pds`"),
        ("{{variant.host}}", "there is no [variants] table"),
        ("{{scopes|upper}}", "`upper` is not one of the filters"),
        ("{{scopes", "`{{` without `}}`"),
        ("scopes}}", "`}}` without `{{`"),
        ("{{field.app_id.member}}", "the field `app_id` has no members"),
        ("{{ scopes }}", "` scopes ` is not one of"),
        ("{{{{scopes}}}}", "`{{scopes` is not one of"),
        ("{{field.{{scopes}}}}", "there is no field `{{scopes`"),
    ] {
        let found = problems(&with("{{token.refresh_token}}", template));
        assert!(found[0].starts_with(&format!("x.toml:28:10: revoke.form.token: {why}")), "{found:?}");
    }
}

#[test]
fn a_secret_in_a_query_must_be_stated() {
    let query = "auth = \"bearer\"\nquery = { secret = \"{{field.app_secret}}\" }";
    caught(
        "auth = \"bearer\"",
        query,
        &["x.toml:34:11: identity.query.secret: a secret in a query ends in logs: state secret_in_query = true if it must be"],
    );
    assert!(load_as(&with("auth = \"bearer\"", &format!("{query}\nsecret_in_query = true")), Trust::Normal).is_ok());
    caught(
        "https://api.good.example/me",
        "https://api.good.example/me/{{token.access_token}}",
        &["x.toml:32:1: identity.url: a secret in a URL ends in logs: state secret_in_query = true if it must be"],
    );
}

#[test]
fn a_secret_never_reaches_the_browser() {
    caught(
        "https://good.example/authorize",
        "https://good.example/{{field.app_secret}}",
        &["x.toml:11:1: oauth2.authorize_url: holds a secret; the browser sees it"],
    );
    caught(
        "client_auth = \"basic\"",
        "client_auth = \"basic\"\nauthorize_params = { s = \"{{field.app_secret}}\" }",
        &["x.toml:14:22: oauth2.authorize_params.s: holds a secret; the browser sees it"],
    );
}

#[test]
fn a_credential_does_not_hide_among_the_headers() {
    caught(
        "auth = \"bearer\"",
        "auth = \"bearer\"\nheaders = { Authorization = \"x\" }",
        &["x.toml:34:13: identity.headers.Authorization: is set by us; a credential goes into proxy.inject or a step's auth"],
    );
    caught(
        "auth = \"bearer\"",
        "auth = \"bearer\"\nheaders = { X-Key = \"{{field.app_secret}}\" }",
        &["x.toml:34:13: identity.headers.X-Key: holds a secret; a credential goes into proxy.inject or a step's auth"],
    );
}

/// R42: http only for loopback, and only where it was asked for.
#[test]
fn plain_http_is_refused() {
    caught(
        "https://api.good.example/revoke",
        "http://api.good.example/revoke",
        &["x.toml:26:1: revoke.url: a URL starts with https://"],
    );
    let loopback = with("https://api.good.example/revoke", "http://127.0.0.1:8080/revoke");
    assert_eq!(
        problems(&loopback),
        ["x.toml:26:1: revoke.url: http:// to a loopback host is taken in definitions for development only"]
    );
    assert!(load_as(&loopback, Trust::Dev).is_ok());
    for host in ["api.good.example", "127.0.0.1.good.example", "10.0.0.1", "localhost.good.example"] {
        let text = with("https://api.good.example/revoke", &format!("http://{host}/revoke"));
        assert!(load_as(&text, Trust::Dev).is_err(), "{host} was taken");
    }
}

/// Before anything is looked up. What a name stands for is judged whenever a call is made.
#[test]
fn a_host_that_leads_inward_is_told() {
    for host in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[fd00::1]", "localhost", "x.localhost"] {
        caught(
            "https://api.good.example/me",
            &format!("https://{host}/me"),
            &["x.toml:32:1: identity.url: a host is a name out there; addresses and localhost are taken in definitions for \
               development only"],
        );
        let found = problems(&with("hosts = [\"api.good.example\"]", &format!("hosts = [\"api.good.example\", \"{host}\"]")));
        assert!(found[0].starts_with("x.toml:38:30: proxy.hosts[1]: a host is an exact name"), "{host}: {found:?}");
    }
    let found = problems(&with("normalize = \"https_origin\"", "normalize = \"https_origin\", default = \"https://10.0.0.1\""));
    assert_eq!(found, ["x.toml:8:96: fields.instance.default: is not a value that this field takes"]);
}

#[test]
fn a_host_of_the_variants_is_a_host_and_nothing_else() {
    let text = |host: &str| {
        let region = format!(
            "region = {{ label = \"Region\", type = \"select\", level = \"connection\", default = \"eu\", options = [\"eu\"] }}\n\n\
             [variants]\nby = \"field.region\"\n\n[variants.map]\n\"eu\" = {{ host = \"{host}\" }}\n\n[oauth2]\n"
        );
        with("\n[oauth2]\n", &region).replace("https://api.good.example/me", "https://{{variant.host}}/me")
    };
    assert!(load_as(&text("eu.good.example"), Trust::Normal).is_ok());
    for host in ["127.0.0.1", "user@evil.example", "evil.example/x", "evil.example?x=", "evil.example#", "EVIL .example", ""] {
        let found = problems(&text(host));
        assert!(found[0].contains(&format!(": identity.url: `{host}` of [variants]: ")), "{host}: {found:?}");
    }
}

/// The engine's own parameters decide who is asked, where the browser comes back, and that it is the same browser.
#[test]
fn a_parameter_that_the_flow_rests_on_is_told() {
    for name in ["state", "redirect_uri", "client_id", "response_type", "scope", "code_challenge"] {
        caught(
            "client_auth = \"basic\"",
            &format!("client_auth = \"basic\"\nauthorize_params = {{ {name} = \"x\" }}"),
            &[&format!("x.toml:14:22: oauth2.authorize_params.{name}: is set by us")],
        );
    }
}

#[test]
fn a_host_of_the_proxy_is_an_exact_name() {
    for host in [
        "*.good.example",
        "api.good.example/x",
        "https://api.good.example",
        "API.good.example",
        "api.good.example:444",
        "good",
        "",
    ] {
        let found = problems(&with("hosts = [\"api.good.example\"]", &format!("hosts = [\"api.good.example\", \"{host}\"]")));
        assert_eq!(
            found,
            [
                "x.toml:38:30: proxy.hosts[1]: a host is an exact name, or {{field.NAME|host}} or {{extra.NAME|host}} of an instance"
            ],
            "{host}"
        );
    }
}

#[test]
fn a_base_url_outside_the_hosts_is_told() {
    caught(
        "base_url = \"https://api.good.example\"",
        "base_url = \"https://other.example\"",
        &["x.toml:37:1: proxy.base_url: its host is not among proxy.hosts"],
    );
}

#[test]
fn a_template_in_the_host_is_a_whole_origin() {
    for (url, why) in [
        ("https://{{field.app_id}}/me", "a template in the host of a URL is a whole origin"),
        ("https://{{field.instance}}/me", "a template in the host of a URL is a whole origin"),
        ("https://{{field.app_id}}.good.example/me", "a template in the host of a URL is a whole origin"),
        ("https://api{{field.app_id}}/me", "a template cannot be part of a host name"),
        ("{{field.app_id}}/me", "a URL starts with https://, with a field that has normalize"),
        ("{{field.instance}}me", "a host is followed by `/` or by nothing"),
        ("{{field.instance}}{{field.app_id}}", "a host is followed by `/` or by nothing"),
        ("{{field.instance|b64}}/me", "a URL starts with https://, with a field that has normalize"),
        ("https://user@api.good.example/me", "a URL has no user name"),
        ("https://api.good.example/me?x=1", "a URL has no query and no fragment here"),
        ("https://api.good.example/../me", "a URL has no empty and no dot segments"),
        ("https://api.good.example//me", "a URL has no empty and no dot segments"),
        ("ftp://api.good.example/me", "a URL starts with https://"),
        ("https:///me", "a URL needs a host"),
        ("https://*.good.example/me", "a host is made of letters, digits"),
        ("https://2130706433/me", "write the host as `127.0.0.1`"),
    ] {
        let found = problems(&with("https://api.good.example/me", url));
        assert!(found[0].starts_with(&format!("x.toml:32:1: identity.url: {why}")), "{url}: {found:?}");
    }
    assert!(load_as(&with("https://api.good.example/me", "{{field.instance}}/me"), Trust::Normal).is_ok());
}

#[test]
fn a_password_that_is_not_secret_is_told() {
    caught(
        "required = true, secret = true,",
        "required = true,",
        &["x.toml:7:1: fields.app_secret.secret: a password is secret: add secret = true"],
    );
}

#[test]
fn a_proxy_without_credential_paths_does_not_load() {
    let found = problems(&with("credential_paths = [\"/*/token\", \"/revoke\"]\n", ""));
    let expected = "x.toml:36:2: proxy.credential_paths: is needed and missing: what mints, refreshes, lists or revokes \
                    credentials at these hosts is never proxied";
    assert!(found.contains(&expected.to_owned()), "{found:?}");
}

#[test]
fn an_empty_list_of_credential_paths_needs_a_reason() {
    let found = problems(&with("credential_paths = [\"/*/token\", \"/revoke\"]", "credential_paths = []"));
    assert!(found.contains(
        &"x.toml:36:2: proxy.credential_paths_none_reason: is needed and missing: an empty list needs a reason".to_owned()
    ));
}

#[test]
fn our_own_calls_must_be_among_the_credential_paths() {
    caught(
        "credential_paths = [\"/*/token\", \"/revoke\"]",
        "credential_paths = [\"/*/token\"]",
        &["x.toml:40:1: proxy.credential_paths: lacks POST /revoke, which revoke calls"],
    );
}

#[test]
fn an_account_without_an_identity_is_told() {
    let section = &GOOD[GOOD.find("[identity]").unwrap()..GOOD.find("[proxy]").unwrap()];
    caught(
        section,
        "",
        &["x.toml:1:1: identity: is needed and missing: a step, `static = {...}`, or \"none\" with an identity_none_reason"],
    );
    let without = with(section, "").replace("api_version =", "identity = \"none\"\napi_version =");
    assert_eq!(
        problems(&without),
        ["x.toml:1:1: identity_none_reason: is needed and missing: say why nothing tells who the account is"]
    );
    caught(
        "out = { id = \"id\", ",
        "out = { username = \"id\", ",
        &["x.toml:34:1: identity.out.id: is needed and missing: an account is told apart by it"],
    );
}

#[test]
fn a_path_that_cannot_be_read_is_told() {
    caught(
        "id = \"id\"",
        "id = [\"id\", \"$..id\"]",
        &["x.toml:34:21: identity.out.id[1]: a member's name is made of letters, digits, `_`, `-` and `@`"],
    );
}

#[test]
fn an_output_that_is_not_known_is_told() {
    let found = problems(&with("id = \"id\"", "id = \"id\", user_name = \"n\""));
    assert_eq!(found, ["x.toml:34:20: identity.out.user_name: unknown key; did you mean `username`?"]);
}

#[test]
fn a_section_of_another_kind_is_told() {
    let found = problems(&with("[identity]", "[session]\n\n[identity]"));
    let expected = "x.toml:30:2: session: belongs to kind = \"session\", and this is \"oauth2\"".to_owned();
    assert!(found.contains(&expected), "{found:#?}");
}

#[test]
fn a_mailbox_of_tokens_without_a_mechanism_for_them_is_told() {
    let mail = "[mail]\ncheck = [\"smtp_auth\"]\nmechanisms = [\"PLAIN\"]\n\n[mail.imap]\nhost = \"imap.example\"\nport = 993\n\
                security = \"ssl\"\npassword = \"{{token.access_token}}\"\noperations = [\"Read\"]\n\n[identity]";
    let found = problems(&with("[identity]", mail)).join("\n");
    for expected in [
        "mail.check: smtp_auth needs [mail.smtp]",
        "mail.mechanisms: names XOAUTH2 or OAUTHBEARER",
        "mail.imap.password: belongs to kind = \"mail\"",
        "mail.imap.operations: \"Read\" is not made of",
    ] {
        assert!(found.contains(expected), "{expected} is not in\n{found}");
    }
}

#[test]
fn a_choice_that_nobody_makes_or_that_binds_nothing_is_told() {
    let list = |more: &str| {
        let step = "method = \"GET\"\nurl = \"https://api.good.example/sites\"\nauth = \"bearer\"\nlist = \"data\"\nout = { id = \"id\" }";
        problems(&format!("{GOOD}\n[resources.site]\n{step}\n{more}\n")).join("\n")
    };
    for (more, expected) in [
        ("select = \"first\"", "resources.site.select: \"first\" is not one of user, all"),
        ("only = [\"/sites/{id}/**\"]", "resources.site.only: binds to what a person chooses"),
        ("select = \"user\"\nonly = []", "resources.site.only: an empty list would let no call pass"),
        ("select = \"user\"\nonly = [\"/sites/x{id}\"]", "resources.site.only[0]: `{id}` is one whole segment"),
        ("select = \"user\"\nonly = [{ path = \"/sites/{id}\", json = \"site\" }]", "not in both"),
        ("select = \"user\"\nonly = [{ path = \"/sites\" }]", "resources.site.only[0].json: is needed and missing"),
    ] {
        let found = list(more);
        assert!(found.contains(expected), "{expected} is not in\n{found}");
    }
}

#[test]
fn facts_without_a_source_or_a_day_or_of_something_else_are_told() {
    let facts = |text: &str| problems(&format!("{GOOD}\n[facts]\n{text}\n"));
    assert_eq!(
        facts("sources = []"),
        [
            "x.toml:42:2: facts.read: is needed and missing",
            "x.toml:43:1: facts.sources: a list of who says so; at least one is needed",
        ]
    );
    for day in ["yesterday", "2026-2-3", "2026-02-30", "2026-11-22T00:00"] {
        assert_eq!(
            facts(&format!("sources = [\"a page\"]\nread = \"{day}\"")),
            ["x.toml:44:1: facts.read: is the day on which the sources were read, such as \"2026-11-22\""]
        );
    }
    assert_eq!(
        facts("sources = [\"a page\"]\nread = \"2026-11-22\"\nunverified = [\"revoke.kills\", \"revoke.kils\", \"mail\"]"),
        ["x.toml:45:31: facts.unverified[1]: there is no `revoke.kils` in this definition"]
    );
}

#[test]
fn an_issuer_that_is_always_sent_must_be_named() {
    caught(
        "client_auth = \"basic\"",
        "client_auth = \"basic\"\niss_supported = true",
        &["x.toml:10:2: oauth2.issuer: is needed and missing: iss_supported says that one is sent"],
    );
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once() {
    let text = with("pkce = \"required\"", "pkce = \"maybe\"")
        .replace("before = \"5m\"", "before = \"soon\"")
        .replace("kills = \"family\"", "kils = \"family\"")
        .replace("https://api.good.example/me", "http://api.good.example/me");
    let lines: Vec<String> =
        problems(&text).iter().map(|problem| problem.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "x.toml:14:1 oauth2.pkce",
            "x.toml:20:1 refresh.before",
            "x.toml:23:2 revoke.kills",
            "x.toml:24:1 revoke.kils",
            "x.toml:32:1 identity.url",
        ]
    );
}

#[test]
fn a_value_that_exists_elsewhere_only_is_told() {
    caught(
        "{{token.refresh_token}}",
        "{{code}}",
        &["x.toml:23:2: revoke: uses `{{code}}`, which there is in a token request only"],
    );
    caught("{{token.refresh_token}}", "{{jwt}}", &["x.toml:23:2: revoke: uses `{{jwt}}`, which there is with [jwt] only"]);
}

#[test]
fn a_parameter_that_the_clients_authentication_adds_is_told() {
    caught(
        "form = { token =",
        "form = { client_id = \"x\", token =",
        &["x.toml:28:10: revoke.form.client_id: is added by auth = \"client\""],
    );
}

#[test]
fn an_oauth1_definition_without_keys_or_with_an_open_token_path_is_told() {
    let good = r#"title = "Signed"
kind = "oauth1"
[fields]
key = { label = "Key", type = "text", required = true, level = "app", role = "client_id" }
secret = { label = "Secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }
[oauth1]
request_token_url = "https://api.good.example/oauth/request_token"
authorize_url = "https://good.example/authorize"
token_url = "https://api.good.example/oauth/access_token"
signature = "HMAC-SHA256"
[refresh]
strategy = "none"
[identity]
method = "GET"
url = "https://api.good.example/me"
auth = "signed"
out = { id = "id" }
[proxy]
base_url = "https://api.good.example"
hosts = ["api.good.example"]
inject = [{ in = "oauth1_signature" }]
credential_paths = ["/oauth/**"]
"#;
    assert!(load_as(good, Trust::Normal).is_ok(), "{:?}", load_as(good, Trust::Normal).err().map(|problems| shown(&problems)));
    for (find, replace, told) in [
        (", role = \"client_id\"", "", "one field has role = \"client_id\""),
        (", role = \"client_secret\"", "", "one field has role = \"client_secret\""),
        ("HMAC-SHA256", "PLAINTEXT", "\"PLAINTEXT\" is not one of HMAC-SHA1, HMAC-SHA256"),
        ("/oauth/**", "/oauth/access_token", "lacks POST /oauth/request_token"),
        ("/oauth/**", "/oauth/request_token", "lacks POST /oauth/access_token"),
    ] {
        assert_eq!(good.matches(find).count(), 1, "{find}");
        let problems = problems(&good.replace(find, replace));
        assert!(problems.len() == 1 && problems[0].contains(told), "{problems:#?}");
    }
}

#[test]
fn an_operation_is_named_plainly_and_says_its_method() {
    let operations = |line: &str| problems(&format!("{GOOD}\n[operations]\n{line}\n"));
    for line in ["\"note.read\" = []", "\"note.read\" = [\"/notes\"]", "\"note.read\" = [\"GET /notes\", \"/**\"]"] {
        let found = operations(line);
        assert!(found.len() == 1 && found[0].contains("an operation is a list of patterns, each with its method"), "{found:?}");
    }
    for name in ["Note", "a b", "note/read", "", &"x".repeat(65)] {
        let found = operations(&format!("\"{name}\" = [\"GET /notes\"]"));
        assert!(found.len() == 1 && found[0].contains("an operation's name is 1 to 64"), "{found:?}");
    }
    let found = operations("\"note.read\" = [\"GET /a//b\"]");
    assert!(found.len() == 1 && found[0].contains("operations.note.read[0]: a path pattern has no empty segments"), "{found:?}");
}
