//! Which addresses the broker may speak to (decisions 7, R43, R65b).
//!
//! The guard is asked twice for every connection. Once for the name, before it is looked up: it must be spelled
//! in the one usual way and not belong to a private zone. Once for every address that the look-up gave; the
//! connector then connects to exactly the address that passed, so a name that answers differently the next
//! time (DNS rebinding) gains nothing.
//!
//! Only what is known to be public passes. The lists follow IANA's special-purpose registries
//! (RFC 6890 and its updates); IPv6 outside 2000::/3 is refused whole.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use url::Url;

use crate::error::{Code, Error, Result};

/// What may be reached beside the public internet.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Arc<[AllowPrivate]>,
}

impl Guard {
    /// A guard with the operator's exact exceptions.
    pub fn new(allowed: Vec<AllowPrivate>) -> Self {
        Self { allowed: allowed.into() }
    }

    /// The exceptions, for `doctor`.
    pub fn allowed(&self) -> &[AllowPrivate] {
        &self.allowed
    }

    /// Checks a URL that a person gave for a connection (an instance, a PDS) when it is fixed.
    ///
    /// `https` only, or `http` where an exception names that host and port and the address is loopback. No
    /// credentials, no fragment, no private name, no refused address. A name is not looked up here: what it
    /// leads to is checked at every connect.
    pub fn check_url(&self, url: &Url) -> Result<()> {
        let odd = |message: &'static str| Err(Error::new(Code::InvalidRequest, message));
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return odd("the address must begin with https://"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return odd("the address must not hold a user name or password");
        }
        if url.fragment().is_some() {
            return odd("the address must not hold a fragment");
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return odd("the address names no host");
        };
        let target = self.target(https, host, port)?;
        match target.host {
            Host::Ip(ip) => self.admit(&target, ip),
            Host::Name(_) => Ok(()),
        }
    }

    /// Checks the name of a host before it is looked up.
    pub(super) fn target(&self, https: bool, host: &str, port: u16) -> Result<Target> {
        let host: Host = host.parse()?;
        let excepted = self.allowed.iter().any(|entry| entry.port == port && entry.host == host);
        let target = Target { host, port, https, excepted };
        if port == 0 {
            return Err(target.refused("port 0"));
        }
        if !https && !excepted {
            return Err(target.refused("http without an exception"));
        }
        match &target.host {
            Host::Name(name) if !excepted && is_private_name(name) => Err(target.refused("a private name")),
            _ => Ok(target),
        }
    }

    /// Checks one address that the target's name led to.
    pub(super) fn admit(&self, target: &Target, ip: IpAddr) -> Result<()> {
        let admitted = match Kind::of(ip) {
            Kind::Public => target.https,
            // Plain http leaves the machine unprotected unless it stays on it (R42).
            Kind::Loopback => target.excepted,
            Kind::Private => target.excepted && target.https,
            Kind::Never => false,
        };
        if admitted { Ok(()) } else { Err(target.refused(ip)) }
    }
}

/// One exact exception, `HOST:PORT`: a request whose URL has this host and port may connect to the private or
/// loopback address that it leads to. Link-local addresses (cloud metadata), multicast and the like are never
/// admitted, and plain `http` is admitted to loopback only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowPrivate {
    /// The host as it stands in the URL.
    pub host: Host,
    /// The port, 1 to 65535.
    pub port: u16,
}

impl FromStr for AllowPrivate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            Some(Self { host: host.parse().ok()?, port: port.parse().ok().filter(|port| *port > 0 && digits)? })
        });
        parsed.ok_or_else(|| {
            Error::new(
                Code::InvalidConfig,
                format!("`{text}` is not a host and port; write for example `127.0.0.1:8080` or `[::1]:8080`"),
            )
        })
    }
}

impl fmt::Display for AllowPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A host in its one usual spelling: a lower-case name, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name without a trailing dot.
    Name(String),
    /// An address; `[...]` around IPv6 is not kept.
    Ip(IpAddr),
}

impl FromStr for Host {
    type Err = Error;

