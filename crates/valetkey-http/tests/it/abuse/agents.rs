//! One agent and another: whatever is an agent's own is nothing to the next, of the same person or of somebody else.

use http::Method;
use serde_json::{Value, json};
use valetkey::{
    agent::{self, NewAgent},
    id::AgentId,
    oauth::{GrantType, NewClient},
    principal::Actor,
    token::{self, NewToken},
};

use super::{ACCESS_TOKEN, NOBODY, reveal, told};
use crate::{
    approvals::Asking,
    oauth::{Front, refused, site},
    support::{App, As, on_each_db, text},
};

/// A question about an agent's right to use a connection.
fn question(agent: &str, connection: &str) -> Value {
    json!({
        "subject": { "type": "agent", "id": agent }, "action": { "name": "use" },
        "resource": { "type": "connection", "id": connection },
    })
}

on_each_db! {
    async fn an_agent_meets_nothing_of_anothers_and_cannot_tell_it_from_nothing(app: App) {
        let asking = Asking::new(&app).await;
        let held = asking.hold(&app).await;
        let wish = json!({ "provider": "http_basic", "reason": "to look" });
        let wish = text(&app.post(&asking.token, "/v1/proposals", wish).await.expect(201).json(), "/id");
        let (call, proposal, connection) = (format!("apr_{NOBODY}"), format!("pro_{NOBODY}"), format!("con_{NOBODY}"));
        for (slug, owner) in [("b", "alice"), ("c", "bob")] {
            let agent = app.agent(slug, owner).await;
            let (_, token) = app.token(&agent, json!({ "person": owner })).await;
            for (real, unreal, before, behind) in [
                (&held, &call, "/v1/approvals/", ""),
                (&held, &call, "/v1/approvals/", "?wait=1"),
                (&wish, &proposal, "/v1/proposals/", ""),
                (&asking.connection, &connection, "/v1/proxy/", "/x"),
            ] {
                let answers = [
                    app.get(&token, &format!("{before}{real}{behind}")).await.refused(404, "not_found"),
                    app.get(&token, &format!("{before}{unreal}{behind}")).await,
                ];
                assert_eq!(told(&answers[0], &[real.as_str()]), told(&answers[1], &[unreal.as_str()]), "{before}");
            }
            let answers = [
                reveal(&app, &token, &asking.connection, &[]).await.refused(404, "not_found"),
                reveal(&app, &token, &connection, &[]).await,
            ];
            assert_eq!(told(&answers[0], &[asking.connection.as_str()]), told(&answers[1], &[connection.as_str()]));
            // Nor may it ask about another agent.
            for (about, nobody) in [(&asking.agent, "nobody"), (&agent, agent.as_str())] {
                let answers = [
                    app.post(&token, "/access/v1/evaluation", question(about, &asking.connection)).await.expect(200),
                    app.post(&token, "/access/v1/evaluation", question(nobody, &connection)).await.expect(200),
                ];
                assert_eq!(answers[0].json()["decision"], false);
                assert_eq!(answers[0].bytes, answers[1].bytes, "{answers:?}");
            }
            let wish = json!({ "connection": asking.connection, "reason": "to look", "for_whom": "unattended" });
            app.post(&token, "/v1/proposals", wish).await.refused(404, "not_found");
            let me = app.get(&token, "/v1/me").await.expect(200).json();
            assert_eq!(me["connections"], json!([]));
        }
        let waits = app.get(&As::Operator, &format!("/v1/approvals/{held}")).await.expect(200).json();
        assert_eq!(waits["status"], "pending");
    }

    /// Two agents that must both ask about the same account: the yes to one is none to the other.
    async fn an_approval_is_of_the_agent_that_asked(app: App) {
        let asking = Asking::new(&app).await;
        let held = asking.hold(&app).await;
        let other = app.agent("b", "alice").await;
        app.grant(json!({ "agent": other, "connection": asking.connection, "effect": "ask" })).await;
        let (_, token) = app.token(&other, json!({ "person": "alice" })).await;
        app.post(&As::Operator, &format!("/v1/approvals/{held}/approve"), json!({})).await.expect(200);
        asking.call(&app, &token, Some(&held)).await.refused(404, "not_found");
        asking.call(&app, &token, None).await.expect(202);
        assert_eq!(app.get(&asking.token, &format!("/v1/approvals/{held}")).await.expect(200).json()["status"], "approved");
        // Nothing outside is spoken to here: it left, and did not arrive.
        assert!(asking.call(&app, &asking.token, Some(&held)).await.status.is_server_error());
    }

    async fn an_agent_manages_nothing(app: App) {
        let agent = app.agent("a", "alice").await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let connection = app.account("users/alice", "").await;
        let grant = app.grant(json!({ "agent": agent, "connection": connection, "delivery": ["reveal"] })).await;
        for (method, path, body) in [
            (Method::GET, format!("/v1/agents/{agent}/tokens"), None),
            (Method::POST, format!("/v1/agents/{agent}/tokens"), Some(json!({ "person": "alice" }))),
            (Method::DELETE, format!("/v1/agents/{agent}/tokens"), None),
            (Method::PUT, format!("/v1/agents/{agent}/ceiling"), Some(json!({ "ceiling": null }))),
            (Method::PUT, format!("/v1/agents/{agent}/roles/mallory"), Some(json!({ "role": "admin" }))),
            (Method::POST, "/v1/grants".to_owned(), Some(json!({ "agent": agent, "connection": connection }))),
            (Method::DELETE, format!("/v1/grants/{grant}"), None),
            (Method::GET, "/v1/approvals".to_owned(), None),
            (Method::GET, "/v1/proposals".to_owned(), None),
            (Method::GET, format!("/v1/connections/{connection}"), None),
            (Method::GET, "/v1/providers/http_basic/accounts/users/alice?reveal=true".to_owned(), None),
            (Method::GET, format!("/v1/agents/{agent}/reach"), None),
            (Method::POST, "/v1/explain".to_owned(), Some(json!({ "agent": agent, "connection": connection, "delivery": "proxy" }))),
        ] {
            app.call(&token, method, &path, body, &[]).await.refused(403, "forbidden");
        }
        // Its own token it may end, and no other, not even of its own.
        let (other, _) = app.token(&agent, json!({ "person": "alice" })).await;
        app.delete(&token, &format!("/v1/tokens/{other}")).await.refused(404, "not_found");
        reveal(&app, &token, &connection, &[]).await.expect(200);
    }

    /// A session and a task are named when a token is minted, and by nothing in a call.
    async fn what_is_for_one_session_or_task_is_for_no_other(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let new = json!({ "agent": agent, "connection": connection, "delivery": ["reveal"], "session": "night", "task": "t-1" });
        app.grant(new).await;
        let (_, right) = app.token(&agent, json!({ "person": "alice", "session": "night", "task": "t-1" })).await;
        reveal(&app, &right, &connection, &[]).await.expect(200);
        for wrong in [
            json!({ "person": "alice" }),
            json!({ "person": "alice", "session": "night" }),
            json!({ "person": "alice", "task": "t-1" }),
            json!({ "person": "alice", "session": "day", "task": "t-1" }),
            json!({ "person": "alice", "session": "Night", "task": "t-1" }),
            json!({ "person": "alice", "session": "night", "task": "t-10" }),
            json!({ "person": "alice", "session": "t-1", "task": "night" }),
        ] {
            let (_, token) = app.token(&agent, wrong.clone()).await;
            reveal(&app, &token, &connection, &[]).await.refused(403, "grant_denied");
            let headers = [("valet-session", "night"), ("valet-task", "t-1"), ("x-session", "night"), ("session", "night")];
            reveal(&app, &token, &connection, &headers).await.refused(403, "grant_denied");
            let path = format!("/v1/connections/{connection}/token");
            app.post(&token, &format!("{path}?session=night&task=t-1"), json!({})).await.refused(400, "invalid_request");
            app.post(&token, &path, json!({ "session": "night", "task": "t-1" })).await.refused(400, "invalid_request");
        }
    }

    /// What holds a session back is not shaken off by an exchange, and a client of one agent gets nothing of another's.
    async fn an_exchange_leads_out_of_no_session_and_to_no_other_agent(front: Front) {
        let base = front.broker.base();
        let new = NewAgent { id: None, slug: "other".into(), title: String::new(), owner: Some("alice".parse().unwrap()) };
        let other = agent::create(base, &site(), &Actor::Operator, new).await.unwrap().id;
        let client = |agent: Option<AgentId>| NewClient {
            name: "Backend".to_owned(),
            confidential: true,
            grant_types: [GrantType::TokenExchange].into(),
            agent,
            ..NewClient::default()
        };
        let new = NewToken {
            person: Some("alice".parse().unwrap()),
            session: Some("night".parse().unwrap()),
            task: Some("t-1".parse().unwrap()),
            ..NewToken::default()
        };
        let (_, own) = token::mint(base, &site(), &Actor::Operator, &front.agent, new).await.unwrap();
        let exchange = async |agent: Option<AgentId>| {
            let (client, secret) = front.client(client(agent)).await;
            let secret = secret.unwrap();
            let form = [
                ("grant_type", GrantType::TokenExchange.as_str()),
                ("client_id", client.id.as_str()),
                ("client_secret", secret.expose()),
                ("subject_token", own.expose()),
                ("subject_token_type", ACCESS_TOKEN),
            ];
            front.post("/oauth/token", &form).await
        };
        refused(exchange(Some(other)).await, 400, "invalid_request");
        exchange(None).await.expect(200);
        exchange(Some(front.agent.clone())).await.expect(200);
        let tokens = token::list(&base.db, &site(), &front.agent).await.unwrap();
        assert_eq!(tokens.len(), 3);
        for token in tokens {
            let work = (token.session.map(|name| name.to_string()), token.task.map(|name| name.to_string()));
            assert_eq!(work, (Some("night".to_owned()), Some("t-1".to_owned())));
        }
    }
}
