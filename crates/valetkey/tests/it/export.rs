//! Moving out: what moved in comes back as it was, and what changed as it is now.

use std::{borrow::Cow, collections::BTreeSet, ops::ControlFlow};

use valetkey::{
    agent,
    grant::{self, Effect, ForWhom, Grant, NewGrant},
    import::{
        data_machine::{
            compose::{Composed, compose},
            dump,
            envelope::{self, Key},
            option,
            php::{self, Custom, Entries, Object, Value},
            plan::{PEER_PROVIDER, Source},
            sql,
            tables::Tables,
        },
        export::{self, Line},
        item::{self, Item},
    },
    on_each_db, person,
    principal::{Actor, Ceiling, Delivery, Owner},
    site, token,
};

use crate::moving::{Harbour, SITES, fixture, header, salts};

on_each_db! {
    async fn what_moved_in_moves_out_with_the_same_value_in_the_same_order(db: Db) {
        let harbour = Harbour::new(&db).await;
        for site in SITES {
            let harbour = harbour.also(site).await;
            harbour.bring_dump(site, header()).await.unwrap();
            let key = Key::derive(&salts(site)).unwrap();
            let (out, losses) = harbour.moved_out(&key).await;
            // No envelope is the same twice; what is in them is.
            let bytes = fixture(site, "auth_data.serialized");
            let before = opened(&key, option::read(&bytes).unwrap());
            assert_same(site, &opened(&key, out.auth_data), &before);
            assert!(losses.is_empty(), "{losses:?}");
        }
    }

    async fn tokens_for_other_sites_agents_roles_and_tokens_move_out_as_they_moved_in(db: Db) {
        let harbour = Harbour::new(&db).await;
        for site in SITES {
            let harbour = harbour.also(site).await;
            harbour.bring_dump(site, header()).await.unwrap();
            let (out, _) = harbour.moved_out(&Key::derive(&salts(site)).unwrap()).await;
            let dump = dump::read(&fixture(site, "dump.extended.sql")[..], &dump::Choice::default()).unwrap();
            let peers = option::read(dump.external_tokens.as_ref().unwrap().expose()).unwrap();
            assert!(matches!(&peers, Value::Array(entries) if !entries.is_empty()));
            assert_same(site, &out.external_tokens, &peers);

            // Who is no more there is disabled here: their one token is over, and so not as it came.
            let as_it_came = |item: &&Item| !matches!(item, Item::Token { label, .. } if label == "owner user deleted");
            let before = rows(&dump);
            let written = |items: &[Item]| {
                items.iter().filter(as_it_came).map(|item| serde_json::to_value(item).unwrap()).collect::<Vec<_>>()
            };
            assert_eq!((out.tables.len(), before.iter().filter(as_it_came).count()), (before.len(), before.len() - 1));
            assert_eq!(written(&out.tables), written(&before));
        }
    }

    /// The address that the proxy goes to is ours; a member of that name that came is the source's.
    async fn an_address_that_came_with_a_token_for_another_site_moves_out_and_ours_does_not(db: Db) {
        let harbour = Harbour::new(&db).await;
        let peers = br#"{
            "with.example/a": {"remote_site": "with.example", "url": "https://other.example", "token": "t"},
            "without.example/b": {"remote_site": "without.example", "token": "u"}
        }"#;
        let peers = option::read(peers).unwrap();
        let key = Key::derive(&salts(SITES[0])).unwrap();
        let source = Source { external_tokens: Some(&peers), ..Source::default() };
        harbour.bring_source(&source, Some(&key), header()).await.unwrap();
        let ours = harbour.account(PEER_PROVIDER, Owner::Site, "without.example/b").await.unwrap();
        assert_eq!(ours.text("url").unwrap().expose(), "https://without.example");
        let (out, _) = harbour.moved_out(&key).await;
        assert_same("the addresses", &out.external_tokens, &peers);
    }

    /// Other sites hold whatever PHP can, under names that nobody expected.
    async fn every_kind_of_value_and_of_name_moves_out_as_it_moved_in(db: Db) {
        let harbour = Harbour::new(&db).await;
        let json = br#"{
            "acme": {
                "account": {"access_token": "t", "": "no name", "refresh_token": ""},
                "accounts": {"a.b-c_1": {"x": 1}, "default": {"y": []}, "7": {"z": {"5": 1, "05": 2}}},
                "principals": {
                    "agent:2": {"account": {"k": [[], {"0": 1, "2": 2}]}},
                    "user:1": {"config": {"client_id": "c"}, "accounts": []}
                },
                "config": {"client_secret": "s", "10": "ten"}
            },
            "Odd Name!": {"account": {"o": null, "$base64": "AAAA"}},
            "10": {"account": {"n": true}},
            "empty": []
        }"#;
        let mut source = option::read(json).unwrap();
        let key = |name: &'static [u8]| php::Key::Text(Cow::Borrowed(name));
        let text = |bytes: &'static [u8]| Value::Text(Cow::Borrowed(bytes));
        let object = Object { class: Cow::Borrowed(b"A\\B"), members: vec![(key(b"\0A\\B\0p"), Value::Int(1))].into() };
        let custom = Custom { class: Cow::Borrowed(b"C"), payload: Cow::Borrowed(b"\0\xff") };
        entries_at(&mut source, &["acme", "account"]).extend([
            (key(b"inf"), Value::Float(f64::INFINITY)),
            (key(b"minus"), Value::Float(f64::NEG_INFINITY)),
            (key(b"nan"), Value::Float(f64::NAN)),
            (key(b"zero"), Value::Float(-0.0)),
            (key(b"third"), Value::Float(1.0 / 3.0)),
            (key(b"most"), Value::Int(i64::MAX)),
            (key(b"least"), Value::Int(i64::MIN)),
            (key(b"raw"), text(b"\xff\0")),
            (key(b"nul"), text(b"a\0b")),
            (key(b"object"), Value::Object(Box::new(object))),
            (key(b"custom"), Value::Custom(Box::new(custom))),
            (php::Key::Int(-3), Value::Null),
        ]);
        entries_at(&mut source, &["Odd Name!", "account"]).push((key(b"\xff"), Value::Bool(true)));
        let bytes = php::write(&source);
        harbour.bring_option(&bytes, None, header()).await.unwrap();

        let key = Key::derive(&salts(SITES[0])).unwrap();
        let (out, losses) = harbour.moved_out(&key).await;
        assert!(losses.is_empty() && out.losses.is_empty(), "{losses:?} {:?}", out.losses);
        assert_same("every kind", &opened(&key, out.auth_data), &source);
        // And it came as it is read: a token, and beside it what is none.
        let account = harbour.account("acme", Owner::Site, "").await.unwrap();
        assert_eq!(account.text("access_token").unwrap().expose(), "t");
    }

    async fn what_was_sealed_is_sealed_again_and_nothing_else(db: Db) {
        let harbour = Harbour::new(&db).await;
        let site = SITES[0];
        harbour.bring(site, header()).await.unwrap();
        let key = Key::derive(&salts(site)).unwrap();
        let (out, _) = harbour.moved_out(&key).await;
        let bytes = fixture(site, "auth_data.serialized");
        let before = option::read(&bytes).unwrap();
        // Plaintext from before sealing is sealed, as the old system does with the next save.
        let legacy = 6;
        assert_eq!(sealed(&out.auth_data), sealed(&before) + legacy);
    }

    /// What is narrowed here must not move out as if it were not.
    async fn a_token_below_a_ceiling_of_its_agent_or_site_stays_here(db: Db) {
        let harbour = Harbour::new(&db).await;
        let site = SITES[0];
        harbour.bring_dump(site, header()).await.unwrap();
        let (base, key) = (&harbour.outside.base, Key::derive(&salts(site)).unwrap());
        let lost = async || {
            let (_, losses) = harbour.moved_out(&key).await;
            losses.into_iter().filter(|loss| loss.what.starts_with("token ") && loss.why.contains("a ceiling of its agent or site")).count()
        };
        assert_eq!(lost().await, 0);
        let ceiling = Ceiling { delivery: Some([Delivery::Proxy].into()), ..Ceiling::default() };
        let policy = site::Policy { ceiling: Some(ceiling.clone()), ..site::Policy::default() };
        site::set_policy(base, &Actor::Operator, &harbour.site, &policy).await.unwrap();
        let all = lost().await;
        site::set_policy(base, &Actor::Operator, &harbour.site, &site::Policy::default()).await.unwrap();
        let agent = "1".parse().unwrap();
        agent::set_ceiling(base, &harbour.site, &Actor::Operator, &agent, Some(&ceiling)).await.unwrap();
        let some = lost().await;
        assert!(all > some && some > 0, "{all} {some}");
    }

    /// What was taken back here must not come back to life when the move is undone: the rows are still there.
    async fn what_was_revoked_or_taken_away_here_is_written_as_over_or_said(db: Db) {
        let harbour = Harbour::new(&db).await;
        let site = SITES[0];
        harbour.bring_dump(site, header()).await.unwrap();
        let (base, key) = (&harbour.outside.base, Key::derive(&salts(site)).unwrap());
        let tokens = token::list_hashed(&base.db, &harbour.site, &"1".parse().unwrap()).await.unwrap();
        let token = tokens.iter().find(|hashed| hashed.token.expires_at.is_none()).unwrap();
        token::revoke(base, &harbour.site, &Actor::Operator, &token.token.id, "lost").await.unwrap();
        let mut role = None;
        for agent in agent::list(&base.db, &harbour.site).await.unwrap() {
            let roles = agent::roles(&base.db, &harbour.site, &agent.id).await.unwrap();
            let of_another = roles.into_iter().find(|role| agent.owner.as_ref() != Some(&role.user));
            role = role.or(of_another.map(|role| (agent.id, role.user)));
        }
        let (agent, user) = role.unwrap();
        agent::remove_role(base, &harbour.site, &Actor::Operator, &agent, &user).await.unwrap();
        let agents = agent::list(&base.db, &harbour.site).await.unwrap();
        let deleted = agents.iter().map(|agent| &agent.id).find(|id| **id != agent && id.as_str() != "1").unwrap();
        agent::delete(base, &harbour.site, &Actor::Operator, deleted).await.unwrap();

        let (out, losses) = harbour.moved_out(&key).await;
        for what in [format!("role of {user} on agent {agent}"), format!("agent {deleted}")] {
            assert!(losses.iter().any(|loss| loss.what == what), "{what}: {losses:?}");
        }
        let (sql, _) = sql::write("wp_", &out.tables);
        let line = sql.lines().find(|line| line.contains(token.hash.as_str())).unwrap();
        // It ended at the moment of the harbour's clock, and allows nothing: 0x5b5d is an empty list.
        assert!(line.contains("'2026-11-22 02:22:30'") && line.contains("0x5b5d"), "{line}");
    }

    /// Nothing serves for somebody who is disabled here, and nothing shall where their tokens move to.
    async fn tokens_of_a_person_who_is_disabled_here_are_written_as_over(db: Db) {
        let harbour = Harbour::new(&db).await;
        harbour.bring_dump(SITES[0], header()).await.unwrap();
        let (base, key) = (&harbour.outside.base, Key::derive(&salts(SITES[0])).unwrap());
        // Agent 2 is theirs, and agent 3 is somebody else's.
        person::set_disabled(base, &harbour.site, &Actor::Operator, &"2".parse().unwrap(), true).await.unwrap();
        let (out, _) = harbour.moved_out(&key).await;
        let (sql, _) = sql::write("wp_", &out.tables);
        for (agent, is_over) in [("2", true), ("3", false)] {
            let tokens = token::list_hashed(&base.db, &harbour.site, &agent.parse().unwrap()).await.unwrap();
            assert!(!tokens.is_empty());
            for token in tokens {
                let line = sql.lines().find(|line| line.contains(token.hash.as_str())).unwrap();
                // It ended at the moment of the harbour's clock, and allows nothing: 0x5b5d is an empty list.
                assert_eq!(line.contains("'2026-11-22 02:22:30'") && line.contains("0x5b5d"), is_over, "{line}");
            }
        }
    }

    /// What holds an agent back must not stay behind while what lets it act moves out.
    async fn what_is_lent_beside_a_denial_stays_here(db: Db) {
        let harbour = Harbour::new(&db).await;
        let site = SITES[0];
        harbour.bring_dump(site, header()).await.unwrap();
        let (base, key) = (&harbour.outside.base, Key::derive(&salts(site)).unwrap());
        let lost = async || {
            let (_, losses) = harbour.moved_out(&key).await;
            losses.into_iter().map(|loss| loss.what).collect::<BTreeSet<_>>()
        };
        let before = lost().await;
        let grants = grant::list(&base.db, &harbour.site, None, None).await.unwrap();
        let moves = |grant: &&Grant| grant.note == "lent at Data Machine" && !before.contains(&format!("grant {}", grant.id));
        let lent = grants.iter().find(moves).unwrap();
        let denial = NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&lent.agent, &lent.connection, ForWhom::Anyone) };
        grant::create(base, &harbour.site, &Actor::Operator, denial).await.unwrap();
        assert!(lost().await.contains(&format!("grant {}", lent.id)));
    }

    async fn what_the_old_format_cannot_hold_is_said(db: Db) {
        let harbour = Harbour::new(&db).await;
        let option = br#"{"acme": {"principals": {"user:1": {"account": {"access_token": "t"}}}}}"#;
        harbour.bring_option(option, None, header()).await.unwrap();
        valetkey::db::testing::execute(&db, "DELETE FROM imports").await;
        let base = &harbour.outside.base;
        let house = crate::support::House::at(base.clone(), harbour.site.clone());
        house.connection("user:alice").await;
        let key = Key::derive(&salts(SITES[0])).unwrap();
        let (out, _) = harbour.moved_out(&key).await;
        assert_eq!(out.losses.len(), 1, "{:?}", out.losses);
        assert!(out.losses[0].what.contains("user:alice"), "{:?}", out.losses);
    }
}

