//! Guessing: what costs nothing is refused before anybody is asked, what could be found is found too slowly, and nobody is shut out
//! because somebody else guesses.

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, header};
use serde_json::json;
use valetkey::{
    db::testing,
    id::sha256_hex,
    oauth::{GrantType, NewClient},
    token::TokenHash,
};
use valetkey_http::Peer;

use super::{NOBODY, reveal};
use crate::{
    oauth::{Front, basic, redeeming, refused},
    pages::{HTTPS, Pages, csrf, location, text},
    sessions::OURS,
    support::{Answer, App, As, on_each_db},
};

/// A text of a token's form that is nobody's, without a checksum, as the reference had them.
fn unknown(n: u64) -> As {
    As::Bearer(format!("datamachine_x_{n:064x}"))
}

/// A token as we make them, checksum and all, which nobody was given.
fn never_given(n: u64) -> As {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    let body = format!("vk_{}", URL_SAFE_NO_PAD.encode(bytes));
    let check = &sha256_hex(body.as_bytes())[..6];
    let text = format!("{body}_{check}");
    assert!(TokenHash::of_presented(&text).is_some(), "it is refused for its form already");
    As::Bearer(text)
}

impl Front {
    /// Asks the API from an address that can be told.
    async fn me_from(&self, address: &str, bearer: &str) -> Answer {
        let peer: SocketAddr = format!("{address}:5000").parse().unwrap();
        let request = Request::get("/v1/me").header(header::AUTHORIZATION, format!("Bearer {bearer}"));
        self.send(request.extension(Peer::Tcp(peer)).body(Body::empty()).unwrap()).await
    }
}

