//! Signing in on another device (RFC 8628).

use std::time::Duration;

use provider_lab::{At, DefinitionOptions, Fault, Rule};
use valetkey::{
    Code,
    connect::{
        Outcome,
        device::{self, Page, Shown},
        session::{self, Created, NewSession, Started},
    },
    db::{Db, testing},
    id::ConnectionId,
    on, on_each_db,
    secret::Secret,
};

use super::world::{OPERATOR, World, alices, of};

/// A world whose provider has the device grant, too.
async fn world_of(db: &Db) -> World {
    World::with(db, &DefinitionOptions { device: true, ..DefinitionOptions::default() }, |text| text).await
}

fn on_a_device(new: NewSession) -> NewSession {
    NewSession { device: true, ..new }
}

/// From a session to the page with the code.
async fn begun(world: &World, new: NewSession) -> (Created, Started, Shown) {
    let new = on_a_device(new);
    let owner = new.owner.clone();
    let link = world.link(new).await;
    let visit = world.open(&link, &owner).await;
    let started = world.approve(&link, &visit).await;
    let Page::Waiting { shown, .. } = page(world, &link, &started.binding.value).await else { panic!("it is over already") };
    (link, started, shown)
}

async fn page(world: &World, link: &Created, binding: &Secret) -> Page {
    device::page(&world.outside, &world.house.site, &link.id, Some(binding)).await.unwrap()
}

/// What the page says became of it.
async fn outcome(world: &World, link: &Created, started: &Started) -> Outcome {
    match page(world, link, &started.binding.value).await {
        Page::Over(ended) => ended.outcome,
        other => panic!("it is not over: {other:?}"),
    }
}

/// Time passes, here and at the provider.
fn pass(world: &World, seconds: u64) {
    world.house.base.clock.advance(Duration::from_secs(seconds));
    world.lab.advance(Duration::from_secs(seconds));
}

/// Looks for flows that are due, and waits for what the provider says. How many were asked for.
async fn look(world: &World) -> usize {
    let asked = device::poll(&world.outside, &world.tasks).await.unwrap();
    let count = asked.len();
    for one in asked {
        one.await.unwrap();
    }
    count
}

async fn state(world: &World, link: &Created) -> (String, Option<ConnectionId>) {
    let status = session::status(&world.house.base, &world.house.site, &link.id).await.unwrap().unwrap();
    (status.state, status.connection)
}

fn questions(world: &World) -> u64 {
    world.lab.requests("token.device_code")
}

async fn flows(db: &Db) -> i64 {
    let (count,): (i64,) = on!(db, |c| sqlx::query_as("SELECT COUNT(*) FROM flows").fetch_one(c).await.unwrap());
    count
}

