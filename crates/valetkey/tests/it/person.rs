//! Erasing a person: what is theirs goes, and what others did stays.

use std::collections::BTreeSet;

use valetkey::{
    agent::{self, NewAgent, Role},
    app_config,
    clock::Timestamp,
    connection::{self, Status},
    db::{Db, Either, testing},
    decision::{Authority, Request, decide},
    error::Code,
    grant::{self, Effect, ForWhom, NewGrant},
    id::{AgentId, ConnectionId, GrantId, UserId},
    on, on_each_db, person,
    platform::{self, Asserts, NewKey, Scope},
    principal::{Actor, Delivery, Owner},
    proposal::{self, Asker, Wish},
    revoke::{self, Settings},
    session,
    token::{self, NewToken, TokenHash},
};

use crate::{
    support::House,
    town::{HOUR, MINUTE, Replica, Town, client},
};

const OPERATOR: Actor = Actor::Operator;

async fn new_agent(replica: &Replica, slug: &str, owner: &str) -> AgentId {
    let new = NewAgent { id: None, slug: slug.to_owned(), title: String::new(), owner: Some(owner.parse().unwrap()) };
    agent::create(&replica.outside.base, &replica.site, &OPERATOR, new).await.unwrap().id
}

async fn role(replica: &Replica, agent: &AgentId, user: &str, role: Role) {
    agent::set_role(&replica.outside.base, &replica.site, &OPERATOR, agent, &user.parse().unwrap(), role).await.unwrap();
}

/// A token that somebody minted, for somebody or for nobody.
async fn mint(replica: &Replica, agent: &AgentId, minter: &Actor, person: Option<&str>) -> TokenHash {
    let new = NewToken { person: person.map(|person| person.parse().unwrap()), ..NewToken::default() };
    let (_, text) = token::mint(&replica.outside.base, &replica.site, minter, agent, new).await.unwrap();
    TokenHash::of_presented(text.expose()).unwrap()
}

async fn grant(replica: &Replica, agent: &AgentId, connection: &ConnectionId, grantor: Option<&str>) {
    let grantor = grantor.map(|grantor| grantor.parse().unwrap());
    let new = NewGrant { grantor, ..NewGrant::proxy(agent, connection, ForWhom::Unattended) };
    grant::create(&replica.outside.base, &replica.site, &OPERATOR, new).await.unwrap();
}

async fn code(db: &Db, token: &TokenHash, connection: &ConnectionId, now: Timestamp) -> Option<Code> {
    let request = Request { delivery: Delivery::Proxy, operation: None, unattended: true };
    decide(&Authority::new(db.clone()).facts(token, connection).await.unwrap().unwrap(), &request, now).code
}

fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

/// Where an erased person's id may stay; `docs/security.md` says why. Beside the audit, and beside who did something.
const STAYS: [&str; 8] = [
    "agent_tokens.minter",
    "agent_tokens.person",
    "connections.owner",
    "grants.grantor",
    "imports.item",
    "people.id",
    "revocations.owner",
    "webhook_messages.body",
];

/// The text columns of all tables in which a text is found, whatever tables there are.
async fn found_in(db: &Db, text: &str) -> BTreeSet<String> {
    let columns: Vec<(String, String)> = match valetkey::db::Target::split(db) {
        Either::Sqlite(c) => sqlx::query_as(
            "SELECT m.name, p.name FROM sqlite_schema m JOIN pragma_table_info(m.name) p
             WHERE m.type = 'table' AND m.name NOT GLOB 'sqlite_*' AND p.type = 'TEXT'",
        )
        .fetch_all(c)
        .await
        .unwrap(),
        Either::Postgres(c) => sqlx::query_as(
            "SELECT table_name::text, column_name::text FROM information_schema.columns
             WHERE table_schema = 'public' AND data_type = 'text'",
        )
        .fetch_all(c)
        .await
        .unwrap(),
    };
    assert!(columns.len() > 100);
    let mut found = BTreeSet::new();
    for (table, column) in columns {
        let sql = format!("SELECT COUNT(*) FROM \"{table}\" WHERE REPLACE(\"{column}\", $1, '') <> \"{column}\"");
        let (rows,): (i64,) =
            on!(db, |c| sqlx::query_as(sqlx::AssertSqlSafe(sql.clone())).bind(text).fetch_one(c).await.unwrap());
        if rows > 0 {
            found.insert(format!("{table}.{column}"));
        }
    }
    found
}

