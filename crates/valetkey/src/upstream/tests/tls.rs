//! Certificates are checked against the name in the URL (R42), and the versions of HTTP are agreed on.

use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::{
    forward::{frames, serve_echo},
    *,
};
use crate::{
    error::Code,
    upstream::{FixedNames, Resolver, Sent},
};

/// A server for `name` with a certificate of a new authority, whose root is given back.
async fn start(name: &str) -> (Server, String, Arc<std::sync::Mutex<Vec<String>>>) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let names = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = names.clone();
    let server = Server::start(move |stream, requests| {
        let (acceptor, heard) = (acceptor.clone(), heard.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            heard.lock().unwrap().push(stream.get_ref().1.server_name().unwrap_or("none").to_owned());
            requests.fetch_add(1, Ordering::SeqCst);
            serve_echo(stream).await;
        }
    })
    .await;
    (server, authority.pem(), names)
}

fn client(entry: &str, roots: Option<&str>) -> Upstream {
    let names = FixedNames::default();
    names.add("provider.example", [vec![LOCAL]]);
    let extra_roots_pem = roots.map(|pem| pem.as_bytes().to_vec());
    Upstream::new(Settings { resolver: Resolver::Fixed(names), extra_roots_pem, ..settings(&[entry]) }).unwrap()
}

/// R42.
#[tokio::test]
async fn a_name_is_secured_as_that_name_though_its_address_is_pinned() {
    let (server, root, names) = start("provider.example").await;
    let entry = format!("provider.example:{}", server.port());
    let client = client(&entry, Some(&root));
    let answer = exchange(&client, &format!("https://{entry}/token")).await.unwrap();
    assert_eq!(answer.body.expose(), b"grant_type=refresh_token");
    assert_eq!(answer.headers["x-version"], "HTTP/1.1");
    assert_eq!(*names.lock().unwrap(), ["provider.example"]);
}

#[tokio::test]
async fn proxied_calls_speak_http_2_where_it_is_offered_and_share_one_connection() {
    let (server, root, _) = start("provider.example").await;
    let entry = format!("provider.example:{}", server.port());
    let client = client(&entry, Some(&root));
    for _ in 0..3 {
        let (body, whole) = frames(50, Duration::ZERO);
        let mut request = Request::post(format!("https://{entry}/x")).body(body).unwrap();
        request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
        let response = client.forward(request).await.unwrap();
        assert_eq!(response.headers()["x-version"], "HTTP/2.0");
        assert_eq!(response.headers()["x-host"], entry);
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "42");
        assert!(collected.to_bytes() == whole);
    }
    assert_eq!(server.connections(), 1);
}

/// R42: another name than the one in the URL, and an authority that is not known.
#[tokio::test]
async fn a_certificate_for_another_name_or_of_an_unknown_authority_is_refused() {
    let (server, root, _) = start("other.example").await;
    let entry = format!("provider.example:{}", server.port());
    let by_address = server.address.to_string();
    let cases =
        [(client(&entry, Some(&root)), &entry), (client(&entry, None), &entry), (client(&by_address, Some(&root)), &by_address)];
    for (client, entry) in cases {
        let url = format!("https://{entry}/");
        let failure = exchange(&client, &url).await.unwrap_err();
        assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamUnreachable, Sent::No));
        let request = Request::get(&url).body(crate::upstream::Body::empty()).unwrap();
        assert_eq!(client.forward(request).await.unwrap_err().code(), Code::UpstreamUnreachable);
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn extra_roots_that_are_no_certificates_are_refused_at_the_start() {
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for pem in ["", "hello", broken] {
        let settings = Settings { extra_roots_pem: Some(pem.as_bytes().to_vec()), ..settings(&[]) };
        assert_eq!(Upstream::new(settings).unwrap_err().code(), Code::InvalidConfig, "{pem}");
    }
}
