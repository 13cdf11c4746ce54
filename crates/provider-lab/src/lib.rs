//! A stand-in outside world for `valetkey dev`, `valetkey provider try` and the tests.
//!
//! A [`Mimic`] plays a provider of the world under that provider's own names, by a [`script`]. The rest is about the [`Lab`]:
//!
//! One plain-http listener on loopback plays an OAuth 2.0 authorization server, a small social network behind bearer
//! tokens, and every kind of provider that behaves badly:
//!
//! 1. [`Lab::start`] binds a loopback address and serves it until [`Lab::stop`] or until the value is dropped.
//! 2. A broker connects with the definition that [`Control::definition_toml`] prints, as `lab-client` with the secret
//!    `lab-secret` or as any client registered with [`Control::register`].
//! 3. A test says what shall go wrong ([`Control::misbehave`]), and afterwards asks what happened
//!    ([`Control::refresh_requests`], [`Control::spends_of_refresh_token`], [`Control::log`], ...).
//! 4. A test in another process does both over HTTP, under `/lab/` (see [`Control`] for the list of routes).
//!
//! Every credential the lab makes is random and begins with `lab_` ([`ACCESS_PREFIX`], [`REFRESH_PREFIX`],
//! [`CODE_PREFIX`]), so that a canary test can search for them anywhere. The lab writes no log of its own, and its
//! records hold SHA-256 fingerprints ([`fingerprint`]) where a credential would stand.
//!
//! It also plays providers whose accounts are made of entered values: sessions, logins, signed assertions, client
//! credentials and a static key ([`Control::session_definition`] and its neighbours).
//!
//! Everything is in memory and bounded: old log lines, tokens and posts are forgotten.
//!
//! Under `/oauth1/` it plays an OAuth 1.0a provider (RFC 5849) for the same clients and people: HMAC-SHA1 and HMAC-SHA256
//! signatures are checked for real, nonces work once, and [`DefinitionOptions::oauth1`] prints the definition for it.
//!
//! Not played yet: PAR and DPoP.

mod control;
mod definition;
mod entered;
mod fault;
mod mimic;
mod moment;
mod oauth1;
mod params;
mod records;
mod routes;
pub mod script;
mod serve;
mod settings;
mod signature;
mod tokens;
mod world;

use std::{io, net::SocketAddr, ops::Deref, sync::Arc};

pub use control::{Control, Issued};
pub use definition::DefinitionOptions;
pub use entered::{APP_PASSWORD, INSTALLATION, Signing};
pub use fault::{At, Fault, Rule};
pub use mimic::{FORGED, Mimic, private_key};
pub use records::{Counters, FamilyState, LogEntry, RevokedToken};
pub use settings::{Client, ClientAuth, PEOPLE, Person, Rotation, Settings};
pub use tokens::FamilyEnd;
pub use world::fingerprint;

/// What every access token of the lab begins with.
pub const ACCESS_PREFIX: &str = "lab_at_";
/// What every refresh token of the lab begins with.
pub const REFRESH_PREFIX: &str = "lab_rt_";
/// What every authorization code of the lab begins with.
pub const CODE_PREFIX: &str = "lab_code_";
/// What every temporary token of the lab begins with, and its secret.
pub const TEMPORARY_PREFIX: &str = "lab_tt_";
/// What every verifier of the lab begins with.
pub const VERIFIER_PREFIX: &str = "lab_ver_";
/// The client that exists from the start.
pub const CLIENT_ID: &str = "lab-client";
/// The secret of [`CLIENT_ID`].
pub const CLIENT_SECRET: &str = "lab-secret";
/// The static key that `/api/key` accepts.
pub const API_KEY: &str = "lab-key";

/// A running lab. It dereferences to its [`Control`], so that a test may write `lab.refresh_requests()`.
#[derive(Debug)]
pub struct Lab {
    control: Control,
    server: serve::Server,
}

impl Lab {
    /// Starts a lab on `listen`; port 0 takes a free one. Only a loopback address is accepted: anybody who reaches the
    /// lab can sign in as anybody.
    ///
    /// # Errors
    /// The address is not loopback, or cannot be bound.
    pub async fn start(listen: SocketAddr) -> io::Result<Self> {
        if !listen.ip().is_loopback() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the lab listens on a loopback address only"));
        }
        let listener = tokio::net::TcpListener::bind(listen).await?;
        let world = Arc::new(world::World::new(listener.local_addr()?));
        let server = serve::Server::spawn(listener, routes::router(world.clone()), world.clone());
        Ok(Self { control: Control::new(world), server })
    }

    /// The bound address, with its real port.
    pub fn addr(&self) -> SocketAddr {
        self.control.addr()
    }

    /// A handle that steers and asks the lab; it may be cloned and outlive this value.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Stops accepting, lets running answers finish for at most a second, then closes what is left. Requests that were
    /// told to hang are dropped at once.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

impl Deref for Lab {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}