    /// Reads a host as it stands in a URL. Everything that the C resolver would take for an address in another
    /// spelling (`2130706433`, `0177.0.0.1`, `0x7f.1`, `127.1`) is refused, and so is a trailing dot.
    fn from_str(text: &str) -> Result<Self> {
        let odd = || Error::new(Code::AddressRefused, "the host is not spelled as a plain name or address");
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return inner.parse::<Ipv6Addr>().map(|ip| Self::Ip(ip.into())).map_err(|_| odd());
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        let good_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        let last = text.rsplit('.').next().unwrap_or_default();
        let like_a_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
        if text.len() > 253 || !text.split('.').all(good_label) || like_a_number {
            return Err(odd());
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// A host and port that may be looked up, and what its addresses may be.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
    https: bool,
    excepted: bool,
}

impl Target {
    fn refused(&self, why: impl fmt::Display) -> Error {
        // The caller is not told the address: that would make us a look-up service for private zones.
        let message = format!(
            "{}:{} is not a public address reached over https; an operator can admit it with --allow-private",
            self.host, self.port
        );
        Error::new(Code::AddressRefused, message).with_detail(format_args!("{}:{}: {why}", self.host, self.port))
    }
}

/// Names that lead into a private zone by their nature (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`), and
/// names of one label, which a search list would complete.
fn is_private_name(name: &str) -> bool {
    const ZONES: [&str; 6] = ["localhost", "local", "internal", "home.arpa", "localdomain", "lan"];
    !name.contains('.') || ZONES.iter().any(|zone| name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.')))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    Loopback,
    Private,
    /// Not even by an exception: nothing there is a provider.
    Never,
}

impl Kind {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        let bits = u32::from(ip);
        let row = V4.iter().find(|(net, length, _)| (bits ^ u32::from(*net)) >> (32 - length) == 0);
        row.map_or(Self::Public, |(_, _, kind)| *kind)
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let bits = u128::from(ip);
        // The well-known NAT64 prefix (RFC 6052) is how a DNS64 network reaches an IPv4 provider: what counts is
        // the address inside. Nothing private may travel so, not by an exception either.
        if bits >> 32 == u128::from(NAT64) >> 32 {
            #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the embedded address")]
            let inner = Ipv4Addr::from(bits as u32);
            return if Self::of_v4(inner) == Self::Public { Self::Public } else { Self::Never };
        }
        let row = V6.iter().find(|(net, length, _)| (bits ^ u128::from(*net)) >> (128 - length) == 0);
        row.map_or(Self::Never, |(_, _, kind)| *kind)
    }
}

const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// First match counts; what is not listed is public.
const V4: &[(Ipv4Addr, u32, Kind)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, Kind::Never),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Kind::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Kind::Private),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Kind::Loopback),
    // Azure's host services answer here, from within every virtual machine.
    (Ipv4Addr::new(168, 63, 129, 16), 32, Kind::Never),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Kind::Never),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Kind::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Kind::Never),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Kind::Never),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Kind::Never),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Kind::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Kind::Never),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Kind::Never),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Kind::Never),
    (Ipv4Addr::new(224, 0, 0, 0), 3, Kind::Never),
];

