//! Which addresses are reached, and that the one that was checked is the one that is used.

use super::*;
use crate::{
    error::Code,
    upstream::{Body, FixedNames, Resolver, Sent},
};

/// An address that counts as public and that nobody answers at: the old 6bone prefix, given back to IANA.
const NOBODY: &str = "3ffe::1";

fn get(url: &str) -> Request<Body> {
    Request::get(url).body(Body::empty()).unwrap()
}

fn with_names(allowed: &[&str], names: &FixedNames) -> Upstream {
    let connect_timeout = Duration::from_millis(500);
    Upstream::new(Settings { resolver: Resolver::Fixed(names.clone()), connect_timeout, ..settings(allowed) }).unwrap()
}

/// R43: also as an IP literal, in odd spellings, and as IPv4-mapped IPv6.
#[tokio::test]
async fn without_an_exception_loopback_is_out_of_reach() {
    let server = Server::ok().await;
    let client = client(&[]);
    let port = server.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "[::]",
        "2130706433",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "127.1",
        "127.0.0.1.",
        "localhost.",
        "a.localhost",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/");
            let failure = exchange(&client, &url).await.unwrap_err();
            assert_eq!((failure.error.code(), failure.sent), (Code::AddressRefused, Sent::No), "{url}");
            assert_eq!(client.forward(get(&url)).await.unwrap_err().code(), Code::AddressRefused, "{url}");
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn the_exact_exception_is_served_and_nothing_beside_it() {
    let (server, other) = (Server::ok().await, Server::ok().await);
    let client = client_of(&server);
    assert_eq!(exchange(&client, &server.url("/")).await.unwrap().body.expose(), b"ok");
    assert_eq!(client.forward(get(&server.url("/"))).await.unwrap().status(), 200);

    let port = server.port();
    let beside = [
        other.url("/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://127.1:{port}/"),
    ];
    for url in beside {
        assert_eq!(exchange(&client, &url).await.unwrap_err().error.code(), Code::AddressRefused, "{url}");
        assert_eq!(client.forward(get(&url)).await.unwrap_err().code(), Code::AddressRefused, "{url}");
    }
    assert_eq!((server.connections(), other.connections()), (2, 0));
}

#[tokio::test]
async fn urls_with_credentials_odd_ports_or_other_schemes_are_refused() {
    let server = Server::ok().await;
    let client = client_of(&server);
    let address = server.address;
    for url in [
        format!("http://u:p@{address}/"),
        format!("ftp://{address}/"),
        "http://127.0.0.1:/".to_owned(),
        "http://127.0.0.1:0/".to_owned(),
    ] {
        assert_eq!(client.forward(get(&url)).await.unwrap_err().code(), Code::AddressRefused, "{url}");
    }
    assert_eq!(server.connections(), 0);
}

/// R43: DNS rebinding. Each connection is one look-up, and goes to what that look-up gave.
#[tokio::test]
async fn a_name_that_answers_differently_the_second_time_gains_nothing() {
    let server = Server::ok().await;
    let names = FixedNames::default();
    names.add("rebind.example", [vec![NOBODY.parse().unwrap()], vec![LOCAL]]);
    let client = with_names(&[], &names);
    let url = format!("https://rebind.example:{}/", server.port());

    let first = exchange(&client, &url).await.unwrap_err();
    assert!(matches!(first.error.code(), Code::UpstreamUnreachable | Code::UpstreamTimeout), "{:?}", first.error);
    assert_eq!((first.sent, names.asked("rebind.example")), (Sent::No, 1));

    let second = exchange(&client, &url).await.unwrap_err();
    assert_eq!((second.error.code(), names.asked("rebind.example")), (Code::AddressRefused, 2));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_connected_to() {
    let server = Server::ok().await;
    let decoy = Server::start_at((Ipv4Addr::new(127, 0, 0, 2), server.port()).into(), |_, _| async {}).await;
    let names = FixedNames::default();
    names.add("pinned.example", [vec![LOCAL], vec![decoy.address.ip()]]);
    let entry = format!("pinned.example:{}", server.port());
    let client = with_names(&[&entry], &names);
    assert_eq!(exchange(&client, &format!("http://{entry}/")).await.unwrap().status, 200);
    assert_eq!((server.connections(), decoy.connections(), names.asked("pinned.example")), (1, 0, 1));
}

#[tokio::test]
async fn of_mixed_answers_only_what_passes_is_tried() {
    let server = Server::ok().await;
    let names = FixedNames::default();
    names.add("mixed.example", [vec![LOCAL, NOBODY.parse().unwrap()]]);
    names.add("two.example", [vec![Ipv4Addr::new(127, 0, 0, 9).into(), LOCAL]]);
    names.add("none.example", [vec![]]);
    let entry = format!("two.example:{}", server.port());
    let client = with_names(&[&entry], &names);

    let mixed = exchange(&client, &format!("https://mixed.example:{}/", server.port())).await.unwrap_err();
    assert!(matches!(mixed.error.code(), Code::UpstreamUnreachable | Code::UpstreamTimeout));
    assert_eq!(server.connections(), 0);

    for name in ["none.example", "unknown.example"] {
        let missing = exchange(&client, &format!("https://{name}/")).await.unwrap_err();
        assert_eq!((missing.error.code(), missing.sent), (Code::UpstreamUnreachable, Sent::No));
    }

    // The first address refuses the connection, the second takes it.
    assert_eq!(exchange(&client, &format!("http://{entry}/")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_pooled_connection_of_an_exception_serves_no_other_name() {
    let server = Server::ok().await;
    let names = FixedNames::default();
    names.add("a.example", [vec![LOCAL]]);
    names.add("b.example", [vec![LOCAL]]);
    let port = server.port();
    let client = with_names(&[&format!("a.example:{port}")], &names);
    client.forward(get(&format!("http://a.example:{port}/"))).await.unwrap();
    for scheme in ["http", "https"] {
        let error = client.forward(get(&format!("{scheme}://b.example:{port}/"))).await.unwrap_err();
        assert_eq!(error.code(), Code::AddressRefused);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_stand_in_answers_for_every_host_that_has_its_exception_and_nobody_else_is_reached() {
    let server = Server::ok().await;
    let resolver = Resolver::StandIn(server.address);
    let allowed = settings(&["provider.example:80", "8.8.8.8:80"]);
    let client = Upstream::new(Settings { resolver, ..allowed }).unwrap();
    for url in ["http://provider.example/token", "http://8.8.8.8/token"] {
        assert_eq!(exchange(&client, url).await.unwrap().body.expose(), b"ok", "{url}");
    }
    // Public over https, and not excepted: it would be spoken to, were there no stand-in.
    for url in ["https://other.example/", "https://9.9.9.9/", "http://provider.example:81/"] {
        let failure = exchange(&client, url).await.unwrap_err();
        assert_eq!((failure.error.code(), failure.sent), (Code::AddressRefused, Sent::No), "{url}");
    }
    assert_eq!(server.connections(), 2);
}