on_each_db! {
    async fn an_erased_person_keeps_nothing_and_others_keep_what_is_theirs(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (base, site) = (&replica.outside.base, &replica.site);
        let (hers, named) = (replica.living(&town, "", HOUR / 2).await, replica.living(&town, "work", HOUR / 2).await);
        let definition = replica.outside.catalogue.get(&"lab".parse().unwrap()).unwrap().clone();
        let alice = Owner::User(user("alice"));
        app_config::set(base, site, &OPERATOR, &definition, &alice, &client("her own")).await.unwrap();
        let (own, shared) = (new_agent(&replica, "own", "alice").await, new_agent(&replica, "shared", "bob").await);
        role(&replica, &shared, "alice", Role::Operator).await;
        role(&replica, &shared, "carol", Role::Operator).await;
        grant(&replica, &shared, &hers.id, Some("alice")).await;
        let dead = [
            mint(&replica, &own, &OPERATOR, None).await,
            mint(&replica, &shared, &OPERATOR, Some("alice")).await,
            mint(&replica, &shared, &Actor::User(user("alice")), None).await,
        ];
        let live = mint(&replica, &shared, &OPERATOR, Some("carol")).await;
        let before = replica.events("agent.role").await;

        let erased = person::erase(&replica.outside, site, &OPERATOR, &user("alice")).await.unwrap();
        // The token of her agent is nobody's but the agent's, which is disabled.
        let expected = person::Erased { connections: 2, apps: 1, tokens: 2, grants: 1, roles: 1, agents: 1 };
        assert_eq!(erased, expected);
        for token in &dead {
            assert_eq!(code(&db, token, &hers.id, base.clock.now()).await, Some(Code::Unauthenticated));
        }
        assert_eq!(code(&db, &live, &hers.id, base.clock.now()).await, Some(Code::NotFound), "the account is over, the token is not");
        for account in [&hers, &named] {
            let stored = replica.stored(&account.id).await;
            assert!(stored.sealed.is_none() && matches!(stored.connection.status, Status::Revoked { .. }));
            assert_eq!((stored.connection.subject, stored.connection.subject_name), (None, None));
        }
        assert!(app_config::current(&db, site, &"lab".parse().unwrap(), &alice).await.unwrap().is_none());
        assert!(!app_config::is_left(&db, site, &alice).await.unwrap());
        let own = agent::require(&db, site, &own).await.unwrap();
        assert!(own.owner.is_none() && own.disabled_at.is_some());
        let roles: Vec<_> = agent::roles(&db, site, &shared).await.unwrap().into_iter().map(|access| access.user).collect();
        assert_eq!(roles, [user("carol")]);
        assert!(agent::may(base, site, &user("bob"), &shared, Role::Admin).await.unwrap());

        // The provider is told, and what was recorded stays as it was.
        assert_eq!(revoke::work_off(&replica.outside, &Settings::default()).await.unwrap(), 2);
        assert!(!town.lab.is_live(&hers.first.access_token) && !town.lab.is_live(&named.first.access_token));
        assert_eq!(replica.events("agent.role").await, before);
        let told = replica.events("person.erased").await;
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0]["user"], &told[0]["tokens"]), (&"alice".into(), &2.into()));
    }

    /// As the ids of a WordPress are: a number, by which an import remembers who gave a permission.
    async fn an_erased_persons_id_is_found_only_where_it_is_said_to_stay(db: Db) {
        const GONE: &str = "918273645";
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (base, site) = (&replica.outside.base, &replica.site);
        let house = House::at(base.clone(), site.clone());
        let (theirs, sites) = (house.connection(&format!("user:{GONE}")).await, house.connection("site").await);
        let (own, shared) = (new_agent(&replica, "own", GONE).await, new_agent(&replica, "shared", "bob").await);
        role(&replica, &shared, GONE, Role::Operator).await;
        grant(&replica, &shared, &theirs, Some(GONE)).await;
        mint(&replica, &shared, &Actor::User(user(GONE)), Some(GONE)).await;
        mint(&replica, &own, &OPERATOR, None).await;
        let people = |ids: &[&str]| ids.iter().map(|id| user(id)).collect::<BTreeSet<_>>();
        let listed = NewGrant::proxy(&shared, &sites, ForWhom::People(people(&[GONE, "bob"])));
        let listed = house.grant_with(listed).await;
        let denial = NewGrant::proxy(&shared, &sites, ForWhom::People(people(&[GONE])));
        let denial = house.grant_with(NewGrant { effect: Effect::Deny, ..denial }).await;
        let mut keys = Vec::new();
        for ids in [&[GONE, "bob"][..], &[GONE]] {
            let asserts = Asserts::People(people(ids));
            let new = NewKey { label: String::new(), scopes: [Scope::Signin].into(), asserts, expires_at: None };
            keys.push(platform::create(base, site, &OPERATOR, new).await.unwrap().key.id);
        }
        session::open(base, site, &user(GONE), &keys[0]).await.unwrap();
        let (token, _) = house.token(&shared, None).await;
        let asker = Asker { site: site.clone(), agent: shared.clone(), token, person: None };
        let for_whom = Some(ForWhom::People(people(&[GONE, "bob"])));
        let wish = Wish { provider: Some("lab".parse().unwrap()), for_whom, reason: "why not".to_owned(), ..Wish::default() };
        let wish = proposal::propose(&replica.outside, &asker, wish).await.unwrap().id;
        testing::execute(
            &db,
            &format!(
                "INSERT INTO imports (site, source, item, digest, target, rest, position, imported_at)
                 VALUES ('default', 'data_machine', 'grant/lab/site//x', 'd', NULL, '{{\"granted_by\":{GONE}}}', 0, 0)"
            ),
        )
        .await;
        let before = found_in(&db, GONE).await;
        for list in ["agent_access.user_id", "grants.for_whom", "imports.rest", "platform_keys.asserts", "proposals.wanted", "sessions.person"] {
            assert!(before.contains(list), "{list} holds nothing to erase");
        }

        person::erase(&replica.outside, site, &OPERATOR, &user(GONE)).await.unwrap();
        let left = found_in(&db, GONE).await;
        let stays = |place: &str| place.starts_with("audit.") || place.ends_with("_by") || STAYS.contains(&place);
        assert_eq!(left.iter().filter(|place| !stays(place)).collect::<Vec<_>>(), Vec::<&String>::new());
        assert!(left.contains("audit.facts"));
        // Nobody else is taken out, and nothing is opened by it.
        let whom = async |id: &GrantId| grant::get(&db, site, id).await.unwrap().unwrap().for_whom;
        assert_eq!(whom(&listed).await, ForWhom::People(people(&["bob"])));
        assert_eq!(whom(&denial).await, ForWhom::People(BTreeSet::new()));
        let asserts: Vec<_> = platform::list(&db, site).await.unwrap().into_iter().map(|key| (key.id, key.asserts)).collect();
        assert!(asserts.contains(&(keys[0].clone(), Asserts::People(people(&["bob"])))));
        assert!(asserts.contains(&(keys[1].clone(), Asserts::None)));
        let wish = proposal::get(&db, site, &wish).await.unwrap().unwrap();
        assert_eq!(wish.wanted.for_whom, ForWhom::People(people(&["bob"])));
    }

    async fn an_erased_person_does_not_come_back(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (base, site, alice) = (&replica.outside.base, &replica.site, user("alice"));
        let agent = new_agent(&replica, "a", "bob").await;
        role(&replica, &agent, "alice", Role::Operator).await;
        person::erase(&replica.outside, site, &OPERATOR, &alice).await.unwrap();
        let again = person::erase(&replica.outside, site, &OPERATOR, &alice).await.unwrap();
        assert_eq!(again, person::Erased::default());
        assert_eq!(replica.events("person.erased").await.len(), 1);
        person::set_disabled(base, site, &OPERATOR, &alice, true).await.unwrap();
        let error = person::set_disabled(base, site, &OPERATOR, &alice, false).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(platform::person_is_disabled(&db, site, &alice).await.unwrap());
        // A role is none for somebody who is no more, and so nothing can be minted for them.
        role(&replica, &agent, "alice", Role::Admin).await;
        assert!(!agent::may(base, site, &alice, &agent, Role::Viewer).await.unwrap());
        let new = NewToken { person: Some(alice), ..NewToken::default() };
        assert_eq!(token::mint(base, site, &OPERATOR, &agent, new).await.unwrap_err().code(), Code::Forbidden);
    }

    /// A process that dies after the first commit leaves accounts that nobody may use; they are ended all the same.
    async fn an_erasing_that_a_dead_process_left_is_finished(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (base, site) = (&replica.outside.base, &replica.site);
        let account = replica.living(&town, "", HOUR / 2).await;
        let mut tx = db.begin().await.unwrap();
        assert!(platform::mark_erased(&mut tx, site, &user("alice"), base.clock.now()).await.unwrap());
        tx.commit().await.unwrap();
        assert!(replica.stored(&account.id).await.sealed.is_some());
        assert_eq!(person::go_on(&replica.outside).await.unwrap(), 0, "a flow may still be under way");
        assert!(replica.stored(&account.id).await.sealed.is_none());
        assert_eq!(replica.events("connection.revoke").await[0]["reason"], "the person was erased");
    }

    /// A flow that was under way when its person was erased may still bring an account.
    async fn what_comes_after_an_erasing_is_ended_too(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let site = &replica.site;
        person::erase(&replica.outside, site, &OPERATOR, &user("alice")).await.unwrap();
        replica.advance(MINUTE);
        let late = replica.living(&town, "", HOUR / 2).await;
        replica.advance(HOUR);
        assert_eq!(person::go_on(&replica.outside).await.unwrap(), 1);
        assert!(replica.stored(&late.id).await.sealed.is_none());
        let left = connection::Filter { owner: Some(Owner::User(user("alice"))), ..connection::Filter::default() };
        assert!(connection::list(&db, site, &left).await.unwrap().is_empty());
        assert!(platform::being_erased(&db).await.unwrap().is_empty());
        assert_eq!(person::go_on(&replica.outside).await.unwrap(), 0);
    }

    /// What a revocation upstream still needs outlives the person until it is done.
    async fn an_app_that_a_revocation_needs_goes_when_that_is_done(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (base, site) = (&replica.outside.base, &replica.site);
        let definition = replica.outside.catalogue.get(&"lab".parse().unwrap()).unwrap().clone();
        let alice = Owner::User(user("alice"));
        let app = app_config::set(base, site, &OPERATOR, &definition, &alice, &client(provider_lab::CLIENT_SECRET)).await.unwrap();
        let hers = Replica { config: app.id.clone(), ..replica.clone() };
        let account = hers.living(&town, "", HOUR / 2).await;
        person::erase(&replica.outside, site, &OPERATOR, &user("alice")).await.unwrap();
        assert!(app_config::get(&db, site, &app.id).await.unwrap().is_some());
        assert_eq!(revoke::work_off(&replica.outside, &Settings::default()).await.unwrap(), 1);
        assert!(!town.lab.is_live(&account.first.access_token));
        person::go_on(&replica.outside).await.unwrap();
        assert!(app_config::get(&db, site, &app.id).await.unwrap().is_none());
    }
}
