//! Every read of the old API that was written down gives the same answer here, or a difference that is argued.

use serde_json::{Map, Value, json};
use valetkey::{
    app_config,
    connection::{self, Identity, accounts},
    context::{Context, Kind, Policy},
    on_each_db,
    principal::{Actor, Owner},
    scope,
};

use crate::moving::{Harbour, SITES, fixture_json, header};

/// Where we differ from what was written down: provider (or `*`), call (or `*`), and why.
const DIFFERENCES: [(&str, &str, &str); 6] = [
    (
        "mixed",
        "get_account",
        "an envelope in a member that Data Machine does not open by itself: it hands the envelope out as if it were the secret; here it \
         is opened",
    ),
    ("mixed", "get_site_account", "as get_account"),
    ("mixed", "get_account_for_policy_context", "as get_account"),
    ("tumblr", "is_authenticated", "its access token is over and its refresh token is not: it serves after a refresh"),
    ("http_basic", "get_username", "there only an account has a user name, and this credential is a configuration"),
    ("email_imap", "get_username", "as http_basic"),
];

on_each_db! {
    async fn every_recorded_read_gives_the_recorded_answer_or_a_listed_difference(db: Db) {
        let harbour = Harbour::new(&db).await;
        for site in SITES {
            let harbour = harbour.also(site).await;
            let (report, found) = harbour.bring(site, header()).await.unwrap();
            assert_eq!((found.unreadable.len(), report.conflicts.count), (0, 0), "{found:?}");
            for kind in Kind::ALL {
                let change = scope::Change { policy: Some(Policy::Principal), fallback: None };
                let acme = "acme".parse().unwrap();
                scope::set(&harbour.outside.base, &harbour.site, &Actor::Operator, &acme, kind, change).await.unwrap();
            }
            let reads = fixture_json(site, "reads.json");
            let reads = reads.as_array().unwrap();
            assert_eq!(reads.len(), 637);
            let (mut same, mut differ) = (0, [0; DIFFERENCES.len()]);
            let mut faults = Vec::new();
            for read in reads {
                let (provider, call) = (read["provider"].as_str().unwrap(), read["call"].as_str().unwrap());
                let ours = harbour.answer(provider, call, read["args"].as_array().unwrap()).await;
                if ours == read["result"] {
                    same += 1;
                    continue;
                }
                let listed = DIFFERENCES.iter().position(|(p, c, _)| [provider, "*"].contains(p) && [call, "*"].contains(c));
                match listed {
                    Some(at) => differ[at] += 1,
                    None => faults.push(format!("{provider} {call} {}: {} and not {}", read["args"], ours, read["result"])),
                }
            }
            assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), reads.len(), faults.join("\n"));
            assert!(differ.iter().all(|count| *count > 0), "a listed difference is none: {differ:?}");
            assert_eq!(same + differ.iter().sum::<usize>(), 637);
        }
    }

    /// A name is to be read by people: it makes nobody the provider's word on whose account it is.
    async fn what_an_account_was_called_is_its_name_and_no_identity(db: Db) {
        let harbour = Harbour::new(&db).await;
        harbour.bring(SITES[0], header()).await.unwrap();
        let slot = harbour.slot("twitter", Owner::Site, "");
        let connection = accounts::status(&harbour.outside.base, &slot).await.unwrap().unwrap();
        assert_eq!((connection.subject_name.as_deref(), connection.subject), (Some("dm_site"), None));
        assert_eq!(connection.identity, Identity::Unverified);
    }
}

impl Harbour {
    /// What the old API would answer, asked of ours. It ran as user 1, and only `acme` had the policy `principal`.
    async fn answer(&self, provider: &str, call: &str, args: &[Value]) -> Value {
        let id = |at: usize| args.get(at).and_then(Value::as_u64).filter(|id| *id > 0);
        let user = |id: u64| Owner::User(id.to_string().parse().unwrap());
        let agent = |id: u64| Owner::Agent(id.to_string().parse().unwrap());
        match call {
            "get_account" => self.read(provider, Owner::Site, "").await.unwrap_or(json!([])),
            "get_site_account" => self.read(provider, Owner::Site, "").await.unwrap_or(Value::Null),
            "get_account_for_user" => match id(0) {
                Some(id) => self.read(provider, user(id), "").await.unwrap_or(Value::Null),
                None => Value::Null,
            },
            "get_account_for_agent" => match id(0) {
                Some(id) => self.read(provider, agent(id), "").await.unwrap_or(Value::Null),
                None => Value::Null,
            },
            "get_named_account" => {
                let owner = match (args[1].as_str().unwrap(), id(2)) {
                    ("site", _) => Owner::Site,
                    ("user", Some(id)) => user(id),
                    ("agent", Some(id)) => agent(id),
                    _ => return Value::Null,
                };
                match name(&args[0]) {
                    Some(name) => self.read(provider, owner, &name).await.unwrap_or(Value::Null),
                    None => Value::Null,
                }
            }
            "find_named_accounts" => self.find_named(provider, &args[0]).await,
            "get_account_for_policy_context" => {
                for owner in self.owners(provider, Kind::Account, args).await {
                    if let Some(found) = self.read(provider, owner, "").await {
                        return found;
                    }
                }
                Value::Null
            }
            "get_config" => self.read_config(provider, args).await.map_or(json!([]), Value::Object),
            "is_configured" => json!(self.is_configured(provider).await),
            "is_authenticated" => json!(self.is_authenticated(provider).await),
            "get_username" => self.username(provider).await,
            other => panic!("{other} is not known"),
        }
    }