impl Harbour {
    async fn moved_out(&self, key: &Key) -> (Composed, Vec<export::Loss>) {
        export::record(&self.outside.base, &self.site, &Actor::Operator).await.unwrap();
        let (lines, mut taken) = tokio::sync::mpsc::channel(4);
        let (mut all, mut losses) = (Vec::new(), Vec::new());
        let take = async {
            while let Some(line) = taken.recv().await {
                // As it travels: written and read again.
                match serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap() {
                    Line::Item { at, item } => all.push((at, item)),
                    Line::Loss(loss) => losses.push(loss),
                    Line::End { items } => assert_eq!(items as usize, all.len()),
                }
            }
        };
        let (outcome, ()) = tokio::join!(export::run(&self.outside.base, &self.site, lines), take);
        outcome.unwrap();
        (compose(all, Some(key)).unwrap(), losses)
    }
}

/// What stands in a dump's tables, as the items that move in; without those of the source who are no more.
fn rows(dump: &dump::Dump) -> Vec<Item> {
    let tables = Tables {
        agents: dump.agents.as_deref().unwrap(),
        tokens: dump.tokens.as_deref().unwrap(),
        access: dump.access.as_deref().unwrap(),
        principals: dump.principal_access.as_deref().unwrap(),
        users: dump.users.as_ref(),
    };
    let mut items = Vec::new();
    let mut take = |line: item::Line| -> ControlFlow<()> {
        match line {
            item::Line::Item { item: Item::GonePerson { .. }, .. } | item::Line::End { .. } => {}
            item::Line::Item { item, .. } => items.push(item),
        }
        ControlFlow::Continue(())
    };
    Source { tables: Some(tables), ..Source::default() }.plan(None, &mut take).unwrap();
    items
}

