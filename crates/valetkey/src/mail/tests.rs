//! The login against servers that say what a script says, over real connections on loopback.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufStream},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    provider::{Catalogue, Trust},
    upstream::{FixedNames, Resolver, Settings},
};

const NAME: &str = "mail.example";
const PASSWORD: &str = "canary pass";

/// What a scripted server does next.
#[derive(Clone, Copy)]
enum Act {
    /// Says this.
    Say(&'static str),
    /// Reads a line.
    Hear,
    /// Begins TLS.
    Tls,
    /// Says this until nobody listens.
    SayForever(&'static str),
    /// Waits until the other side is gone.
    Wait,
}
use Act::{Hear, Say, SayForever, Tls, Wait};

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

struct Scripted {
    port: u16,
    root: String,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Scripted {
    async fn start(acts: &[Act]) -> Self {
        Self::start_as(NAME, acts).await
    }

    /// A server with a certificate for `name`, of an authority of its own.
    async fn start_as(name: &str, acts: &[Act]) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heard, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (acts, hears, counts) = (acts.to_vec(), heard.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counts.lock().unwrap() += 1;
                let _ = play(Box::new(stream), &acts, &acceptor, &hears).await;
            }
        });
        Self { port, root: authority.pem(), heard, connections }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// A client that trusts the server's authority and may reach it.
    fn client(&self) -> Upstream {
        client(self.port, Some(&self.root))
    }

    async fn check(&self, provider: &str, account: Value) -> Result<Checked> {
        self.check_by(&self.client(), provider, account).await
    }

    async fn check_by(&self, client: &Upstream, provider: &str, account: Value) -> Result<Checked> {
        let checked = check_within(client, &definition(provider), &map(account), Duration::from_secs(5)).await;
        if let Err(error) = &checked {
            assert!(!format!("{error:?} {error}").contains("canary"), "a secret is in {error:?}");
        }
        checked
    }

    /// A mailbox that is read only.
    fn imap(&self, security: &str) -> Value {
        json!({ "imap_host": NAME, "imap_port": self.port, "imap_encryption": security, "imap_user": "u@x.example", "imap_password": PASSWORD })
    }

    /// One that only sends.
    fn smtp(&self, security: &str) -> Value {
        json!({ "smtp_host": NAME, "smtp_port": self.port, "smtp_encryption": security, "imap_user": "u@x.example", "imap_password": PASSWORD })
    }

    async fn code(&self, account: Value) -> Code {
        self.check("email_imap", account).await.unwrap_err().code()
    }
}

async fn play(stream: Box<dyn Duplex>, acts: &[Act], acceptor: &TlsAcceptor, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut stream = BufStream::new(stream);
    for act in acts {
        match act {
            Say(text) => {
                stream.write_all(text.as_bytes()).await?;
                stream.flush().await?;
            }
            Hear => {
                let mut line = String::new();
                stream.read_line(&mut line).await?;
                heard.lock().unwrap().push(line.trim_end_matches("\r\n").to_owned());
            }
            Tls => {
                let secured: Box<dyn Duplex> = Box::new(acceptor.accept(stream.into_inner()).await?);
                stream = BufStream::new(secured);
            }
            SayForever(text) => loop {
                stream.write_all(text.as_bytes()).await?;
                stream.flush().await?;
            },
            Wait => {
                let mut rest = Vec::new();
                while stream.read_until(b'\n', &mut rest).await? > 0 {
                    rest.clear();
                }
            }
        }
    }
    Ok(())
}

fn client(port: u16, root: Option<&str>) -> Upstream {
    let names = FixedNames::default();
    names.add(NAME, [vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]]);
    Upstream::new(Settings {
        allow_private: vec![format!("{NAME}:{port}").parse().unwrap()],
        extra_roots_pem: root.map(|pem| pem.as_bytes().to_vec()),
        resolver: Resolver::Fixed(names),
        ..Settings::default()
    })
    .unwrap()
}