/// First match counts; what is not listed is refused.
const V6: &[(Ipv6Addr, u32, Kind)] = &[
    (Ipv6Addr::LOCALHOST, 128, Kind::Loopback),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Kind::Private),
    // IETF assignments: Teredo, ORCHID, benchmarks. Teredo and 6to4 hide an IPv4 address and are dead.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Kind::Never),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Kind::Never),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, Kind::Never),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Kind::Never),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Kind::Public),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(ip: &str) -> Kind {
        Kind::of(ip.parse().unwrap())
    }

    /// R43.
    #[test]
    fn addresses_of_version_4_are_told_apart() {
        for ip in ["8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"] {
            assert_eq!(kind(ip), Kind::Public, "{ip}");
        }
        for ip in [
            "128.0.0.1",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
        ] {
            assert_eq!(kind(ip), Kind::Public, "{ip}");
        }
        for ip in ["127.0.0.1", "127.0.0.0", "127.255.255.255"] {
            assert_eq!(kind(ip), Kind::Loopback, "{ip}");
        }
        for ip in ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.100.100.200"] {
            assert_eq!(kind(ip), Kind::Private, "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert_eq!(kind(ip), Kind::Never, "{ip}");
        }
    }

    /// R43.
    #[test]
    fn addresses_of_version_6_are_told_apart() {
        for ip in ["2606:4700::1111", "2a00:1450::1", "2001:4860::8888", "2400::1", "64:ff9b::8.8.8.8"] {
            assert_eq!(kind(ip), Kind::Public, "{ip}");
        }
        assert_eq!(kind("::1"), Kind::Loopback);
        for ip in ["fc00::1", "fd00:ec2::254", "fdff::1"] {
            assert_eq!(kind(ip), Kind::Private, "{ip}");
        }
        for ip in [
            "::",
            "::2",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "3fff::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:10::1",
            "2001:2::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "5f00::1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "4000::1",
            "8000::1",
        ] {
            assert_eq!(kind(ip), Kind::Never, "{ip}");
        }
    }

    /// R43.
    #[test]
    fn odd_spellings_of_an_address_are_no_host() {
        for text in [
            "2130706433",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "127.1",
            "127.0.1",
            "127.0.0.0x1",
            "0",
            "127.0.0.1.",
            "127.0.0.256",
            "1.2.3.4.5",
            "example.com.",
            "localhost.",
            ".example.com",
            "a..b",
            "",
            ".",
            "[::1",
            "::1",
            "[::1%25lo]",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "exa mple.com",
            "ex\u{e4}mple.com",
            "\u{ff11}27.0.0.1",
            "a/b",
            "a@b",
            "a:b",
            "[]",
        ] {
            let error = text.parse::<Host>().unwrap_err();
            assert_eq!(error.code(), Code::AddressRefused, "{text}");
        }
        for long in ["a".repeat(64), format!("{}.com", "a.".repeat(130))] {
            assert!(long.parse::<Host>().is_err());
        }
        for (text, shown) in
            [("API.Example.com", "api.example.com"), ("127.0.0.1", "127.0.0.1"), ("[0:0::1]", "[::1]"), ("x_y.de", "x_y.de")]
        {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn private_names_are_refused_before_they_are_looked_up() {
        let guard = Guard::default();
        for name in ["localhost", "a.localhost", "db.internal", "printer.local", "x.home.arpa", "metadata", "LOCALHOST", "a.lan"]
        {
            assert_eq!(guard.target(true, name, 443).unwrap_err().code(), Code::AddressRefused, "{name}");
        }
        for name in ["localhost.com", "internal.example.com", "notlocal.com", "xinternal.io"] {
            guard.target(true, name, 443).unwrap();
        }
        assert!(guard.target(true, "example.com", 0).is_err());
        assert!(guard.target(false, "example.com", 80).is_err());
    }

    #[test]
    fn an_exception_counts_for_its_host_and_port_only() {
        let guard =
            Guard::new(vec!["localhost:8080".parse().unwrap(), "10.0.0.5:443".parse().unwrap(), "[::1]:9".parse().unwrap()]);
        let loopback = "127.0.0.1".parse().unwrap();
        let target = guard.target(false, "LocalHost", 8080).unwrap();
        guard.admit(&target, loopback).unwrap();
        guard.target(true, "[::1]", 9).unwrap();
        for (host, port) in [("localhost", 8081), ("127.0.0.1", 8080), ("a.localhost", 8080), ("[::ffff:127.0.0.1]", 8080)] {
            let refused = guard.target(true, host, port).and_then(|target| guard.admit(&target, loopback));
            assert_eq!(refused.unwrap_err().code(), Code::AddressRefused, "{host}:{port}");
        }
        // Plain http stays on the machine (R42); metadata and the like are nobody's provider.
        let private = "10.0.0.5".parse().unwrap();
        guard.admit(&guard.target(true, "10.0.0.5", 443).unwrap(), private).unwrap();
        assert!(guard.admit(&guard.target(false, "10.0.0.5", 443).unwrap(), private).is_err());
        for never in ["169.254.169.254", "0.0.0.0", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "224.0.0.1", "fe80::1"] {
            assert!(guard.admit(&target, never.parse().unwrap()).is_err(), "{never}");
        }
        // A public address over plain http neither.
        assert!(guard.admit(&target, "8.8.8.8".parse().unwrap()).is_err());
    }

    #[test]
    fn a_refusal_does_not_tell_the_address() {
        let guard = Guard::default();
        let target = guard.target(true, "inside.example.com", 443).unwrap();
        let error = guard.admit(&target, "10.1.2.3".parse().unwrap()).unwrap_err();
        assert!(!error.message().contains("10.1.2.3"), "{}", error.message());
        assert!(error.detail().unwrap().contains("10.1.2.3"));
    }

    #[test]
    fn exceptions_are_read_exactly() {
        for text in ["127.0.0.1:8080", "[::1]:8080", "localhost:1", "db.internal:5432"] {
            assert_eq!(text.parse::<AllowPrivate>().unwrap().to_string(), text);
        }
        for text in [
            "127.0.0.1",
            "localhost",
            "localhost:0",
            "localhost:+80",
            "localhost:65536",
            ":80",
            "*:80",
            "127.1:80",
            "::1:80",
            "a:b:80",
            "10.0.0.0/8:80",
        ] {
            assert_eq!(text.parse::<AllowPrivate>().unwrap_err().code(), Code::InvalidConfig, "{text}");
        }
    }

    #[test]
    fn a_url_given_by_a_person_is_checked_when_it_is_fixed() {
        let guard = Guard::new(vec!["127.0.0.1:8080".parse().unwrap()]);
        let check = |url: &str| guard.check_url(&Url::parse(url).unwrap()).map_err(|error| error.code());
        for url in [
            "https://mastodon.social",
            "https://pds.example.com:8443/",
            "https://8.8.8.8/",
            "http://127.0.0.1:8080/",
            "https://127.0.0.1:8080/",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in ["ftp://a.example/", "https://u@a.example/", "https://u:p@a.example/", "https://a.example/#x", "mailto:a@b.c"]
        {
            assert_eq!(check(url), Err(Code::InvalidRequest), "{url}");
        }
        for url in [
            "http://mastodon.social",
            "https://127.0.0.1/",
            "http://127.0.0.1:8081/",
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://0x7f.1/",
            "https://127.1/",
            "https://127.0.0.1./",
            "https://[::ffff:127.0.0.1]/",
            "https://[::1]/",
            "https://169.254.169.254/",
            "https://localhost/",
            "https://a.internal/",
            "https://a.example./",
            "https://\u{ff11}27.0.0.1/",
            "https://10.0.0.1/",
            "https://[fd00::1]/",
            "https://nas/",
        ] {
            assert_eq!(check(url), Err(Code::AddressRefused), "{url}");
        }
    }
}