on_each_db! {
    /// What the background asks meanwhile is counted with it.
    async fn a_token_with_a_wrong_checksum_costs_no_statement(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let (_, live) = app.token(&agent, json!({})).await;
        let As::Bearer(text) = &live else { unreachable!() };
        let mistyped = As::Bearer(format!("{}{}", &text[..text.len() - 1], if text.ends_with('0') { '1' } else { '0' }));
        let db = &app.broker.base().db;
        let before = testing::asked(db);
        for _ in 0..200 {
            app.get(&mistyped, "/v1/me").await.refused(401, "unauthenticated");
            reveal(&app, &mistyped, &connection, &[]).await.refused(401, "unauthenticated");
            app.get(&mistyped, &format!("/v1/proxy/{connection}/x")).await.refused(401, "unauthenticated");
        }
        let after = testing::asked(db);
        assert!(after.statements - before.statements < 200, "{before:?} {after:?}");
        app.get(&live, "/v1/me").await.expect(200);
    }

    /// The look-up is by the token's SHA-256, which the database keeps unique. Nothing is written, and nothing is asked twice: not
    /// what form it has, not whether it was known once. What the background asks meanwhile is counted with it.
    async fn a_token_that_nobody_has_costs_one_look_up(app: App) {
        let connection = app.account("users/alice", "").await;
        let db = &app.broker.base().db;
        let before = testing::asked(db);
        for n in 0..200 {
            for who in [unknown(n), never_given(n)] {
                reveal(&app, &who, &connection, &[]).await.refused(401, "unauthenticated");
            }
        }
        let after = testing::asked(db);
        let (statements, transactions) = (after.statements - before.statements, after.transactions - before.transactions);
        assert!((400..600).contains(&statements) && transactions < 100, "{statements} {transactions}");
    }

    async fn who_brings_unknown_tokens_without_end_shuts_nobody_out(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let (_, live) = app.token(&agent, json!({})).await;
        for n in 0..300 {
            reveal(&app, &unknown(n), &connection, &[]).await.refused(401, "unauthenticated");
        }
        reveal(&app, &live, &connection, &[]).await.expect(200);
        // They leave no row in the audit, which anybody could fill so.
        let events = app.get(&As::Operator, "/v1/audit?limit=1000").await.expect(200).json();
        assert!(events["events"].as_array().unwrap().len() < 50);
    }

    /// T-127: As little as of unknown ones, or whoever kept one could fill the audit with it.
    async fn what_is_tried_with_a_dead_token_leaves_no_row(app: App) {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "carol", "operator").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal", "proxy"] })).await;
        let (_, live) = app.token(&agent, json!({})).await;
        let (id, revoked) = app.token(&agent, json!({})).await;
        let (_, expired) = app.token(&agent, json!({ "expires_at": app.clock.now().plus(Duration::from_secs(60)) })).await;
        let (_, orphaned) = app.token(&agent, json!({ "person": "carol" })).await;
        app.delete(&As::Operator, &format!("/v1/tokens/{id}")).await.expect(204);
        app.patch(&As::Operator, "/v1/people/carol", json!({ "disabled": true })).await.expect(200);
        app.clock.advance(Duration::from_secs(120));
        for dead in [&revoked, &expired, &orphaned] {
            for named in [connection.as_str(), "http_basic"] {
                for _ in 0..20 {
                    reveal(&app, dead, named, &[]).await.refused(401, "unauthenticated");
                    app.get(dead, &format!("/v1/proxy/{named}/x")).await.refused(401, "unauthenticated");
                }
            }
        }
        reveal(&app, &live, &connection, &[]).await.expect(200);
        // Uses are written in the order in which they came: once the last one is there, so would be those before it.
        let mut recorded = String::new();
        for _ in 0..400 {
            let events = app.get(&As::Operator, "/v1/audit?limit=1000").await.expect(200);
            recorded = String::from_utf8(events.bytes).unwrap();
            if recorded.contains("connection.reveal") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(recorded.contains("connection.reveal"), "the use of the live token is not recorded");
        assert!(!recorded.contains("connection.use"), "{recorded}");
    }

    /// Whoever sits behind the same address waits there with the guesser for a token, and calls on with the one they have.
    async fn who_guesses_at_the_token_endpoint_stops_no_call_of_a_neighbour(front: Front) {
        let client = front.public().await;
        let issued = front.tokens(&client).await;
        let access = issued["access_token"].as_str().unwrap();
        let (mut tries, mut last) = (0, 400);
        while last == 400 {
            tries += 1;
            assert!(tries < 100, "nobody stops the guesser");
            let guess = redeeming(&client, "a guess");
            last = front.post_from("203.0.113.9", "/oauth/token", &guess).await.status.as_u16();
        }
        assert!(last == 429 && tries > 30, "{last} after {tries}");
        front.me_from("203.0.113.9", access).await.expect(200);
        // From anywhere else the client goes on, also the very client that was guessed at.
        let again = [("grant_type", "refresh_token"), ("client_id", client.id.as_str()), ("refresh_token", issued["refresh_token"].as_str().unwrap())];
        let waits = front.post_from("203.0.113.9", "/oauth/token", &again).await.expect(429);
        assert!(waits.headers.contains_key(header::RETRY_AFTER));
        front.post_from("198.51.100.7", "/oauth/token", &again).await.expect(200);
    }

    /// Whoever has a network of IPv6 has an address for each guess. The network waits; nobody outside it does.
    async fn who_guesses_from_ever_new_addresses_of_a_network_waits_and_nobody_else_does(front: Front) {
        let (mut tries, mut last) = (0, 401);
        while last == 401 {
            tries += 1;
            assert!(tries < 2_000, "nobody stops the network");
            // Never the same client, which would wait where it fails again; nor the same /64.
            let claimed = format!("nobody{tries}");
            let guess = [("client_id", claimed.as_str()), ("grant_type", "refresh_token")];
            last = front.post_from(&format!("[2001:db8:1:{tries:x}::1]"), "/oauth/token", &guess).await.status.as_u16();
        }
        assert!(last == 429 && tries > 480, "{last} after {tries}");
        let client = front.public().await;
        let id = client.id.as_str();
        refused(front.post_from("[2001:db8:2::1]", "/oauth/token", &redeeming(&client, "a guess")).await, 400, "invalid_grant");
        front.post_from("[2001:db8:2::1]", "/oauth/device_authorization", &[("client_id", id)]).await.expect(200);
    }

    /// A yes or a no to a code is a guess at it as much as a look is: the first would let the guesser's agent in, the second end
    /// somebody's sign-in.
    async fn codes_of_devices_are_guessed_at_slowly_whatever_is_said_of_them(front: Front) {
        let client = front.public().await;
        let id = client.id.as_str();
        let begun = front.post("/oauth/device_authorization", &[("client_id", id)]).await.expect(200).json();
        let right = begun["user_code"].as_str().unwrap();
        for (user, decision) in [("alice", "allow"), ("bob", "deny")] {
            let mut browser = front.browser(user).await;
            let token = csrf(&browser.get("/oauth/device").await.expect(200));
            let say = |code| {
                let mut form = vec![("csrf", token.as_str()), ("user_code", code), ("decision", decision)];
                form.extend([("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1h")]);
                form
            };
            let (mut tries, mut last) = (0, 404);
            while last == 404 {
                tries += 1;
                assert!(tries < 100, "nobody stops {user}");
                last = browser.post_with("/oauth/device", &say("BBBB-BBBB"), OURS).await.status.as_u16();
            }
            assert_eq!(last, 429, "{user}");
            // Also with the right one, so that it cannot be told from a wrong one.
            browser.post_with("/oauth/device", &say(right), OURS).await.expect(429);
        }
        let poll = [("client_id", id), ("grant_type", GrantType::DeviceCode.as_str()), ("device_code", begun["device_code"].as_str().unwrap())];
        refused(front.post("/oauth/token", &poll).await, 400, "authorization_pending");
    }

    /// Each makes a row, and a client without a secret is anybody.
    async fn who_begins_sign_ins_on_devices_without_end_waits(front: Front) {
        let client = front.public().await;
        let asked = [("client_id", client.id.as_str())];
        let (mut begun, mut last) = (0, 200);
        while last == 200 {
            begun += 1;
            assert!(begun < 100, "nobody stops it");
            last = front.post_from("203.0.113.9", "/oauth/device_authorization", &asked).await.status.as_u16();
        }
        assert!(last == 429 && begun > 30, "{last} after {begun}");
        front.post_from("198.51.100.7", "/oauth/device_authorization", &asked).await.expect(200);
        // A client that proves itself answers for what it begins.
        let new = NewClient { name: "Fleet".to_owned(), confidential: true, grant_types: [GrantType::DeviceCode].into(), ..NewClient::default() };
        let (fleet, secret) = front.client(new).await;
        let proven = basic(fleet.id.as_str(), secret.unwrap().expose());
        for _ in 0..50 {
            front.post_with("/oauth/device_authorization", &[], &[("authorization", &proven)]).await.expect(200);
        }
    }

    /// Sessions, links, states and ids of what waits: whatever is guessed is answered like nothing.
    async fn what_a_browser_guesses_opens_nothing(pages: Pages) {
        let (mut stranger, mut bob) = (pages.browser(), pages.browser());
        for guess in ["A".repeat(43), "_".repeat(43), "alice".to_owned(), "1".to_owned(), String::new()] {
            stranger.jar.insert("__Host-vk_session".to_owned(), guess.clone());
            let home = text(&stranger.get("/").await.expect(200));
            assert!(!home.contains("You are signed in as"), "{guess}");
            stranger.get("/approvals").await.expect(403);
        }
        stranger.jar.clear();
        for link in ["A".repeat(43), "x".to_owned(), "1".to_owned()] {
            stranger.get(&format!("/connect/{link}")).await.expect(404);
        }
        for query in ["state=guess&code=x", "state=guess&error=access_denied", "code=x", "state=&code="] {
            let answer = stranger.get(&format!("/callback/lab?{query}")).await.expect(303);
            let place = location(&answer);
            assert!(place.starts_with("/connect/done?") && !place.contains("outcome=connected"), "{query}: {place}");
        }
        assert_eq!(pages.connections().await, 0);
        bob.enter("bob", "/").await.expect(303);
        for path in ["/approvals/apr_", "/proposals/pro_"] {
            bob.get(&format!("{path}{NOBODY}")).await.expect(404);
            bob.get(&format!("{path}x")).await.expect(404);
        }
        // What a form is bound to is guessed at no better.
        let token = csrf(&bob.get("/").await.expect(200));
        for guess in ["0".repeat(token.len()), token[..token.len() - 1].to_owned(), format!("{token}0"), token.to_uppercase()] {
            bob.post_with("/signout", &[("csrf", &guess)], &[("sec-fetch-site", "same-origin"), ("origin", HTTPS)]).await.expect(403);
        }
        assert!(text(&bob.get("/").await.expect(200)).contains("You are signed in as"));
    }
}