on_each_db! {
    /// R44: the provider is asked at its interval, and `authorization_pending` means to go on.
    async fn a_person_signs_in_on_another_device(db: Db) {
        let world = world_of(&db).await;
        let (link, started, shown) = begun(&world, alices()).await;
        assert!(shown.verification_uri.ends_with("/device") && !shown.user_code.is_empty());
        assert!(shown.verification_uri_complete.unwrap().expose().contains(shown.user_code.expose()));
        assert_eq!((look(&world).await, questions(&world)), (0, 0), "asked before the interval was over");
        pass(&world, 5);
        assert_eq!((look(&world).await, questions(&world)), (1, 1));
        assert_eq!((look(&world).await, state(&world, &link).await.0.as_str()), (0, "started"));
        pass(&world, 4);
        assert_eq!(look(&world).await, 0, "asked before the interval was over");

        assert!(world.lab.answer_device(shown.user_code.expose(), Some("alice")));
        pass(&world, 1);
        assert_eq!(look(&world).await, 1);
        let (state, connection) = state(&world, &link).await;
        assert_eq!(state, "connected");
        let connection = world.connection(&connection.unwrap()).await;
        assert_eq!((connection.subject.as_deref(), connection.owner.to_string().as_str()), (Some("1001"), "user:alice"));
        assert!(matches!(outcome(&world, &link, &started).await, Outcome::Connected { .. }));
        assert_eq!(flows(&db).await, 0);
        pass(&world, 60);
        assert_eq!((look(&world).await, questions(&world)), (0, 2), "asked after it was over");
    }

    /// R44: every `slow_down` adds five seconds, for good.
    async fn slow_down_adds_five_seconds_each_time(db: Db) {
        let world = world_of(&db).await;
        begun(&world, alices()).await;
        world.lab.misbehave(Rule::always(At::DeviceToken, Fault::oauth("slow_down")).times(2));
        for (passed, asked) in [(5, 1), (5, 0), (4, 0), (1, 1), (10, 0), (4, 0), (1, 1), (14, 0), (1, 1)] {
            pass(&world, passed);
            assert_eq!(look(&world).await, asked, "after {passed} more seconds");
        }
    }

    /// R44: an answer that cannot be understood is asked for again, half as often (section 3.5).
    async fn a_provider_in_trouble_is_asked_less_often(db: Db) {
        let world = world_of(&db).await;
        let (link, _, shown) = begun(&world, alices()).await;
        world.lab.misbehave(Rule::once(At::DeviceToken, Fault::status(503)));
        for (passed, asked) in [(5, 1), (9, 0), (1, 1)] {
            pass(&world, passed);
            assert_eq!(look(&world).await, asked);
        }
        assert!(world.lab.answer_device(shown.user_code.expose(), Some("alice")));
        pass(&world, 10);
        look(&world).await;
        assert_eq!(state(&world, &link).await.0, "connected");
    }

    /// R44: `access_denied` ends it, and nothing is connected.
    async fn a_refusal_on_the_device_ends_it(db: Db) {
        let world = world_of(&db).await;
        let (link, started, shown) = begun(&world, alices()).await;
        assert!(world.lab.answer_device(shown.user_code.expose(), None));
        pass(&world, 5);
        look(&world).await;
        assert_eq!(state(&world, &link).await, ("oauth_denied".to_owned(), None));
        assert!(matches!(outcome(&world, &link, &started).await, Outcome::Failed { code: Code::OauthDenied, .. }));
        assert_eq!((world.connections().await.len(), flows(&db).await), (0, 0));
        assert_eq!(world.audited("connection.connect").await[0].0, "denied");
    }

    /// R44: nobody is asked once the codes are over, whether the provider says so or its own word of their life does.
    async fn nobody_asks_after_the_codes_are_over(db: Db) {
        let world = world_of(&db).await;
        world.lab.misbehave(Rule::once(At::Device, Fault::set("expires_in", 12)));
        let (link, started, _) = begun(&world, alices()).await;
        pass(&world, 5);
        assert_eq!(look(&world).await, 1);
        pass(&world, 7);
        look(&world).await;
        assert_eq!((questions(&world), state(&world, &link).await.0.as_str()), (1, "expired"));
        assert!(matches!(outcome(&world, &link, &started).await, Outcome::Failed { code: Code::InvalidState, .. }));
        assert_eq!(flows(&db).await, 0);

        let (link, ..) = begun(&world, alices()).await;
        world.lab.misbehave(Rule::once(At::DeviceToken, Fault::oauth("expired_token")));
        pass(&world, 5);
        look(&world).await;
        assert_eq!(state(&world, &link).await.0, "expired");
    }

    /// The flow is in the database and nowhere else: of several processes one asks at a time, and one connection comes of it.
    async fn of_several_replicas_one_asks_and_one_connection_comes_of_it(db: Db) {
        let world = world_of(&db).await;
        let (link, _, shown) = begun(&world, alices()).await;
        for round in 1..=3 {
            pass(&world, 5);
            if round == 3 {
                assert!(world.lab.answer_device(shown.user_code.expose(), Some("alice")));
            }
            let looks = (0..6).map(|_| {
                let (outside, tasks) = (world.outside.clone(), world.tasks.clone());
                tokio::spawn(async move {
                    let asked = device::poll(&outside, &tasks).await.unwrap();
                    let count = asked.len();
                    for one in asked {
                        one.await.unwrap();
                    }
                    count
                })
            });
            let mut asked = 0;
            for look in looks.collect::<Vec<_>>() {
                asked += look.await.unwrap();
            }
            assert_eq!((asked, questions(&world)), (1, round));
        }
        assert_eq!((state(&world, &link).await.0.as_str(), world.connections().await.len()), ("connected", 1));
    }

    /// Whoever dies while asking holds nobody up for long.
    async fn a_question_whose_asker_died_is_asked_again(db: Db) {
        let world = world_of(&db).await;
        let (link, _, shown) = begun(&world, alices()).await;
        pass(&world, 5);
        // What a dead process leaves: the question taken, no answer.
        testing::execute(&db, "UPDATE flows SET poll_number = poll_number + 1, poll_at = poll_at + 60000000").await;
        assert_eq!(look(&world).await, 0);
        assert!(world.lab.answer_device(shown.user_code.expose(), Some("alice")));
        pass(&world, 60);
        assert_eq!((look(&world).await, state(&world, &link).await.0.as_str()), (1, "connected"));
    }

    /// The page with the code belongs to the browser that approved.
    async fn the_code_is_shown_to_no_other_browser(db: Db) {
        let world = world_of(&db).await;
        let (link, ..) = begun(&world, alices()).await;
        for binding in [None, Some(Secret::new("x".repeat(43)))] {
            let refused = device::page(&world.outside, &world.house.site, &link.id, binding.as_ref()).await;
            assert_eq!(refused.unwrap_err().code(), Code::NotFound);
        }
        let (sealed,): (Vec<u8>,) = on!(&db, |c| sqlx::query_as("SELECT sealed FROM flows").fetch_one(c).await.unwrap());
        assert!(!String::from_utf8_lossy(&sealed).contains("lab_code_device_"));
    }

    /// Somebody at a terminal is shown the code without a page, once, and not where a browser is bound to the link: to look at it binds
    /// nobody.
    async fn somebody_at_a_terminal_needs_no_browser(db: Db) {
        let world = world_of(&db).await;
        let (site, new) = (world.house.site.clone(), || on_a_device(of("site")));
        let link = world.link(new()).await;
        let shown = device::begin(&world.outside, &site, &OPERATOR, &link.id).await.unwrap();
        let again = device::begin(&world.outside, &site, &OPERATOR, &link.id).await;
        assert_eq!(again.unwrap_err().code(), Code::NotFound);
        assert!(session::visit(&world.outside, &link.link, None).await.is_err(), "the link still works");
        assert!(world.lab.answer_device(shown.user_code.expose(), Some("carol")));
        pass(&world, 5);
        look(&world).await;
        assert_eq!(state(&world, &link).await.0, "connected");

        let seen = world.link(new()).await;
        session::visit(&world.outside, &seen.link, None).await.unwrap();
        device::begin(&world.outside, &site, &OPERATOR, &seen.id).await.unwrap();
        let opened = world.link(on_a_device(alices())).await;
        world.open(&opened, &"user:alice".parse().unwrap()).await;
        let refused = device::begin(&world.outside, &site, &OPERATOR, &opened.id).await;
        assert_eq!(refused.unwrap_err().code(), Code::Forbidden);
        let usual = world.link(of("site")).await;
        let refused = device::begin(&world.outside, &site, &OPERATOR, &usual.id).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidRequest);
    }

    /// Codes that a browser could be led astray with, or that are none, are told at once; the link still works.
    async fn a_provider_without_usable_codes_is_told_of_at_once(db: Db) {
        let world = world_of(&db).await;
        let link = world.link(on_a_device(of("site"))).await;
        let visit = world.open(&link, &"site".parse().unwrap()).await;
        for fault in [
            Fault::status(500),
            Fault::HtmlBody,
            Fault::omit("device_code"),
            Fault::omit("user_code"),
            Fault::set("user_code", "x".repeat(65)),
            Fault::set("verification_uri", "javascript:alert(1)"),
            Fault::set("verification_uri", "http://phish.example/device"),
            Fault::set("device_code", 5),
        ] {
            world.lab.misbehave(Rule::once(At::Device, fault.clone()));
            let page = session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap();
            let refused = session::approve(&world.outside, &link.link, Some(&visit), &page.csrf.unwrap()).await;
            assert_eq!(refused.unwrap_err().code(), Code::UpstreamInvalid, "{fault:?}");
        }
        assert_eq!(flows(&db).await, 0);
        world.approve(&link, &visit).await;
        assert_eq!(flows(&db).await, 1);
    }

    /// An address of the provider's with the code in it is shown only where a browser may go there.
    async fn an_odd_complete_address_is_left_out(db: Db) {
        let world = world_of(&db).await;
        world.lab.misbehave(Rule::once(At::Device, Fault::set("verification_uri_complete", "data:text/html,x")));
        let (_, _, shown) = begun(&world, alices()).await;
        assert!(shown.verification_uri_complete.is_none());
    }

    /// A provider without the device grant says so when the link is asked for.
    async fn a_link_for_another_device_needs_a_provider_that_has_it(db: Db) {
        let world = World::new(&db).await;
        assert_eq!(world.refused(on_a_device(alices())).await, Code::InvalidRequest);
    }
}