/// The definition in the catalogue, or one of tokens: `xoauth2`, `oauthbearer`.
fn definition(name: &str) -> Arc<Definition> {
    let catalogue = Catalogue::embedded().unwrap();
    if let Some(known) = catalogue.get(&name.parse().unwrap()) {
        return known.clone();
    }
    let text = format!(
        r#"
extends = "google"

[mail]
check = ["imap_login", "smtp_auth"]
mechanisms = ["{}"]

[fields]
imap_host = {{ label = "h", type = "text", level = "connection" }}
imap_port = {{ label = "p", type = "number", level = "connection" }}
smtp_host = {{ label = "h", type = "text", level = "connection" }}
smtp_port = {{ label = "p", type = "number", level = "connection" }}

[mail.imap]
host = "{{{{field.imap_host}}}}"
port = "{{{{field.imap_port}}}}"
security = "ssl"
operations = ["read"]

[mail.smtp]
host = "{{{{field.smtp_host}}}}"
port = "{{{{field.smtp_port}}}}"
security = "starttls"
operations = ["send"]
"#,
        name.to_ascii_uppercase()
    );
    let name = name.parse().unwrap();
    let catalogue = catalogue.with_text(&name, &text, Trust::Dev).unwrap_or_else(|problems| panic!("{problems:#?}"));
    catalogue.get(&name).unwrap().clone()
}

