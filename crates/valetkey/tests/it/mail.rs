//! Mailboxes: accounts that open Dovecot and Exim, what of them an agent is handed, and what of them cannot be moved.

use std::collections::BTreeSet;

use jsonwebtoken::{EncodingKey, Header};
use provider_lab::DefinitionOptions;
use serde_json::{Value, json};
use valetkey::{
    Code, Result, account,
    base::Outside,
    connection::accounts::{self, Precondition, Slot},
    db::Db,
    decision::{self, Authority, Request, Who},
    deliver::{Caller, Deliverer, Revealed, explain},
    grant::{ForWhom, NewGrant},
    id::{AgentId, ConnectionId},
    mail::{self, Protocol},
    on_each_db,
    principal::{Actor, Delivery},
    provider::{Catalogue, Trust, pattern::PathPattern},
    secret::{Secret, SecretMap},
    token::LastUsed,
    upstream::{self, Upstream},
};

use crate::{
    support::{House, both, ceiling},
    town::{Replica, Town, quick},
};

const OPERATOR: Actor = Actor::Operator;
/// Who has a mailbox at both servers, and the password there.
const ALICE: &str = "alice@example.test";
const PASSWORD: &str = "app-pass";

/// The servers that `scripts/peers/up` started: `localhost:PORT`, by TLS at once and by STARTTLS.
struct Peers {
    imaps: String,
    imap: String,
    smtps: String,
    smtp: String,
    authority: Vec<u8>,
    /// What signs access tokens that Dovecot takes.
    key: String,
}

impl Peers {
    fn new() -> Self {
        Self {
            imaps: peer("VALETKEY_TEST_IMAPS"),
            imap: peer("VALETKEY_TEST_IMAP"),
            smtps: peer("VALETKEY_TEST_SMTPS"),
            smtp: peer("VALETKEY_TEST_SMTP"),
            authority: std::fs::read(peer("VALETKEY_TEST_MAIL_CA")).unwrap(),
            key: peer("VALETKEY_TEST_MAIL_KEY"),
        }
    }

    /// A mailbox at both, each with TLS at once (`ssl`) or by STARTTLS (`tls`).
    fn mailbox(&self, imap: &str, smtp: &str) -> Value {
        let port = |at: &str| at.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
        json!({
            "imap_host": "localhost", "imap_port": port(if imap == "ssl" { &self.imaps } else { &self.imap }), "imap_encryption": imap,
            "imap_user": ALICE, "imap_password": PASSWORD,
            "smtp_host": "localhost", "smtp_port": port(if smtp == "ssl" { &self.smtps } else { &self.smtp }), "smtp_encryption": smtp,
        })
    }

    /// An access token for that person, which ends so many seconds from now.
    fn token(&self, person: &str, life: i64) -> String {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({ "iss": "test", "sub": person, "iat": now - 60, "nbf": now - 60, "exp": now + life });
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(self.key.as_bytes())).unwrap()
    }

    /// A replica that reaches them and trusts their certificates.
    async fn replica(&self, town: &Town, db: &Db) -> Replica {
        let allow_private = [&self.imaps, &self.imap, &self.smtps, &self.smtp].map(|at| at.parse().unwrap()).to_vec();
        let extra_roots_pem = Some(self.authority.clone());
        let settings = upstream::Settings { allow_private, extra_roots_pem, ..upstream::Settings::default() };
        town.replica(db).await.rebuilt(quick(), |outside| outside.upstream = Upstream::new(settings).unwrap())
    }
}

fn peer(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run ./scripts/test, or ./scripts/test --peers for a shell"))
}

/// An agent beside a replica, and what delivers to it.
struct Post {
    house: House,
    outside: Outside,
    deliverer: Deliverer,
    agent: AgentId,
}

impl Post {
    async fn new(replica: &Replica) -> Self {
        let house = House::at(replica.outside.base.clone(), replica.site.clone());
        let authority = Authority::new(house.base.db.clone());
        let deliverer = Deliverer::new(replica.outside.clone(), authority, replica.refresher.clone(), LastUsed::default());
        let agent = house.agent("a", None).await;
        Self { house, outside: replica.outside.clone(), deliverer, agent }
    }

