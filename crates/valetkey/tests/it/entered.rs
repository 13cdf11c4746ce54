//! Accounts that are made of entered values: the form of a link, and whoever stores one by the account routes. Each is tried
//! with its provider before anything is stored.

use provider_lab::{APP_PASSWORD, At, CLIENT_ID, CLIENT_SECRET, Fault, INSTALLATION, Lab, Rule, Signing};
use serde_json::{Value, json};
use valetkey::{
    Code, Result, account,
    connect::{
        Outcome,
        form::{self, MOST_ATTEMPTS, Submitted},
        session::{self, NewSession},
    },
    connection::{
        Connection, Identity, Renewal, Status,
        accounts::{Precondition, Slot},
    },
    db::Db,
    grant,
    id::ConnectionId,
    on_each_db,
    principal::Owner,
    secret::{Secret, SecretMap},
};

use crate::connect::world::{OPERATOR, PUBLIC, World, fields};

async fn start() -> Lab {
    Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

/// A lab with every provider whose accounts are entered.
pub(crate) async fn world(db: &Db) -> World {
    let lab = start().await;
    let definitions = [
        ("blue", lab.session_definition()),
        ("login", lab.login_definition()),
        ("robot", lab.assertion_definition(Signing::Rs256)),
        ("curve", lab.assertion_definition(Signing::Es256)),
        ("installation", lab.installation_definition()),
        ("client", lab.client_credentials_definition()),
        ("key", lab.key_definition()),
    ];
    let allowed = vec![lab.addr().to_string()];
    World::of(db, lab, &definitions, allowed, PUBLIC).await
}

pub(crate) fn of(provider: &str, owner: &str) -> NewSession {
    NewSession::new(provider.parse().unwrap(), owner.parse().unwrap())
}

pub(crate) fn values(members: Value) -> SecretMap {
    SecretMap::new(fields(members))
}

pub(crate) fn alice(password: &str) -> Value {
    json!({ "username": "alice.lab.example", "app_password": password })
}

/// A link that is open in a browser.
struct Open {
    link: session::Created,
    visit: Secret,
}

impl World {
    async fn opened(&self, new: NewSession) -> Open {
        let owner = new.owner.clone();
        let link = self.link(new).await;
        let visit = self.open(&link, &owner).await;
        Open { link, visit }
    }

    async fn answer(&self, open: &Open, given: Value) -> Result<Submitted> {
        let page = session::visit(&self.outside, &open.link.link, Some(&open.visit)).await?;
        let csrf = page.csrf.unwrap();
        form::submit(&self.outside, &self.tasks, &open.link.link, Some(&open.visit), &csrf, values(given)).await
    }

    /// The whole way for values that are right.
    pub(crate) async fn enter(&self, new: NewSession, given: Value) -> ConnectionId {
        let open = self.opened(new).await;
        made(self.answer(&open, given).await.unwrap())
    }

    /// What becomes of values that are wrong; the link stays.
    pub(crate) async fn refusal(&self, new: NewSession, given: Value) -> Code {
        let open = self.opened(new).await;
        again(self.answer(&open, given).await.unwrap()).0
    }

    async fn put(&self, provider: &str, given: Value, replace: bool) -> Result<Connection> {
        let slot = Slot {
            site: self.house.site.clone(),
            provider: provider.parse().unwrap(),
            owner: Owner::Site,
            name: Default::default(),
        };
        let precondition = Precondition { replace, ..Precondition::default() };
        let saved = account::enter(&self.outside, &OPERATOR, &slot, values(given), &precondition).await?;
        Ok(saved.kept.connection().unwrap().clone())
    }

    fn logins(&self) -> u64 {
        self.lab.requests("login")
    }
}

#[track_caller]
fn made(submitted: Submitted) -> ConnectionId {
    match submitted {
        Submitted::Over(ended) => match ended.outcome {
            Outcome::Connected { connection, .. } => connection,
            Outcome::Failed { code, .. } => panic!("it failed: {code}"),
        },
        Submitted::Again { why, .. } => panic!("it was refused: {why:?}"),
    }
}

#[track_caller]
fn again(submitted: Submitted) -> (Code, i64) {
    match submitted {
        Submitted::Again { why, left } => (why.code(), left),
        Submitted::Over(ended) => panic!("it is over: {ended:?}"),
    }
}

/// A key file as a provider gives it out.
pub(crate) fn key_file(lab: &Lab, signing: Signing) -> String {
    let key = lab.signing_key("robot@lab.example", signing).unwrap();
    json!({ "type": "service_account", "client_email": "robot@lab.example", "private_key": key }).to_string()
}

on_each_db! {
    async fn a_session_is_begun_at_the_server_that_holds_the_account(db: Db) {
        let world = world(&db).await;
        let open = world.opened(of("blue", "user:alice")).await;
        let page = session::visit(&world.outside, &open.link.link, Some(&open.visit)).await.unwrap();
        let inputs = page.view.inputs.unwrap();
        let shown: Vec<_> = inputs.iter().map(|input| (input.name.as_str(), input.secret, input.required)).collect();
        assert_eq!(shown, [("username", false, true), ("app_password", true, true), ("service", false, false)]);
        assert!(page.view.setup_url.is_some() && page.view.host.is_empty());

        let id = made(world.answer(&open, alice(APP_PASSWORD)).await.unwrap());
        let connection = world.connection(&id).await;
        assert_eq!((connection.status.clone(), connection.renewal), (Status::Active, Renewal::RefreshToken));
        assert_eq!((connection.subject.as_deref(), connection.identity), (Some("did:lab:1001"), Identity::Verified));
        assert_eq!(connection.hosts, [world.lab.addr().to_string()]);
        let account = world.account(&id).await;
        assert_eq!(account.text("username").unwrap().expose(), "alice.lab.example", "what was entered stays");
        assert!(world.lab.is_live(account.text("access_token").unwrap().expose()));
        assert_eq!(world.audited("connection.connect").await.len(), 1);
        let status = session::status(&world.outside.base, &world.house.site, &open.link.id).await.unwrap().unwrap();
        assert_eq!((status.state.as_str(), status.connection), ("connected", Some(id)));
        // The link is used up.
        let late = world.answer(&open, alice(APP_PASSWORD)).await.unwrap_err();
        assert_eq!(late.code(), Code::NotFound);
        assert_eq!((world.logins(), world.lab.requests("directory")), (1, 2));
    }

    async fn a_wrong_password_leaves_the_form_for_a_few_attempts_and_the_old_account_untouched(db: Db) {
        let world = world(&db).await;
        let id = world.enter(of("blue", "user:alice"), alice(APP_PASSWORD)).await;
        let before = format!("{:?}", world.connection(&id).await);
        let open = world.opened(of("blue", "user:alice")).await;
        for attempt in 1..MOST_ATTEMPTS {
            let refused = again(world.answer(&open, alice("wrong")).await.unwrap());
            assert_eq!(refused, (Code::LoginRefused, MOST_ATTEMPTS - attempt));
        }
        match world.answer(&open, alice("wrong")).await.unwrap() {
            Submitted::Over(ended) => {
                assert!(matches!(ended.outcome, Outcome::Failed { code: Code::LoginRefused, .. }), "{ended:?}");
            }
            Submitted::Again { .. } => panic!("one more than there may be"),
        }
        assert_eq!(world.answer(&open, alice(APP_PASSWORD)).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(world.logins(), 1 + u64::try_from(MOST_ATTEMPTS).unwrap());
        assert_eq!(format!("{:?}", world.connection(&id).await), before);
        let failed = world.audited("connection.connect").await.iter().filter(|(outcome, _)| outcome == "failed").count();
        assert_eq!(i64::try_from(failed).unwrap(), MOST_ATTEMPTS);
        let status = session::status(&world.outside.base, &world.house.site, &open.link.id).await.unwrap().unwrap();
        assert_eq!(status.state, "login_refused");
    }

    async fn a_mistake_that_can_be_seen_here_costs_no_attempt(db: Db) {
        let world = world(&db).await;
        let open = world.opened(of("blue", "user:alice")).await;
        for given in [
            json!({ "username": "alice.lab.example" }),
            json!({ "username": "alice\u{1}", "app_password": "x" }),
            json!({ "username": "alice.lab.example", "app_password": "x", "service": "http://example.org" }),
        ] {
            assert_eq!(again(world.answer(&open, given).await.unwrap()), (Code::InvalidRequest, MOST_ATTEMPTS));
        }
        let inward = json!({ "username": "a", "app_password": "x", "service": "https://10.0.0.1" });
        assert_eq!(again(world.answer(&open, inward).await.unwrap()), (Code::AddressRefused, MOST_ATTEMPTS));
        assert_eq!(world.logins(), 0);
        made(world.answer(&open, alice(APP_PASSWORD)).await.unwrap());
    }

    async fn a_provider_that_is_away_is_told_apart_from_a_wrong_password(db: Db) {
        let world = world(&db).await;
        for (fault, code) in [
            (Fault::status(503), Code::UpstreamUnreachable),
            (Fault::too_many("7"), Code::RateLimited),
            (Fault::Drop, Code::UpstreamUnreachable),
            (Fault::HtmlBody, Code::UpstreamInvalid),
            (Fault::HugeBody { bytes: 10 << 20 }, Code::UpstreamInvalid),
            (Fault::omit("accessJwt"), Code::UpstreamInvalid),
            (Fault::set("accessJwt", "a\nb"), Code::UpstreamInvalid),
        ] {
            world.lab.misbehave(Rule::always(At::Login, fault.clone()));
            let told = world.refusal(of("blue", "user:alice"), alice(APP_PASSWORD)).await;
            assert!(told == code || (fault == Fault::Drop && told == Code::UpstreamInvalid), "{fault:?}: {told}");
            world.lab.behave();
        }
        assert!(world.connections().await.is_empty());
    }

    async fn without_its_directory_no_password_goes_anywhere(db: Db) {
        let world = world(&db).await;
        world.lab.misbehave(Rule::always(At::Directory, Fault::status(500)));
        assert_eq!(world.refusal(of("blue", "user:alice"), alice(APP_PASSWORD)).await, Code::UpstreamUnreachable);
        assert_eq!(world.logins(), 0);
        world.lab.behave();
        // One that knows nothing of the name leaves the default server, and that one knows an e-mail address.
        let by_mail = json!({ "username": "alice@lab.example", "app_password": APP_PASSWORD });
        world.lab.misbehave(Rule::always(At::Directory, Fault::status(404)));
        world.enter(of("blue", "user:alice"), by_mail).await;
    }

    async fn a_server_that_lies_inside_is_never_told_the_password(db: Db) {
        let world = world(&db).await;
        for (server, code) in [
            ("https://10.0.0.1", Code::AddressRefused),
            ("https://[::ffff:127.0.0.1]", Code::AddressRefused),
            ("https://127.0.0.1:1", Code::AddressRefused),
            ("http://192.168.1.1", Code::HostRefused),
            ("https://user@lab.example", Code::HostRefused),
            ("https://lab.example/path", Code::HostRefused),
        ] {
            world.lab.move_accounts(Some(server));
            assert_eq!(world.refusal(of("blue", "user:alice"), alice(APP_PASSWORD)).await, code, "{server}");
        }
        assert_eq!(world.logins(), 0);
        assert!(world.connections().await.is_empty());
    }

    async fn an_account_that_moved_is_another_one_unless_that_is_said(db: Db) {
        let (lab, other) = (start().await, start().await);
        let allowed = vec![lab.addr().to_string(), other.addr().to_string()];
        let definitions = [("blue", lab.session_definition())];
        let world = World::of(&db, lab, &definitions, allowed, PUBLIC).await;
        let id = world.enter(of("blue", "site"), alice(APP_PASSWORD)).await;
        // The same account, at another server.
        world.lab.move_accounts(Some(&other.origin()));
        assert_eq!(world.refusal(of("blue", "site"), alice(APP_PASSWORD)).await, Code::SubjectMismatch);
        assert_eq!(world.connection(&id).await.hosts, [world.lab.addr().to_string()]);
        let new = NewSession { new_subject: true, ..of("blue", "site") };
        let moved = world.enter(new, alice(APP_PASSWORD)).await;
        assert_ne!(moved, id);
        assert_eq!(world.connection(&moved).await.hosts, [other.addr().to_string()]);
        assert_eq!(world.logins(), 1, "the first server was asked no more");
    }

    async fn another_account_does_not_take_the_place_of_the_one_that_is_there(db: Db) {
        let world = world(&db).await;
        let id = world.enter(of("blue", "site"), alice(APP_PASSWORD)).await;
        let bob = json!({ "username": "bob.lab.example", "app_password": APP_PASSWORD });
        assert_eq!(world.refusal(of("blue", "site"), bob.clone()).await, Code::SubjectMismatch);
        assert_eq!(world.connection(&id).await.status, Status::Active);
        // What was begun for nothing is ended at the provider.
        assert!(world.owed().await.iter().any(|(reason, _)| reason.contains("not connected after all")));
        let new = NewSession { new_subject: true, ..of("blue", "site") };
        let other = world.enter(new, bob).await;
        assert_ne!(other, id);
        assert!(matches!(world.connection(&id).await.status, Status::Revoked { .. }));
        // The same one again keeps its id.
        let bob = json!({ "username": "bob.lab.example", "app_password": APP_PASSWORD });
        assert_eq!(world.enter(of("blue", "site"), bob).await, other);
    }

    async fn of_two_answers_at_once_one_counts(db: Db) {
        let world = world(&db).await;
        let open = world.opened(of("blue", "user:alice")).await;
        world.lab.misbehave(Rule::always(At::Login, Fault::DelayBefore { ms: 200 }));
        let (first, second) =
            tokio::join!(world.answer(&open, alice(APP_PASSWORD)), world.answer(&open, alice(APP_PASSWORD)));
        let results = [first, second];
        let refused = results.iter().filter_map(|result| result.as_ref().err()).map(valetkey::Error::code);
        assert_eq!(refused.collect::<Vec<_>>(), [Code::Conflict]);
        assert_eq!((world.logins(), world.connections().await.len()), (1, 1));
    }

    async fn a_cancelled_link_stores_nothing_that_was_still_on_its_way(db: Db) {
        let world = world(&db).await;
        let open = world.opened(of("blue", "user:alice")).await;
        let csrf = session::visit(&world.outside, &open.link.link, Some(&open.visit)).await.unwrap().csrf.unwrap();
        world.lab.misbehave(Rule::once(At::Login, Fault::HoldAfter));
        let cancel = async {
            assert!(world.lab.wait_until(std::time::Duration::from_secs(5), |lab| lab.held() == 1).await);
            session::cancel(&world.outside, &open.link.link, Some(&open.visit), &csrf).await.unwrap();
            world.lab.release();
        };
        let (answer, ()) = tokio::join!(world.answer(&open, alice(APP_PASSWORD)), cancel);
        assert!(matches!(answer.unwrap(), Submitted::Over(ended) if matches!(ended.outcome, Outcome::Failed { .. })));
        assert!(world.connections().await.is_empty());
        assert!(!world.owed().await.is_empty(), "the session that was begun is ended at the provider");
    }

    async fn only_our_form_in_the_right_browser_is_answered(db: Db) {
        let world = world(&db).await;
        let open = world.opened(of("blue", "user:alice")).await;
        let csrf = session::visit(&world.outside, &open.link.link, Some(&open.visit)).await.unwrap().csrf.unwrap();
        let post = async |visit: Option<&Secret>, csrf: &Secret| {
            let given = values(alice(APP_PASSWORD));
            form::submit(&world.outside, &world.tasks, &open.link.link, visit, csrf, given).await.unwrap_err().code()
        };
        assert_eq!(post(None, &csrf).await, Code::Forbidden);
        assert_eq!(post(Some(&Secret::new("another browser's")), &csrf).await, Code::Forbidden);
        assert_eq!(post(Some(&open.visit), &Secret::new("made up")).await, Code::Forbidden);
        // A link of another kind takes no values, and this one no mere yes.
        let error = session::approve(&world.outside, &open.link.link, Some(&open.visit), &csrf).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest);
        assert_eq!(world.logins(), 0);
        // Nobody has said who this is.
        let link = world.link(of("blue", "user:alice")).await;
        assert!(session::visit(&world.outside, &link.link, None).await.unwrap().csrf.is_none());
    }

    async fn what_came_with_the_link_is_not_for_the_form_to_change(db: Db) {
        let world = world(&db).await;
        let new = NewSession { fields: fields(json!({ "username": "alice.lab.example" })), ..of("blue", "site") };
        let open = world.opened(new).await;
        let page = session::visit(&world.outside, &open.link.link, Some(&open.visit)).await.unwrap();
        assert!(page.view.inputs.unwrap().iter().any(|input| input.fixed && input.value == "alice.lab.example"));
        let bob = json!({ "username": "bob.lab.example", "app_password": APP_PASSWORD });
        let id = made(world.answer(&open, bob).await.unwrap());
        assert_eq!(world.connection(&id).await.subject.as_deref(), Some("did:lab:1001"));
        let secret = NewSession { fields: fields(json!({ "app_password": "x" })), ..of("blue", "site") };
        assert_eq!(world.refused(secret).await, Code::InvalidRequest);
    }

    async fn a_static_key_is_tried_before_it_is_stored(db: Db) {
        let world = world(&db).await;
        assert_eq!(world.refusal(of("key", "site"), json!({ "api_key": "wrong" })).await, Code::LoginRefused);
        assert!(world.connections().await.is_empty());
        let id = world.enter(of("key", "site"), json!({ "api_key": provider_lab::API_KEY, "note": "ours" })).await;
        let connection = world.connection(&id).await;
        assert_eq!((connection.renewal, connection.identity, connection.expires_at), (Renewal::None, Identity::Owner, None));
        let account = world.account(&id).await;
        assert_eq!(Value::Object(account.expose().clone()), json!({ "api_key": provider_lab::API_KEY, "note": "ours" }));
    }

    async fn a_service_account_s_file_is_pasted_as_it_is(db: Db) {
        let world = world(&db).await;
        for (provider, signing) in [("robot", Signing::Rs256), ("curve", Signing::Es256)] {
            let file = key_file(&world.lab, signing);
            let id = world.enter(of(provider, "site"), json!({ "service_account_json": file })).await;
            let connection = world.connection(&id).await;
            assert_eq!((connection.subject.as_deref(), connection.renewal), (Some("robot@lab.example"), Renewal::Remint));
            assert_eq!(connection.wanted_scopes, ["posts:read"]);
            assert!(world.lab.is_live(world.account(&id).await.text("access_token").unwrap().expose()));
        }
        // A key that is none, or of the other kind, is told at once.
        let open = world.opened(of("robot", "user:alice")).await;
        let other = key_file(&world.lab, Signing::Es256);
        for file in [r#"{"client_email":"a@b","private_key":"nothing"}"#.to_owned(), other] {
            let given = json!({ "service_account_json": file });
            assert_eq!(again(world.answer(&open, given).await.unwrap()), (Code::InvalidRequest, MOST_ATTEMPTS));
        }
        // One that nobody there knows is refused there.
        let stranger = json!({ "client_email": "other@lab.example", "private_key": serde_json::from_str::<Value>(&key_file(&world.lab, Signing::Rs256)).unwrap()["private_key"] });
        let given = json!({ "service_account_json": stranger.to_string() });
        assert_eq!(again(world.answer(&open, given).await.unwrap()).0, Code::LoginRefused);
    }

    async fn an_installation_is_entered_by_its_number_and_proven_by_the_app_s_key(db: Db) {
        let world = world(&db).await;
        assert_eq!(world.refused(of("installation", "site")).await, Code::NotConfigured);
        let key = world.lab.signing_key("77", Signing::Rs256).unwrap();
        world.configure_provider("installation", &json!({ "app_id": "77", "app_key": key })).await;
        assert_eq!(world.refusal(of("installation", "site"), json!({ "installation": "1" })).await, Code::LoginRefused);
        let id = world.enter(of("installation", "site"), json!({ "installation": INSTALLATION })).await;
        assert_eq!(world.connection(&id).await.subject.as_deref(), Some(INSTALLATION));
        // Somebody replaces the app's key over there: that is nothing the person can mend.
        world.lab.signing_key("77", Signing::Rs256).unwrap();
        let refused = world.refusal(of("installation", "user:alice"), json!({ "installation": INSTALLATION })).await;
        assert_eq!(refused, Code::NotConfigured);
    }

    async fn a_client_of_its_own_draws_its_tokens(db: Db) {
        let world = world(&db).await;
        let right = json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET });
        let wrong = json!({ "client_id": CLIENT_ID, "client_secret": "wrong" });
        assert_eq!(world.refusal(of("client", "site"), wrong).await, Code::LoginRefused);
        let id = world.enter(of("client", "site"), right).await;
        let connection = world.connection(&id).await;
        assert_eq!((connection.renewal, connection.client_id.as_deref()), (Renewal::Remint, Some(CLIENT_ID)));
        assert_eq!(connection.scopes, Some(vec!["posts:read".to_owned()]));
        assert!(world.account(&id).await.text("refresh_token").is_none());
    }

    async fn a_login_that_is_refused_with_200_is_refused(db: Db) {
        let world = world(&db).await;
        let login = |password: &str| json!({ "email": "carol@lab.example", "password": password });
        assert_eq!(world.refusal(of("login", "site"), login("wrong")).await, Code::LoginRefused);
        let id = world.enter(of("login", "site"), login(APP_PASSWORD)).await;
        assert_eq!(world.connection(&id).await.renewal, Renewal::Remint);
    }

    async fn an_agent_s_entered_account_comes_with_its_grants(db: Db) {
        let world = world(&db).await;
        let agent = world.house.agent("bot", Some("alice")).await;
        let id = world.enter(of("key", &format!("agent:{}", agent.as_str())), json!({ "api_key": provider_lab::API_KEY })).await;
        let grants = grant::list(&db, &world.house.site, Some(&agent), Some(&id)).await.unwrap();
        assert_eq!(grants.len(), 2);
    }

    async fn whoever_stores_entered_values_has_them_tried_too(db: Db) {
        let world = world(&db).await;
        let error = world.put("blue", alice("wrong"), false).await.unwrap_err();
        assert_eq!(error.code(), Code::LoginRefused);
        assert!(!format!("{error:?}").contains("wrong"));
        assert!(world.connections().await.is_empty());
        let stored = world.put("blue", alice(APP_PASSWORD), false).await.unwrap();
        assert_eq!((stored.identity, stored.renewal), (Identity::Verified, Renewal::RefreshToken));
        // The tokens may have been renewed since: nothing is tried before that is settled.
        let before = world.logins();
        assert_eq!(world.put("blue", alice(APP_PASSWORD), false).await.unwrap_err().code(), Code::PreconditionRequired);
        assert_eq!(world.logins(), before);
        assert_eq!(world.put("blue", alice("wrong"), true).await.unwrap_err().code(), Code::LoginRefused);
        assert_eq!(world.connection(&stored.id).await.version, stored.version);
        let again = world.put("blue", alice(APP_PASSWORD), true).await.unwrap();
        assert_eq!((again.id, again.version), (stored.id, stored.version + 1));
        // Who brings tokens stores those.
        let brought = json!({ "username": "alice.lab.example", "access_token": "from elsewhere" });
        let kept = world.put("blue", brought, true).await.unwrap();
        assert_eq!(kept.identity, Identity::Unverified);
        assert_eq!(world.put("key", json!({ "api_key": "wrong" }), false).await.unwrap_err().code(), Code::LoginRefused);
        world.put("key", json!({ "api_key": provider_lab::API_KEY, "kept": { "as": "it is" } }), false).await.unwrap();
    }
}