fn map(account: Value) -> SecretMap {
    SecretMap::new(account.as_object().unwrap().clone())
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

const CAPABLE: &str = "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER\r\nv1 OK done\r\n";
const HELLO: &str = "250-mx.example\r\n250-STARTTLS\r\n250-SIZE 1000\r\n250 AUTH PLAIN LOGIN XOAUTH2\r\n";

#[tokio::test]
async fn an_app_password_logs_in_to_imap_where_tls_begins_at_once() {
    let server = Scripted::start(&[Tls, Say("* OK ready\r\n"), Hear, Say(CAPABLE), Hear, Say("v2 OK in\r\n"), Hear]).await;
    let checked = server.check("email_imap", server.imap("ssl")).await.unwrap();
    assert_eq!(checked.logged_in, [Protocol::Imap]);
    let plain = encoded(&format!("\0u@x.example\0{PASSWORD}"));
    assert_eq!(server.heard()[..2], ["v1 CAPABILITY".to_owned(), format!("v2 AUTHENTICATE PLAIN {plain}")]);
}

#[tokio::test]
async fn starttls_secures_the_connection_before_anything_is_told_and_what_was_offered_before_is_forgotten() {
    let clear = "* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\nv1 OK done\r\n";
    let secured = "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nv3 OK done\r\n";
    let acts = [Say("* OK ready\r\n"), Hear, Say(clear), Hear, Say("v2 OK go\r\n"), Tls, Hear, Say(secured), Hear];
    let server = Scripted::start(&acts).await;
    assert_eq!(server.code(server.imap("tls")).await, Code::LoginRefused);
    assert_eq!(server.heard()[..3], ["v1 CAPABILITY", "v2 STARTTLS", "v3 CAPABILITY"]);

    let acts =
        [Say("220 mx\r\n"), Hear, Say(HELLO), Hear, Say("220 go\r\n"), Tls, Hear, Say(HELLO), Hear, Say("235 in\r\n"), Hear];
    let server = Scripted::start(&acts).await;
    let checked = server.check("email_imap", server.smtp("tls")).await.unwrap();
    assert_eq!(checked.logged_in, [Protocol::Smtp]);
    let plain = encoded(&format!("\0u@x.example\0{PASSWORD}"));
    assert_eq!(server.heard()[1..4], ["STARTTLS".to_owned(), "EHLO [127.0.0.1]".to_owned(), format!("AUTH PLAIN {plain}")]);
}

#[tokio::test]
async fn a_server_without_sasl_is_logged_in_to_by_the_login_command_whatever_the_password_holds() {
    let capable = "* CAPABILITY IMAP4rev1\r\nv1 OK done\r\n";
    let acts = [
        Tls,
        Say("* OK ready\r\n"),
        Hear,
        Say(capable),
        Hear,
        Say("+ go on\r\n"),
        Hear,
        Say("+\r\n"),
        Hear,
        Say("v2 OK in\r\n"),
        Hear,
    ];
    let server = Scripted::start(&acts).await;
    let mut account = server.imap("ssl");
    account["imap_password"] = json!("canary \"ü\\");
    server.check("email_imap", account).await.unwrap();
    assert_eq!(server.heard()[1..4], ["v2 LOGIN {11}", "u@x.example {11}", "canary \"ü\\"]);
}

#[tokio::test]
async fn a_submission_server_that_knows_login_alone_is_told_name_and_password_one_after_the_other() {
    let hello = "250-mx.example\r\n250 AUTH LOGIN\r\n";
    let acts = [
        Tls,
        Say("220-mx\r\n220 ready\r\n"),
        Hear,
        Say(hello),
        Hear,
        Say("334 VXNlcm5hbWU6\r\n"),
        Hear,
        Say("334 UGFzc3dvcmQ6\r\n"),
        Hear,
        Say("235 in\r\n"),
        Hear,
    ];
    let server = Scripted::start(&acts).await;
    server.check("email_imap", server.smtp("ssl")).await.unwrap();
    assert_eq!(server.heard()[1..4], ["AUTH LOGIN".to_owned(), encoded("u@x.example"), encoded(PASSWORD)]);
}

#[tokio::test]
async fn a_wrong_password_is_told_apart_from_a_server_that_is_busy() {
    for (answer, expected) in [
        ("v2 NO [AUTHENTICATIONFAILED] no\r\n", Code::LoginRefused),
        ("v2 NO nothing more is said\r\n", Code::LoginRefused),
        ("v2 NO [UNAVAILABLE] later\r\n", Code::UpstreamUnreachable),
        ("* BYE too many\r\n", Code::UpstreamUnreachable),
        ("v2 BAD what\r\n", Code::UpstreamInvalid),
        ("v9 OK somebody else\r\n", Code::UpstreamInvalid),
    ] {
        let server = Scripted::start(&[Tls, Say("* OK ready\r\n"), Hear, Say(CAPABLE), Hear, Say(answer), Wait]).await;
        assert_eq!(server.code(server.imap("ssl")).await, expected, "{answer}");
        assert_eq!(*server.connections.lock().unwrap(), 1, "{answer}: it is tried once");
    }
    for (answer, expected) in [
        ("535 5.7.8 no\r\n", Code::LoginRefused),
        ("534 5.7.9 app password needed\r\n", Code::LoginRefused),
        ("454 4.7.0 later\r\n", Code::UpstreamUnreachable),
        ("421 bye\r\n", Code::UpstreamUnreachable),
        ("504 what\r\n", Code::UpstreamInvalid),
        ("250 fine\r\n", Code::UpstreamInvalid),
    ] {
        let server = Scripted::start(&[Tls, Say("220 mx\r\n"), Hear, Say(HELLO), Hear, Say(answer), Wait]).await;
        assert_eq!(server.code(server.smtp("ssl")).await, expected, "{answer}");
    }
}

#[tokio::test]
async fn where_starttls_is_taken_out_or_refused_nothing_is_told() {
    for (capable, answer) in [
        ("* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nv1 OK done\r\n", ""),
        ("* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\nv1 OK done\r\n", "v2 NO not today\r\n"),
        ("* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\nv1 OK done\r\n", "v2 BAD what\r\n"),
    ] {
        let server = Scripted::start(&[Say("* OK ready\r\n"), Hear, Say(capable), Hear, Say(answer), Hear]).await;
        assert_eq!(server.code(server.imap("tls")).await, Code::StarttlsMissing, "{capable}{answer}");
        assert!(server.heard().iter().all(|line| !line.contains("AUTH") && !line.contains("LOGIN")), "{:?}", server.heard());
    }
    for (hello, answer) in [("250 AUTH PLAIN\r\n", ""), ("250-STARTTLS\r\n250 AUTH PLAIN\r\n", ""), (HELLO, "454 no\r\n")] {
        let server = Scripted::start(&[Say("220 mx\r\n"), Hear, Say(hello), Hear, Say(answer), Hear]).await;
        assert_eq!(server.code(server.smtp("tls")).await, Code::StarttlsMissing, "{hello}{answer}");
        assert!(server.heard().iter().all(|line| !line.contains("AUTH")), "{:?}", server.heard());
    }
}

/// CVE-2011-0411: what somebody on the way puts behind the agreement must not count as said under TLS.
#[tokio::test]
async fn what_is_said_in_the_clear_after_starttls_ends_the_login() {
    let capable = "* CAPABILITY IMAP4rev1 STARTTLS\r\nv1 OK done\r\n";
    let injected = "v2 OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n";
    let server = Scripted::start(&[Say("* OK ready\r\n"), Hear, Say(capable), Hear, Say(injected), Wait]).await;
    assert_eq!(server.code(server.imap("tls")).await, Code::UpstreamInvalid);
    let server = Scripted::start(&[Say("220 mx\r\n"), Hear, Say(HELLO), Hear, Say("220 go\r\n250 AUTH PLAIN\r\n"), Wait]).await;
    assert_eq!(server.code(server.smtp("tls")).await, Code::UpstreamInvalid);
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_ends_the_login_before_it_began() {
    for account in ["imap ssl", "imap tls", "smtp ssl", "smtp tls"] {
        let (protocol, security) = account.split_once(' ').unwrap();
        let acts: &[Act] = match (protocol, security) {
            (_, "ssl") => &[Tls, Wait],
            ("imap", _) => &[Say("* OK\r\n"), Hear, Say("* CAPABILITY STARTTLS\r\nv1 OK\r\n"), Hear, Say("v2 OK\r\n"), Tls, Wait],
            _ => &[Say("220 mx\r\n"), Hear, Say(HELLO), Hear, Say("220 go\r\n"), Tls, Wait],
        };
        let other = Scripted::start_as("other.example", acts).await;
        let unknown = Scripted::start(acts).await;
        for (server, client) in [(&other, other.client()), (&unknown, client(unknown.port, None))] {
            let account = if protocol == "imap" { server.imap(security) } else { server.smtp(security) };
            let error = server.check_by(&client, "email_imap", account).await.unwrap_err();
            assert_eq!(error.code(), Code::TlsFailed, "{error}");
            assert!(error.message().contains("certificate"), "{error}");
            assert!(server.heard().iter().all(|line| !line.contains("AUTH")));
        }
    }
}

#[tokio::test]
async fn what_is_no_mail_server_is_told_as_that() {
    let server = Scripted::start(&[Say("* OK I speak at once\r\n"), Wait]).await;
    assert_eq!(server.code(server.imap("ssl")).await, Code::TlsFailed);
    for greeting in
        ["HTTP/1.1 400 Bad Request\r\n", "SSH-2.0-x\r\n", "\r\n", "* PREAUTH come in\r\n", "\u{fffd}\u{fffd}\u{fffd}\r\n"]
    {
        let server = Scripted::start(&[Say(greeting), Wait]).await;
        assert_eq!(server.code(server.imap("tls")).await, Code::UpstreamInvalid, "{greeting}");
        assert_eq!(server.code(server.smtp("tls")).await, Code::UpstreamInvalid, "{greeting}");
    }
    let server = Scripted::start(&[Say("220-a\r\n221 b\r\n"), Wait]).await;
    assert_eq!(server.code(server.smtp("tls")).await, Code::UpstreamInvalid);
}

#[tokio::test]
async fn a_server_that_never_ends_a_line_or_an_answer_is_left() {
    const LONG: &str = "* OK xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    let server = Scripted::start(&[SayForever(LONG)]).await;
    assert_eq!(server.code(server.imap("tls")).await, Code::UpstreamInvalid);
    let server = Scripted::start(&[Say("* OK ready\r\n"), SayForever("* 23 EXISTS\r\n")]).await;
    assert_eq!(server.code(server.imap("tls")).await, Code::UpstreamInvalid);
    let server = Scripted::start(&[SayForever("220-and more\r\n")]).await;
    assert_eq!(server.code(server.smtp("tls")).await, Code::UpstreamInvalid);
    let mut asks = vec![Tls, Say("* OK ready\r\n"), Hear, Say(CAPABLE)];
    asks.extend([Hear, Say("+ \r\n")].repeat(9));
    let server = Scripted::start(&asks).await;
    assert_eq!(server.code(server.imap("ssl")).await, Code::UpstreamInvalid);
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_deadline() {
    for acts in [&[Wait][..], &[Say("* OK ready\r\n"), Wait], &[Say("* O"), Wait]] {
        let server = Scripted::start(acts).await;
        let account = map(server.imap("tls"));
        let (client, imap) = (server.client(), definition("email_imap"));
        let check = check_within(&client, &imap, &account, Duration::from_millis(300));
        // The server itself waits for ever.
        let checked = tokio::time::timeout(Duration::from_secs(20), check).await.expect("a wait without an end");
        assert_eq!(checked.unwrap_err().code(), Code::UpstreamTimeout);
    }
}

#[tokio::test]
async fn a_wrong_host_or_port_is_told_with_its_name() {
    let server = Scripted::start(&[Wait]).await;
    let mut account = server.imap("ssl");
    account["imap_host"] = json!("nobody.example");
    let error = server.check("email_imap", account).await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamUnreachable);
    assert!(error.message().starts_with(&format!("IMAP at nobody.example:{}: ", server.port)), "{error}");

    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut account = server.imap("ssl");
    account["imap_port"] = json!(port);
    let error = server.check_by(&client(port, None), "email_imap", account).await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamUnreachable);
}

#[tokio::test]
async fn a_private_address_is_not_spoken_to_without_an_exception_for_that_port() {
    let server = Scripted::start(&[Say("* OK ready\r\n"), Wait]).await;
    for host in [NAME, "127.0.0.1", "[::1]", "localhost", "0x7f.1", "169.254.169.254"] {
        let mut account = server.imap("tls");
        account["imap_host"] = json!(host);
        let error = server.check_by(&client(1, None), "email_imap", account).await.unwrap_err();
        assert_eq!(error.code(), Code::AddressRefused, "{host}");
    }
    assert_eq!(*server.connections.lock().unwrap(), 0);
}

#[tokio::test]
async fn an_account_that_lacks_something_is_told_before_anybody_is_asked() {
    let server = Scripted::start(&[Wait]).await;
    for (member, value) in [
        ("imap_encryption", json!("none")),
        ("imap_port", json!(0)),
        ("imap_port", json!(70_000)),
        ("imap_user", json!("")),
        ("imap_password", Value::Null),
        ("imap_password", json!("a\r\nv3 DELETE INBOX")),
        ("imap_user", json!("a\0b")),
        ("imap_host", json!("")),
    ] {
        let mut account = server.imap("ssl");
        account[member] = value.clone();
        assert_eq!(server.code(account).await, Code::InvalidRequest, "{member} {value}");
    }
    assert_eq!(*server.connections.lock().unwrap(), 0);
}

#[tokio::test]
async fn an_access_token_logs_in_and_a_refusal_of_it_is_heard_to_its_end() {
    let account = |server: &Scripted| json!({ "imap_host": NAME, "imap_port": server.port, "email": "u@x.example", "access_token": "canary-token" });
    let server = Scripted::start(&[Tls, Say("* OK ready\r\n"), Hear, Say(CAPABLE), Hear, Say("v2 OK in\r\n"), Hear]).await;
    assert_eq!(server.check("xoauth2", account(&server)).await.unwrap().logged_in, [Protocol::Imap]);
    let first = encoded("user=u@x.example\x01auth=Bearer canary-token\x01\x01");
    assert_eq!(server.heard()[1], format!("v2 AUTHENTICATE XOAUTH2 {first}"));

    for (mechanism, last) in [("xoauth2", ""), ("oauthbearer", "AQ==")] {
        let acts = [
            Tls,
            Say("* OK\r\n"),
            Hear,
            Say(CAPABLE),
            Hear,
            Say("+ eyJzdGF0dXMiOiI0MDAifQ==\r\n"),
            Hear,
            Say("v2 NO no\r\n"),
            Wait,
        ];
        let server = Scripted::start(&acts).await;
        assert_eq!(server.check(mechanism, account(&server)).await.unwrap_err().code(), Code::LoginRefused, "{mechanism}");
        assert_eq!(server.heard()[2], last, "{mechanism}");
    }

    let acts = [
        Say("220 mx\r\n"),
        Hear,
        Say(HELLO),
        Hear,
        Say("220 go\r\n"),
        Tls,
        Hear,
        Say(HELLO),
        Hear,
        Say("334 e30=\r\n"),
        Hear,
        Say("535 no\r\n"),
        Wait,
    ];
    let server = Scripted::start(&acts).await;
    let account = json!({ "smtp_host": NAME, "smtp_port": server.port, "email": "u@x.example", "access_token": "canary-token" });
    assert_eq!(server.check("xoauth2", account).await.unwrap_err().code(), Code::LoginRefused);
    assert_eq!(server.heard()[3..], [format!("AUTH XOAUTH2 {first}"), String::new()]);
}

/// The example of RFC 7628 section 4.1.
#[test]
fn an_oauthbearer_message_is_that_of_the_rfc() {
    let server = Server {
        protocol: Protocol::Imap,
        host: "server.example.com".to_owned(),
        port: 143,
        security: Security::StartTls,
        user: "user@example.com".to_owned(),
        credential: Credential::Token(Secret::new("vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")),
        operations: Vec::new(),
    };
    let exchange = sasl::choose(&[MailMechanism::Plain, MailMechanism::OAuthBearer], &server, |_| true).unwrap();
    assert_eq!(
        exchange.responses[0].as_str(),
        "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    );
}

#[test]
fn only_the_servers_of_what_is_allowed_are_handed_out() {
    let account = map(json!({
        "imap_host": "imap.x.example", "imap_user": "u", "imap_password": "p", "smtp_host": "smtp.x.example", "smtp_password": "s",
    }));
    let shown = |allowed: &[&str]| revealed(&definition("email_imap"), &account, |operation| allowed.contains(&operation));
    let imap = json!({ "host": "imap.x.example", "port": 993, "security": "ssl", "user": "u", "password": "p" });
    let smtp = json!({ "host": "smtp.x.example", "port": 587, "security": "starttls", "user": "u", "password": "s" });
    assert_eq!(Value::Object(shown(&["read"]).unwrap().expose().clone()), json!({ "imap": imap }));
    assert_eq!(Value::Object(shown(&["send"]).unwrap().expose().clone()), json!({ "smtp": smtp }));
    assert_eq!(Value::Object(shown(&["reply"]).unwrap().expose().clone()), json!({ "imap": imap, "smtp": smtp }));
    assert_eq!(shown(&[]).unwrap_err().code(), Code::NoCredentials);
}

#[test]
fn an_access_token_is_handed_out_with_the_login_made_ready() {
    let account = map(json!({ "imap_host": "imap.x.example", "imap_port": 993, "email": "u@x.example", "access_token": "t" }));
    let shown = revealed(&definition("xoauth2"), &account, |_| true).unwrap();
    assert_eq!(
        Value::Object(shown.expose().clone()),
        json!({ "imap": {
            "host": "imap.x.example", "port": 993, "security": "ssl", "user": "u@x.example", "access_token": "t",
            "mechanism": "XOAUTH2", "initial_response": encoded("user=u@x.example\x01auth=Bearer t\x01\x01"),
        } })
    );
}

#[test]
fn a_mailbox_without_encryption_is_not_handed_out() {
    let account = json!({ "imap_host": "imap.x.example", "imap_encryption": "none", "imap_user": "u", "imap_password": "p" });
    let error = revealed(&definition("email_imap"), &map(account), |_| true).unwrap_err();
    assert_eq!(error.code(), Code::NotAuthenticated);
}
