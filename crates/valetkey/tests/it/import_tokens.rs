//! Every agent token that was written down: outcome, principal, capabilities, scope and reach as recorded, or a difference
//! that is argued.

use serde_json::{Value, json};
use valetkey::{
    agent::{self, Role},
    decision::{self, Authority, Parsed},
    on_each_db,
    principal::{Ceiling, PlatformCeiling},
    token::TokenHash,
};

use crate::moving::{Harbour, SITES, fixture_json, header};

/// Tokens that Data Machine takes and we refuse: their ceiling cannot be read, and it fails open there.
const REFUSED: [&str; 4] = ["caps_garbage_json", "caps_json_string", "caps_empty_string", "caps_json_null"];

on_each_db! {
    async fn every_recorded_token_gives_the_recorded_principal_or_is_refused_for_a_ceiling_that_cannot_be_read(db: Db) {
        let harbour = Harbour::new(&db).await;
        for site in SITES {
            let harbour = harbour.also(site).await;
            harbour.bring_dump(site, header()).await.unwrap();
            let recorded = fixture_json(site, "tokens.json");
            let tokens = recorded["tokens"].as_array().unwrap();
            assert_eq!(tokens.len(), 26);
            let mut refused = Vec::new();
            for token in tokens {
                let (name, expected) = (token["name"].as_str().unwrap(), &token["expected"]);
                let hash = TokenHash::of_presented(token["raw_token"].as_str().unwrap()).unwrap();
                let facts = Authority::new(db.clone()).holder(&hash).await.unwrap();
                let now = harbour.outside.base.clock.now();
                let principal = facts.as_ref().and_then(|facts| decision::principal(facts, now).ok());
                let Some(principal) = principal else {
                    // One 401 for all, as recorded.
                    if expected["outcome"] == "authenticated" {
                        refused.push(name);
                    }
                    continue;
                };
                assert_eq!(expected["outcome"], "authenticated", "{name}");
                assert_eq!(principal.agent.unwrap().as_str(), expected["agent_id"].to_string(), "{name}");
                assert_eq!(principal.user.unwrap().as_str(), expected["acting_user_id"].to_string(), "{name}");
                assert_eq!(principal.token, facts.as_ref().unwrap().token.as_ref().map(|token| token.id.clone()));
                let platform = platform(facts.unwrap().token.clone().unwrap().ceiling);
                assert_eq!(json!(platform.capabilities), expected["allowed_capabilities"], "{name}");
                assert_eq!(scope(&platform), expected["token_scope"], "{name}");
                let editors = ["editor_full", "editor_overreach"].contains(&name);
                assert_eq!(platform.site_scope, editors.then_some(1), "{name}");
            }
            assert_eq!(refused, REFUSED, "{site}");
        }
    }

    /// Whom a token's person reaches is recorded for WordPress, whose administrators reach every agent. Here a person reaches
    /// the agents they own or have a role on, whatever they are elsewhere; and an agent that is no more is reached by nobody.
    async fn a_tokens_person_reaches_the_agents_that_were_recorded_and_an_administrator_only_their_own(db: Db) {
        let harbour = Harbour::new(&db).await;
        for site in SITES {
            let harbour = harbour.also(site).await;
            harbour.bring_dump(site, header()).await.unwrap();
            let recorded = fixture_json(site, "tokens.json");
            let (mut same, mut administrators, mut gone) = (0, 0, 0);
            for token in recorded["tokens"].as_array().unwrap() {
                let expected = &token["expected"];
                let Some(reach) = expected["can_access_agent"].as_object() else { continue };
                let user = expected["acting_user_id"].to_string().parse().unwrap();
                for (id, roles) in reach {
                    for (role, recorded) in roles.as_object().unwrap() {
                        let role: Role = role.parse().unwrap();
                        let ours = match agent::role_of(&db, &harbour.site, &id.parse().unwrap(), &user).await {
                            Ok(held) => held >= Some(role),
                            Err(_) => false,
                        };
                        match recorded.as_bool().unwrap() {
                            recorded if recorded == ours => same += 1,
                            true if id == "5" => gone += 1,
                            // User 1 is the administrator.
                            true if user.as_str() == "1" => administrators += 1,
                            _ => panic!("{} {id} {role}", token["name"]),
                        }
                    }
                }
            }
            assert!(same > 300 && administrators > 0 && gone > 0, "{same} {administrators} {gone}");
        }
    }

    /// T-236.
    async fn a_token_that_its_platform_holds_to_capabilities_uses_accounts_only_with_the_one_for_tools(db: Db) {
        let harbour = Harbour::new(&db).await;
        let site = "single-wpconfig";
        harbour.bring_dump(site, header()).await.unwrap();
        let recorded = fixture_json(site, "tokens.json");
        let mut may = Vec::new();
        for token in recorded["tokens"].as_array().unwrap() {
            let hash = TokenHash::of_presented(token["raw_token"].as_str().unwrap()).unwrap();
            let Some(facts) = Authority::new(db.clone()).holder(&hash).await.unwrap() else { continue };
            if let Some(Parsed::Read(Ceiling { platform: Some(platform), .. })) = &facts.token.as_ref().unwrap().ceiling
                && platform.may_use_accounts()
            {
                may.push(token["name"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(may, ["structured", "editor_full"]);
    }

    /// T-149.
    async fn roles_are_those_that_were_recorded(db: Db) {
        let harbour = Harbour::new(&db).await;
        let site = "single-wpconfig";
        harbour.bring_dump(site, header()).await.unwrap();
        for row in fixture_json(site, "access.json")["user_access"].as_array().unwrap() {
            let (id, user) = (row["agent_id"].to_string().parse().unwrap(), row["user_id"].to_string().parse().unwrap());
            let Ok(roles) = agent::require(&db, &harbour.site, &id).await else {
                assert_eq!(id.as_str(), "5", "only the agent that is no more is missing");
                continue;
            };
            let given = agent::roles(&db, &harbour.site, &roles.id).await.unwrap();
            let given = given.into_iter().find(|access| access.user == user).map(|access| access.role.to_string());
            assert_eq!(json!(given), row["role"], "{row}");
        }
    }
}

fn platform(ceiling: Option<Parsed<Ceiling>>) -> PlatformCeiling {
    match ceiling {
        None => PlatformCeiling::default(),
        Some(Parsed::Read(ceiling)) => ceiling.platform.unwrap_or_default(),
        Some(Parsed::Unreadable) => panic!("a principal with a ceiling that cannot be read"),
    }
}

/// The scope as the old API tells it.
fn scope(platform: &PlatformCeiling) -> Value {
    match (&platform.abilities, &platform.capabilities) {
        (Some(abilities), capabilities) => {
            let mut scope = serde_json::to_value(abilities).unwrap();
            scope["capabilities"] = json!(capabilities);
            scope
        }
        (None, Some(capabilities)) => json!(capabilities),
        (None, None) => Value::Null,
    }
}