/// A value with every envelope opened.
fn opened<'a>(key: &Key, value: Value<'a>) -> Value<'a> {
    match value {
        Value::Text(text) if envelope::is_envelope(&text) => Value::Text(key.open(&text).unwrap().expose().to_vec().into()),
        Value::Array(entries) => {
            Value::Array(entries.into_iter().map(|(name, value)| (name, opened(key, value))).collect::<Entries<'_>>())
        }
        other => other,
    }
}

/// The entries of the array at a path.
fn entries_at<'e, 'a>(value: &'e mut Value<'a>, path: &[&str]) -> &'e mut Entries<'a> {
    let Value::Array(entries) = value else { panic!("an array") };
    match path {
        [] => entries,
        [first, rest @ ..] => {
            let (_, inner) = entries.iter_mut().find(|(key, _)| *key.to_bytes() == *first.as_bytes()).unwrap();
            entries_at(inner, rest)
        }
    }
}

fn sealed(value: &Value<'_>) -> usize {
    match value {
        Value::Text(text) => usize::from(envelope::is_envelope(text)),
        Value::Array(entries) => entries.iter().map(|(_, value)| sealed(value)).sum(),
        _ => 0,
    }
}

/// The same to the byte, order and all; else where it first differs.
fn assert_same(what: &str, ours: &Value<'_>, theirs: &Value<'_>) {
    let (ours, theirs) = (php::write(ours), php::write(theirs));
    if ours != theirs {
        let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
        let near =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.saturating_sub(200)..(at + 80).min(bytes.len())]).into_owned();
        panic!("{what}, byte {at}:\n{}\n---\n{}", near(&ours), near(&theirs));
    }
}
