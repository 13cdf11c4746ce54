//! Who answered: RFC 9207.

use provider_lab::{At, DefinitionOptions, Fault, Rule};
use valetkey::{Code, connect::Outcome, on_each_db};

use super::world::{Stub, TOKENS, World, alices, connected, failure, of};

on_each_db! {
    /// R12: another issuer is refused before any token request, at either of the two token endpoints.
    async fn an_answer_of_another_issuer_leads_to_no_token_request(db: Db) {
        let other = Stub::start(TOKENS).await;
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::always(At::Authorize, Fault::set("iss", format!("http://{}", other.addr))));
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::IssuerMismatch);
        assert_eq!((world.token_requests(), other.seen().len()), (0, 0));
        assert!(world.connections().await.is_empty());
    }

    /// R13: where the provider is known to send `iss`, its absence is refused.
    async fn a_missing_issuer_is_refused_where_one_is_promised(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::once(At::Authorize, Fault::omit("iss")));
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::IssuerMismatch);
        assert_eq!(world.token_requests(), 0);
    }

    /// R14: where nothing is promised and one comes, it is compared all the same; where none comes, that is fine.
    async fn an_issuer_that_nobody_promised_is_compared_all_the_same(db: Db) {
        let silent = |text: String| text.replace("iss_supported = true", "iss_supported = false");
        let world = World::with(&db, &DefinitionOptions::default(), silent).await;
        world.lab.misbehave(Rule::once(At::Authorize, Fault::set("iss", "https://evil.example")));
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::IssuerMismatch);
        assert_eq!(world.token_requests(), 0);

        world.lab.misbehave(Rule::once(At::Authorize, Fault::omit("iss")));
        connected(&world.connect(alices(), "alice").await);
    }

    /// R15: issuers are equal as texts or not at all; form-decoding comes first and is the only thing that does.
    async fn issuers_are_compared_as_plain_texts(db: Db) {
        let named = |text: String| {
            let origin = text.split("issuer = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            text.replace(&format!("issuer = \"{origin}\""), "issuer = \"https://issuer.example/Tenant\"")
        };
        let world = World::with(&db, &DefinitionOptions::default(), named).await;
        for wrong in [
            "https%3A%2F%2Fissuer.example%2FTenant%2F",
            "https%3A%2F%2FISSUER.example%2FTenant",
            "https%3A%2F%2Fissuer.example%2Ftenant",
            "https%3A%2F%2Fissuer.example%3A443%2FTenant",
            "https%3A%2F%2Fissuer.example%2F%2554enant",
            "HTTPS%3A%2F%2Fissuer.example%2FTenant",
            "https%3A%2F%2Fissuer.example%2FTenant%20",
            "",
        ] {
            let started = world.start(alices()).await;
            let query = with_issuer(&world.sign_in(&started, "alice").await, wrong);
            let ended = world.come_back(&query, Some(&started.binding.value)).await;
            assert_eq!(failure(&ended), Code::IssuerMismatch, "{wrong}");
        }
        assert_eq!(world.token_requests(), 0);
        for right in ["https%3A%2F%2Fissuer.example%2FTenant", "https://issuer.example/Tenant", "%68ttps%3a%2f%2fissuer.example/Tenant"] {
            let started = world.start(alices()).await;
            let query = with_issuer(&world.sign_in(&started, "alice").await, right);
            connected(&world.come_back(&query, Some(&started.binding.value)).await);
        }
    }

    /// R16: of an error response of another issuer nothing is acted on and nothing shown.
    async fn an_error_of_another_issuer_says_nothing(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::always(At::Authorize, Fault::Deny { error: "access_denied".into() }));
        world.lab.misbehave(Rule::always(At::Authorize, Fault::set("iss", "https://evil.example")));
        let started = world.start(of("site")).await;
        let query = world.sign_in(&started, "alice").await;
        assert!(query.contains("error=access_denied"));
        let ended = world.come_back(&query, Some(&started.binding.value)).await;
        assert!(matches!(ended.outcome, Outcome::Failed { code: Code::IssuerMismatch, word: None }), "{ended:?}");
        let (outcome, facts) = world.audited("connection.connect").await.remove(0);
        assert_eq!((outcome.as_str(), facts["code"].as_str()), ("failed", Some("issuer_mismatch")));
        assert!(!facts.to_string().contains("denied") && !facts.to_string().contains("evil"));
    }
}

fn with_issuer(query: &str, iss: &str) -> String {
    let rest: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("iss=")).collect();
    format!("{}&iss={iss}", rest.join("&"))
}