    /// A mailbox that nobody asked its servers about.
    async fn mailbox(&self, name: &str) -> ConnectionId {
        let mailbox = json!({
            "imap_host": "imap.x.example", "imap_user": "u", "imap_password": "canary", "smtp_host": "smtp.x.example",
        });
        let put = accounts::put(&self.outside, &OPERATOR, &self.slot(name), map(&mailbox), &Precondition::default()).await;
        put.unwrap().connection.id
    }

    fn slot(&self, name: &str) -> Slot {
        let (provider, owner) = ("email_imap".parse().unwrap(), "site".parse().unwrap());
        Slot { site: self.house.site.clone(), provider, owner, name: name.parse().unwrap() }
    }

    async fn grant(&self, connection: &ConnectionId, delivery: BTreeSet<Delivery>, operations: &[&str]) {
        let operations = (!operations.is_empty())
            .then(|| operations.iter().map(|text| text.parse().unwrap()).collect::<Vec<PathPattern>>().into());
        let new = NewGrant { delivery, operations, ..NewGrant::proxy(&self.agent, connection, ForWhom::Unattended) };
        self.house.grant_with(new).await;
    }

    async fn caller(&self) -> Caller {
        Caller::new(self.house.token(&self.agent, None).await.1)
    }

    async fn reveal(&self, connection: &ConnectionId) -> Result<Revealed> {
        self.deliverer.reveal(&self.caller().await, connection, None).await
    }

    /// The servers that are handed out.
    async fn servers(&self, connection: &ConnectionId) -> Vec<String> {
        self.reveal(connection).await.unwrap().secrets.expose().keys().cloned().collect()
    }
}

fn map(account: &Value) -> SecretMap {
    SecretMap::new(account.as_object().unwrap().clone())
}