    async fn read(&self, provider: &str, owner: Owner, name: &str) -> Option<Value> {
        self.account(provider, owner, name).await.map(|account| Value::Object(account.expose().clone()))
    }

    async fn read_config(&self, provider: &str, args: &[Value]) -> Option<Map<String, Value>> {
        for owner in self.owners(provider, Kind::Config, args).await {
            if let Some(config) = self.config(provider, &owner).await {
                return Some(config.expose().clone());
            }
        }
        None
    }

    /// Whom the policy chooses, in the order in which it looks. That the site's stands in was set by the import.
    async fn owners(&self, provider: &str, kind: Kind, args: &[Value]) -> Vec<Owner> {
        let given = |name: &str| args.first().and_then(|given| given.get(name)).and_then(Value::as_u64).map(|id| id.to_string());
        let context = Context {
            agent: given("agent_id").map(|id| id.parse().unwrap()),
            user: given("user_id").map(|id| id.parse().unwrap()),
            current_user: Some("1".parse().unwrap()),
            ..Context::default()
        };
        let resolution = scope::resolve(&self.outside, &self.site, &provider.parse().unwrap(), kind, &context).await.unwrap();
        resolution.owners().cloned().collect()
    }

    async fn find_named(&self, provider: &str, wanted: &Value) -> Value {
        let Some(wanted) = name(wanted) else { return json!([]) };
        let filter = connection::Filter { provider: Some(provider.parse().unwrap()), ..connection::Filter::default() };
        let mut found = Vec::new();
        for connection in connection::list(&self.outside.base.db, &self.site, &filter).await.unwrap() {
            if connection.name.as_stored() == wanted {
                let (kind, id) = match &connection.owner {
                    Owner::Site => ("site", 0),
                    Owner::User(id) => ("user", id.as_str().parse::<u64>().unwrap()),
                    Owner::Agent(id) => ("agent", id.as_str().parse::<u64>().unwrap()),
                };
                let account = self.read(provider, connection.owner.clone(), &wanted).await;
                found.push(json!({ "account_name": wanted, "owner_type": kind, "owner_id": id, "account": account }));
            }
        }
        Value::Array(found)
    }

    /// Of the app that the policy gives whoever it ran as.
    async fn is_configured(&self, provider: &str) -> bool {
        let provider = provider.parse().unwrap();
        let context = Context { current_user: Some("1".parse().unwrap()), ..Context::default() };
        let found = app_config::for_context(&self.outside, &self.site, &provider, &context).await.unwrap();
        let definition = self.outside.catalogue.get(&provider).map(AsRef::as_ref);
        found.value.is_some_and(|config| app_config::is_complete(definition, &config))
    }

    /// The site's account, or the one that its configuration holds.
    async fn is_authenticated(&self, provider: &str) -> bool {
        let now = self.outside.base.clock.now();
        for name in ["", "config"] {
            let slot = self.slot(provider, Owner::Site, name);
            if let Some(connection) = accounts::status(&self.outside.base, &slot).await.unwrap() {
                return connection.is_authenticated(now);
            }
        }
        false
    }

    /// What the site's account is called, or the one that its configuration holds.
    async fn username(&self, provider: &str) -> Value {
        for name in ["", "config"] {
            let slot = self.slot(provider, Owner::Site, name);
            if let Some(connection) = accounts::status(&self.outside.base, &slot).await.unwrap() {
                return json!(connection.subject_name);
            }
        }
        Value::Null
    }
}

/// A named account's name as the old API reads it.
fn name(value: &Value) -> Option<String> {
    let name = value.as_str()?.trim().to_lowercase();
    let fine = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    fine.then_some(name)
}
