//! The yardstick of `benches/run`: the smallest JSON answer that axum can give, on the same runtime as the server.
//!
//! `cargo run --release --example hello -- 127.0.0.1:4000`; every method and path is answered alike.

use axum::{Json, Router, routing::any};
use serde::Serialize;

#[derive(Serialize)]
struct Hello {
    hello: &'static str,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let hello = any(|| async { Json(Hello { hello: "world" }) });
    axum::serve(listener, Router::new().route("/{*path}", hello)).await
}
