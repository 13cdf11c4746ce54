//! Saving accounts concurrently (promise 9): ten thousand different ones lose none, many writers of one never mix two
//! versions, and what was confirmed is there after a `kill -9`. Through the account face of the real binary; on PostgreSQL
//! across two replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    scene::{Answer, On, Scene, all, ask, on_each},
    support::Server,
};

/// How many are saved.
const MANY: usize = 10_000;
/// How many connections each replica is asked over. It works on 256 requests of each at a time; the others wait their turn in it.
const LINES: usize = 4;

/// Does something for every number below `MANY`, all at once, at the replicas in turn. By HTTP/2, so that this takes a few sockets and
/// not ten thousand, which a machine need not allow.
async fn for_many(scene: &Scene, method: Method, body: fn(usize) -> Option<Value>, check: fn(usize, &Answer)) {
    // Whoever is last waits for all the others.
    let patient =
        || reqwest::Client::builder().http2_prior_knowledge().no_proxy().timeout(Duration::from_secs(600)).build().unwrap();
    let replicas = || scene.replicas.iter().map(Server::url);
    let lines: Vec<(String, reqwest::Client)> = (0..LINES).flat_map(|_| replicas().map(|url| (url, patient()))).collect();
    let query = if method == Method::GET { "?reveal=true" } else { "" };
    all((0..MANY).map(|n| {
        let (url, http) = lines[n % lines.len()].clone();
        let (key, method) = (scene.key.key.clone(), method.clone());
        async move {
            let url = format!("{url}/v1/providers/lab/accounts/users/u{n}{query}");
            let answer = ask(&http, &url, &key, method, body(n)).await.unwrap();
            check(n, &answer);
        }
    }))
    .await;
}

fn account(n: usize) -> Value {
    json!({ "access_token": format!("at-{n}"), "refresh_token": format!("rt-{n}"), "note": n })
}

/// All members of an account that are marked, and must be by the same writer.
fn marks(account: &Value) -> Vec<&Value> {
    ["access_token", "refresh_token", "first", "second", "third"].map(|member| &account[member]).to_vec()
}

on_each! {
    async fn ten_thousand_saves_of_different_accounts_at_once_lose_none(on: On) {
        let scene = Scene::usual(on).await;
        for_many(&scene, Method::PUT, |n| Some(json!({ "account": account(n) })), |n, answer| {
            assert!(answer.status.is_success(), "{n}: {answer:?}");
        })
        .await;
        for_many(&scene, Method::GET, |_| None, |n, answer| {
            assert_eq!((answer.status, &answer.body["account"]), (StatusCode::OK, &account(n)), "{n}");
        })
        .await;
    }

    async fn saves_of_one_account_never_mix_two_versions(on: On) {
        const WRITERS: usize = 8;
        const EACH: usize = 40;
        let scene = Scene::usual(on).await;
        let path = "/v1/providers/lab/accounts/users/u1";
        let url = |n: usize| scene.replicas[n % scene.replicas.len()].at(path);
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|n| {
                let (url, http, key, done) = (format!("{}?reveal=true", url(n)), scene.http.clone(), scene.key.key.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut seen = 0;
                    while !done.load(Ordering::Relaxed) {
                        let answer = ask(&http, &url, &key, Method::GET, None).await.unwrap();
                        if answer.status != StatusCode::OK {
                            assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "no_per_user_credentials"), "{answer:?}");
                            continue;
                        }
                        let marks = marks(&answer.body["account"]);
                        assert!(marks[0].is_string() && marks.iter().all(|mark| *mark == marks[0]), "mixed: {answer:?}");
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        let written = all((0..WRITERS).map(|writer| {
            let (url, http, key) = (format!("{}?replace=true", url(writer)), scene.http.clone(), scene.key.key.clone());
            async move {
                let mut written = Vec::new();
                for n in 0..EACH {
                    let mark = format!("{writer}-{n}");
                    let account = json!({ "access_token": mark, "refresh_token": mark, "first": mark, "second": mark, "third": mark });
                    let answer = ask(&http, &url, &key, Method::PUT, Some(json!({ "account": account }))).await.unwrap();
                    // Two at once: one of them may be told to look again.
                    if answer.status != StatusCode::CONFLICT {
                        assert!(answer.status.is_success(), "{answer:?}");
                        written.push(mark);
                    }
                }
                written
            }
        }))
        .await
        .concat();
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.await.unwrap() > 0, "nobody read while it was written");
        }
        let answer = scene.call(0, &scene.key.key, Method::GET, &format!("{path}?reveal=true"), None).await;
        let marks = marks(&answer.body["account"]);
        assert!(marks.iter().all(|mark| *mark == marks[0]) && written.iter().any(|mark| marks[0] == mark), "{answer:?}");
        // Every save that was confirmed is one version; no other is.
        assert_eq!(answer.body["version"], written.len());
    }

    async fn what_was_confirmed_is_there_after_a_kill(on: On) {
        let mut scene = Scene::usual(on).await;
        let url = |n: usize| scene.replicas[n % scene.replicas.len()].at("/v1/providers/lab/accounts/users");
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let (url, http, key) = (url(writer), scene.http.clone(), scene.key.key.clone());
                tokio::spawn(async move {
                    let mut confirmed = Vec::new();
                    for n in (writer..).step_by(16) {
                        let body = Some(json!({ "account": account(n) }));
                        match ask(&http, &format!("{url}/u{n}"), &key, Method::PUT, body).await {
                            Ok(answer) if answer.status.is_success() => confirmed.push(n),
                            Ok(answer) => panic!("{answer:?}"),
                            // It is dead.
                            Err(_) => break,
                        }
                    }
                    confirmed
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::mem::take(&mut scene.replicas).into_iter().for_each(Server::kill);
        let mut confirmed = Vec::new();
        for writer in writers {
            confirmed.extend(writer.await.unwrap());
        }
        let again = scene.spawn(&scene.public_address(), &[]).await;
        scene.replicas.push(again);
        assert!(confirmed.len() > 16, "hardly anything was saved before the kill");
        for n in confirmed {
            let path = format!("/v1/providers/lab/accounts/users/u{n}?reveal=true");
            let answer = scene.call(0, &scene.key.key, Method::GET, &path, None).await;
            assert_eq!((answer.status, &answer.body["account"]), (StatusCode::OK, &account(n)), "{n}");
        }
    }
}
