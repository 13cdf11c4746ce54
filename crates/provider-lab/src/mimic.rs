//! Plays one provider of the world by a [`Script`], under that provider's own host names.
//!
//! It listens on loopback and speaks TLS with a certificate for every host of the script, by an authority that was made
//! for this one run. Whoever tries something out trusts [`Mimic::root_pem`] and leads those hosts here. A caller that opens
//! with plain HTTP gets that, for scripts whose hosts are on loopback.
//!
//! What is asked in another way than the script says is refused, and noted ([`Mimic::complaints`]). Everything of
//! [`Control`] that misbehaves, counts and turns the clock works here too, by the roles of the script: [`crate::At::Code`]
//! is what brings the first tokens, [`crate::At::Userinfo`] the identity.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    ops::Deref,
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    control::Control,
    routes::play::{self, Playing},
    script::{Said, Script},
    serve::Server,
    world::World,
};

/// A text that nobody may get through to the provider: a caller that tries to replace a credential puts it in the
/// credential's place, and the mimic complains when it sees it.
pub const FORGED: &str = "forged-by-the-caller";

/// A running provider. It dereferences to its [`Control`].
#[derive(Debug)]
pub struct Mimic {
    control: Control,
    server: Server,
    playing: Arc<Playing>,
    root_pem: String,
}

impl Mimic {
    /// Starts to play on a free port of loopback.
    ///
    /// # Errors
    /// No port can be bound, or a host is no name of which a certificate can be made.
    pub async fn start(script: Script) -> io::Result<Self> {
        let (root_pem, tls) = certificates(&script.hosts).map_err(io::Error::other)?;
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let world = Arc::new(World::new(listener.local_addr()?));
        let playing = Arc::new(Playing::new(script));
        let router = play::router(world.clone(), playing.clone());
        let server = Server::spawn_secured(listener, router, world.clone(), TlsAcceptor::from(Arc::new(tls)));
        Ok(Self { control: Control::new(world), server, playing, root_pem })
    }

    /// The certificate of the authority that was made for this run, as PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// What was asked in another way than the script says, since this was last asked.
    pub fn complaints(&self) -> Vec<String> {
        self.playing.take_complaints()
    }

    /// Leaves these out of every answer from now on.
    pub fn leave_out(&self, said: &[Said]) {
        self.playing.leave_out(said);
    }

    /// Ends every access token, as a provider does that takes them back early. Refresh tokens stay.
    pub fn end_access_tokens(&self) {
        self.playing.end_access_tokens();
    }

    /// Whether an access token works now.
    pub fn works(&self, access_token: &str) -> bool {
        self.playing.works(access_token, self.control.world.with(|_, now| now))
    }

    /// Stops to play.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

impl Deref for Mimic {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

/// A fresh private key as PEM (PKCS#8), for whoever must sign an assertion: `RS256` or `ES256` (RFC 7518 section 3.1).
///
/// # Errors
/// It is another algorithm, or there are no random bytes.
pub fn private_key(algorithm: &str) -> io::Result<String> {
    let key = match algorithm {
        "RS256" => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        "ES256" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        other => return Err(io::Error::new(io::ErrorKind::Unsupported, format!("the lab makes no key for {other}"))),
    };
    Ok(key.map_err(io::Error::other)?.serialize_pem())
}

/// An authority for this run, and a server that proves itself as any of these hosts.
fn certificates(hosts: &[String]) -> Result<(String, ServerConfig), Box<dyn std::error::Error + Send + Sync>> {
    let mut names: Vec<String> = hosts.iter().map(|host| without_port(host).to_owned()).collect();
    names.sort();
    names.dedup();
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((authority.pem(), config))
}

/// A host without its port. Brackets around an IPv6 address go too.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    }
}