on_each_db! {
    async fn a_mailbox_is_stored_once_both_its_servers_were_opened_and_not_before(db: Db) {
        let (town, peers) = (Town::new().await, Peers::new());
        let post = Post::new(&peers.replica(&town, &db).await).await;
        let put = async |account: &Value| {
            let any = Precondition { replace: true, ..Precondition::default() };
            account::enter(&post.outside, &OPERATOR, &post.slot(""), map(account), &any).await
        };
        let mailbox = peers.mailbox("ssl", "tls");
        let mut wrong = mailbox.clone();
        wrong["imap_password"] = json!("nope");
        let error = put(&wrong).await.unwrap_err();
        assert_eq!(error.code(), Code::LoginRefused);
        assert!(error.message().starts_with("IMAP at localhost:"), "{error}");
        assert!(accounts::status(&post.outside.base, &post.slot("")).await.unwrap().is_none());

        put(&mailbox).await.unwrap();
        let mut wrong = mailbox.clone();
        wrong["smtp_password"] = json!("nope");
        let error = put(&wrong).await.unwrap_err();
        assert_eq!(error.code(), Code::LoginRefused);
        assert!(error.message().starts_with("SMTP at localhost:"), "{error}");
        let (_, kept) = accounts::reveal(&post.outside.base, &OPERATOR, &post.slot("")).await.unwrap().unwrap();
        for (member, value) in mailbox.as_object().unwrap() {
            assert_eq!(kept.expose().get(member), Some(value), "a failed login changes nothing");
        }
    }

    async fn dovecot_and_exim_are_logged_in_to_by_tls_at_once_and_by_starttls(db: Db) {
        let (town, peers) = (Town::new().await, Peers::new());
        let outside = peers.replica(&town, &db).await.outside;
        let definition = outside.definition(&"email_imap".parse().unwrap()).unwrap();
        for (imap, smtp) in [("ssl", "ssl"), ("tls", "tls")] {
            let account = peers.mailbox(imap, smtp);
            let checked = mail::check(&outside, &definition, &map(&account)).await.unwrap();
            assert_eq!(checked.logged_in, [Protocol::Imap, Protocol::Smtp]);
            for (member, at) in [("imap_password", "IMAP"), ("smtp_password", "SMTP")] {
                let mut wrong = account.clone();
                wrong[member] = json!("nope");
                let error = mail::check(&outside, &definition, &map(&wrong)).await.unwrap_err();
                assert_eq!(error.code(), Code::LoginRefused, "{error}");
                assert!(error.message().starts_with(at), "{error}");
            }
        }
        // Where the servers wait for STARTTLS, TLS at once is no TLS.
        let mut confused = peers.mailbox("tls", "tls");
        confused["imap_encryption"] = json!("ssl");
        assert_eq!(mail::check(&outside, &definition, &map(&confused)).await.unwrap_err().code(), Code::TlsFailed);
        // Without the authority of their certificates they are anybody.
        let replica = town.replica(&db).await.rebuilt(quick(), |outside| {
            let allow_private = vec![peers.imaps.parse().unwrap()];
            outside.upstream = Upstream::new(upstream::Settings { allow_private, ..upstream::Settings::default() }).unwrap();
        });
        let account = map(&peers.mailbox("ssl", "ssl"));
        assert_eq!(mail::check(&replica.outside, &definition, &account).await.unwrap_err().code(), Code::TlsFailed);
    }

    /// The files as they are, with their servers replaced by these: what is entered is a name and an app password.
    async fn the_definitions_of_mail_services_open_a_mailbox(db: Db) {
        let (town, peers) = (Town::new().await, Peers::new());
        let outside = peers.replica(&town, &db).await.outside;
        let port = |at: &str| at.rsplit_once(':').unwrap().1.to_owned();
        let loaded = |text: &str| {
            let name = "mine".parse().unwrap();
            let catalogue = Catalogue::embedded().unwrap().with_text(&name, text, Trust::Dev).unwrap_or_else(|p| panic!("{p:#?}"));
            catalogue.get(&name).unwrap().clone()
        };
        for text in [
            include_str!("../../../../providers/icloud_mail.toml"),
            include_str!("../../../../providers/yahoo_mail.toml"),
            include_str!("../../../../providers/fastmail.toml"),
        ] {
            let smtp = if text.contains("smtp_encryption = { default = \"tls\" }") { &peers.smtp } else { &peers.smtps };
            let lines = text.lines().map(|line| match line.split(" =").next() {
                Some("imap_host") => {
                    format!("imap_host = {{ default = \"localhost\" }}\nimap_port = {{ default = {} }}\n", port(&peers.imaps))
                }
                Some("smtp_host") => "smtp_host = { default = \"localhost\" }\n".to_owned(),
                Some("smtp_port") => format!("smtp_port = {{ default = {} }}\n", port(smtp)),
                _ => format!("{line}\n"),
            });
            let definition = loaded(&lines.collect::<String>());
            let check = async |password: &str| {
                mail::check(&outside, &definition, &map(&json!({ "imap_user": ALICE, "imap_password": password }))).await
            };
            assert_eq!(check(PASSWORD).await.unwrap().logged_in, [Protocol::Imap, Protocol::Smtp], "{}", definition.title);
            assert_eq!(check("nope").await.unwrap_err().code(), Code::LoginRefused, "{}", definition.title);
        }
        // By an access token, which Exim does not take here.
        let text = include_str!("../../../../providers/gmail_imap.toml")
            .replace("host = \"imap.gmail.com\"\nport = 993", &format!("host = \"localhost\"\nport = {}", port(&peers.imaps)))
            .replace("check = [\"imap_login\", \"smtp_auth\"]", "check = [\"imap_login\"]");
        let definition = loaded(&text);
        let check = async |life| {
            mail::check(&outside, &definition, &map(&json!({ "email": ALICE, "access_token": peers.token(ALICE, life) }))).await
        };
        assert_eq!(check(600).await.unwrap().logged_in, [Protocol::Imap]);
        assert_eq!(check(-30).await.unwrap_err().code(), Code::LoginRefused);
    }

    async fn dovecot_takes_an_access_token_of_that_person_until_it_ends(db: Db) {
        let (town, peers) = (Town::new().await, Peers::new());
        let outside = peers.replica(&town, &db).await.outside;
        for mechanism in ["XOAUTH2", "OAUTHBEARER"] {
            let name = "tokens".parse().unwrap();
            let text = format!(
                "extends = \"google\"\n\n[mail]\ncheck = [\"imap_login\"]\nmechanisms = [\"{mechanism}\"]\n\n[mail.imap]\n\
                 host = \"localhost\"\nport = {}\nsecurity = \"ssl\"\noperations = [\"read\"]\n",
                peers.imaps.rsplit_once(':').unwrap().1
            );
            let catalogue = Catalogue::embedded().unwrap().with_text(&name, &text, Trust::Dev).unwrap_or_else(|p| panic!("{p:#?}"));
            let definition = catalogue.get(&name).unwrap().clone();
            let check = async |token: String, user: &str| {
                mail::check(&outside, &definition, &map(&json!({ "email": user, "access_token": token }))).await
            };
            assert_eq!(check(peers.token(ALICE, 600), ALICE).await.unwrap().logged_in, [Protocol::Imap], "{mechanism}");
            for (token, user) in [
                (peers.token(ALICE, -30), ALICE),
                (peers.token(ALICE, 600), "bob@example.test"),
                ("nope".to_owned(), ALICE),
            ] {
                assert_eq!(check(token, user).await.unwrap_err().code(), Code::LoginRefused, "{mechanism}, {user}");
            }
        }
    }

    /// T-242, T-283.
    async fn a_grants_operations_say_which_server_of_a_mailbox_is_handed_out(db: Db) {
        let town = Town::new().await;
        let post = Post::new(&town.replica(&db).await).await;
        let cases: [(&[&str], &[&str]); 6] = [
            (&[], &["imap", "smtp"]),
            (&["MAIL /read"], &["imap"]),
            (&["MAIL /send"], &["smtp"]),
            (&["MAIL /read", "MAIL /send"], &["imap", "smtp"]),
            (&["MAIL /*"], &["imap", "smtp"]),
            (&["GET /x", "MAIL /delete"], &["imap"]),
        ];
        for (operations, expected) in cases {
            let mailbox = post.mailbox(&format!("m{}", operations.join(""))).await;
            post.grant(&mailbox, both(), operations).await;
            assert_eq!(post.servers(&mailbox).await, expected, "{operations:?}");
        }
        for operations in [&["GET /read"][..], &["/**"], &["MAIL /none"]] {
            let mailbox = post.mailbox(&format!("n{}", operations.join(""))).await;
            post.grant(&mailbox, both(), operations).await;
            let code = post.reveal(&mailbox).await.unwrap_err().code();
            assert!(matches!(code, Code::GrantDenied | Code::NoCredentials), "{operations:?}: {code}");
        }
    }

    /// One reveal draws on one grant: what another one limits, by a count or by a rate, does not go out beside it.
    async fn a_server_that_another_grant_limits_is_not_handed_out_along(db: Db) {
        let town = Town::new().await;
        let post = Post::new(&town.replica(&db).await).await;
        for (name, rate, max_uses) in [("rate", Some("1/1h"), None), ("count", None, Some(1)), ("free", None, None)] {
            let mailbox = post.mailbox(name).await;
            post.grant(&mailbox, both(), &["MAIL /read"]).await;
            // The older grant is the one that is drawn on.
            post.house.base.clock.advance(std::time::Duration::from_secs(1));
            let operations: Vec<PathPattern> = vec!["MAIL /send".parse().unwrap()];
            post.house.grant_with(NewGrant {
                delivery: both(), operations: Some(operations.into()), rate: rate.map(|rate| rate.parse().unwrap()), max_uses,
                ..NewGrant::proxy(&post.agent, &mailbox, ForWhom::Unattended)
            }).await;
            let expected: &[&str] = if name == "free" { &["imap", "smtp"] } else { &["imap"] };
            for _ in 0..2 {
                assert_eq!(post.servers(&mailbox).await, expected, "{name}");
            }
        }
    }

    async fn a_tokens_ceiling_holds_back_a_server_of_a_mailbox_too(db: Db) {
        let town = Town::new().await;
        let post = Post::new(&town.replica(&db).await).await;
        let mailbox = post.mailbox("").await;
        post.grant(&mailbox, both(), &[]).await;
        let new = valetkey::token::NewToken {
            ceiling: Some(ceiling(r#"{"operations": ["MAIL /send"]}"#)),
            ..valetkey::token::NewToken::default()
        };
        let (_, token) = post.house.token_with(&post.agent, new).await;
        let revealed = post.deliverer.reveal(&Caller::new(token), &mailbox, None).await.unwrap();
        assert_eq!(revealed.secrets.expose().keys().collect::<Vec<_>>(), ["smtp"]);
    }

    /// What Data Machine lent: the platform asks whether the agent may, and opens the mailbox itself. The agent never saw
    /// the password there, and does not here.
    async fn a_grant_without_reveal_allows_its_operations_and_hands_nothing_out(db: Db) {
        let town = Town::new().await;
        let post = Post::new(&town.replica(&db).await).await;
        let mailbox = post.mailbox("").await;
        post.grant(&mailbox, BTreeSet::from([Delivery::Proxy]), &["MAIL /read"]).await;
        let (_, token) = post.house.token(&post.agent, None).await;
        let may = async |delivery: Delivery, operation: &str| {
            let method = http::Method::from_bytes(b"MAIL").unwrap();
            let request = Request { delivery, operation: Some((&method, "", operation.as_bytes())), unattended: false };
            post.house.ask_for(&token, &mailbox, &request).await.unwrap().allowed()
        };
        assert!(may(Delivery::Proxy, "/read").await);
        assert!(!may(Delivery::Proxy, "/send").await && !may(Delivery::Reveal, "/read").await);
        assert_eq!(post.reveal(&mailbox).await.unwrap_err().code(), Code::GrantDenied);
    }

    async fn the_proxy_says_that_a_mailbox_is_not_reached_by_it(db: Db) {
        let town = Town::new().await;
        let post = Post::new(&town.replica(&db).await).await;
        let mailbox = post.mailbox("").await;
        post.grant(&mailbox, both(), &[]).await;
        let (parts, body) = http::Request::get("/").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap().into_parts();
        let target = valetkey::deliver::proxy::Target { host: None, path: "/inbox", query: None };
        let answer = post.deliverer.proxy(&post.caller().await, &mailbox, target, parts, body).await;
        assert_eq!(answer.err().unwrap().code(), Code::NotProxied);
    }

    /// Promise 6: whoever asks is told what a reveal would do, in general and for one operation of a mailbox. What a platform
    /// asks before it opens a mailbox itself is answered by the grants alone.
    async fn asking_for_a_reveal_says_what_revealing_does(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let post = Post::new(&replica).await;
        let mailbox = post.mailbox("").await;
        let account = replica.account(&town, "", |_, _, _| {}).await;
        let mail = http::Method::from_bytes(b"MAIL").unwrap();
        for (connection, operations) in [(&mailbox, &["MAIL /read"][..]), (&account.id, &["MAIL /read", "MAIL /**"])] {
            post.grant(connection, both(), operations).await;
            let facts = decision::for_agent(&db, &post.house.site, &Who::new(post.agent.clone(), None), connection).await.unwrap().unwrap();
            let asked = |delivery: Delivery, path: Option<&str>| {
                let operation = path.map(|path| (&mail, "", path.as_bytes()));
                let request = Request { delivery, operation, unattended: true };
                explain(&post.outside, &facts, &request, post.house.base.clock.now())
            };
            let revealed = post.reveal(connection).await.map(|_| ()).map_err(|error| error.code());
            let answer = asked(Delivery::Reveal, None);
            assert_eq!((answer.allowed(), answer.code), (revealed.is_ok(), revealed.err()), "{operations:?}");
            assert_eq!(asked(Delivery::Reveal, Some("/read")).allowed(), connection == &mailbox);
            assert!(!asked(Delivery::Reveal, Some("/send")).allowed());
            assert_eq!(asked(Delivery::Proxy, Some("/read")).allowed(), connection == &mailbox);
            assert!(!asked(Delivery::Proxy, Some("/send")).allowed());
        }
        let facts = decision::for_agent(&db, &post.house.site, &Who::new(post.agent.clone(), None), &mailbox).await.unwrap().unwrap();
        let general = Request { delivery: Delivery::Proxy, operation: None, unattended: true };
        assert_eq!(explain(&post.outside, &facts, &general, post.house.base.clock.now()).code, Some(Code::NotProxied));
    }

    async fn mail_operations_reveal_nothing_of_an_account_that_is_no_mailbox(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let post = Post::new(&replica).await;
        let account = replica.account(&town, "", |_, _, _| {}).await;
        post.grant(&account.id, both(), &["MAIL /read", "MAIL /**"]).await;
        assert_eq!(post.reveal(&account.id).await.unwrap_err().code(), Code::GrantDenied);
    }

    async fn a_mailbox_of_oauth_is_handed_out_with_a_fresh_token_and_the_login_ready(db: Db) {
        let mut town = Town::with(&DefinitionOptions::default()).await;
        town.definition.push_str(
            "\n[mail]\ncheck = []\nmechanisms = [\"XOAUTH2\"]\n\n[mail.imap]\nhost = \"imap.lab.example\"\nport = 993\n\
             security = \"ssl\"\noperations = [\"read\"]\n\n[mail.smtp]\nhost = \"smtp.lab.example\"\nport = 587\n\
             security = \"starttls\"\noperations = [\"send\"]\n",
        );
        let replica = town.replica(&db).await;
        let post = Post::new(&replica).await;
        let account = replica
            .account(&town, "", |account, tokens, now| {
                account.set_text("email", &Secret::new("alice@lab.example"));
                tokens.expires_at = Some(now.minus(crate::town::MINUTE));
            })
            .await;
        post.grant(&account.id, both(), &["MAIL /read"]).await;
        let revealed = post.reveal(&account.id).await.unwrap();
        let fresh = replica.opened(&account.id).await.text("access_token").unwrap();
        assert_ne!(fresh.expose(), account.first.access_token, "it was renewed first");
        let first = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("user=alice@lab.example\x01auth=Bearer {}\x01\x01", fresh.expose()),
        );
        assert_eq!(
            Value::Object(revealed.secrets.expose().clone()),
            json!({ "imap": {
                "host": "imap.lab.example", "port": 993, "security": "ssl", "user": "alice@lab.example",
                "access_token": fresh.expose(), "mechanism": "XOAUTH2", "initial_response": first,
            } })
        );
        assert!(revealed.expires_at.is_some());
    }

    async fn where_a_mailbox_is_changes_only_by_a_new_account_without_the_old_grants(db: Db) {
        let town = Town::new().await;
        let post = Post::new(&town.replica(&db).await).await;
        let mailbox = post.mailbox("").await;
        post.grant(&mailbox, both(), &[]).await;
        let any = Precondition::default();
        for change in [json!({ "imap_host": "evil.example" }), json!({ "smtp_port": 2525 }), json!({ "imap_password": "x" })] {
            let patched = accounts::patch(&post.outside, &OPERATOR, &post.slot(""), &map(&change), &any).await;
            assert_eq!(patched.unwrap_err().code(), Code::InvalidRequest, "{change}");
        }
        // The same server, spelled out.
        let same = json!({
            "imap_host": "imap.x.example", "imap_port": "993", "imap_user": "u", "imap_password": "canary", "smtp_host": "smtp.x.example",
        });
        let put = accounts::put(&post.outside, &OPERATOR, &post.slot(""), map(&same), &any).await.unwrap();
        assert_eq!(put.connection.id, mailbox);
        let moved = json!({
            "imap_host": "evil.example", "imap_user": "u", "imap_password": "canary", "smtp_host": "smtp.x.example",
        });
        let put = async |any: &Precondition| accounts::put(&post.outside, &OPERATOR, &post.slot(""), map(&moved), any).await;
        assert_eq!(put(&any).await.unwrap_err().code(), Code::SubjectMismatch);
        let replaced = put(&Precondition { replace: true, ..any.clone() }).await.unwrap();
        assert_eq!(replaced.replaced, Some(mailbox));
        assert_eq!(post.reveal(&replaced.connection.id).await.unwrap_err().code(), Code::NotFound);
    }

    /// T-282.
    async fn what_was_handed_out_of_a_mailbox_is_recorded_without_a_secret(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let post = Post::new(&replica).await;
        let mailbox = post.mailbox("").await;
        post.grant(&mailbox, both(), &["MAIL /send"]).await;
        post.reveal(&mailbox).await.unwrap();
        let base = &post.house.base;
        base.audit.close();
        base.audit.run(base.db.clone()).await;
        let events = replica.events("connection.reveal").await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["servers"], json!(["smtp"]));
        assert!(!events[0].to_string().contains("canary"));
    }
}
