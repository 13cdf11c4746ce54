//! The listeners: who is told to be the operator.

use std::os::unix::net::UnixStream;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use valetkey_http::{Lanes, serve, serve_local};

use crate::support::App;

const ASK: &[u8] = b"GET /v1/sites HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn answer(mut stream: impl std::io::Read + std::io::Write) -> String {
    stream.write_all(ASK).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_socket_is_the_operators_and_the_port_is_not() {
    let app = App::sqlite().await;
    let path = app.dir().join("socket");
    let local = UnixListener::bind(&path).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // They outlive the broker, whose connections may have been opened on them.
    let lanes = Lanes::start().unwrap();
    let (address, shutdown) = (port.local_addr().unwrap(), CancellationToken::new());
    let faces = [
        tokio::spawn(serve_local(local, app.router.clone(), shutdown.clone())),
        tokio::spawn(serve(port, app.router.clone(), lanes.clone(), shutdown.clone())),
    ];
    let over_socket = tokio::task::spawn_blocking(move || answer(UnixStream::connect(path).unwrap())).await.unwrap();
    assert!(over_socket.starts_with("HTTP/1.1 200") && over_socket.contains("default"), "{over_socket}");
    let over_port = tokio::task::spawn_blocking(move || answer(std::net::TcpStream::connect(address).unwrap())).await.unwrap();
    assert!(over_port.starts_with("HTTP/1.1 401"), "{over_port}");
    shutdown.cancel();
    for face in faces {
        face.await.unwrap();
    }
    app.broker.stop().await;
}
