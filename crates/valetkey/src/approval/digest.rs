//! What a call is told by: a keyed digest of everything that is to go out.
//!
//! It is an HMAC-SHA-256 with a key of the site's own, so that a stolen database does not let anybody guess at short bodies.
//! Every part has its length before it, so that no two calls spell the same text. What is not in it can be changed after
//! the approval; so everything is in it that a provider may read an order from, headers too (some take their parameters in
//! one), and only those headers are left out that differ from one sending to the next and say nothing of what is done.

use aws_lc_rs::hmac;
use http::HeaderMap;

use crate::{
    base::Base,
    error::Result,
    id::{AgentId, ConnectionId, GrantId, SiteId, UserId},
    principal::Delivery,
};

/// Which of a site's derived keys digests are keyed with.
const LABEL: &str = "approval digest";

/// A call as it is to go out, without what the broker puts in.
#[derive(Debug)]
pub struct Call<'a> {
    /// Who makes it.
    pub agent: &'a AgentId,
    /// The person it is made for; nobody when absent.
    pub person: Option<&'a UserId>,
    /// What it is made with.
    pub connection: &'a ConnectionId,
    /// The grant by which it is decided.
    pub grant: &'a GrantId,
    /// How the credential reaches its use.
    pub delivery: Delivery,
    /// The method; empty where the credential is revealed.
    pub method: &'a str,
    /// The whole URL, with its query; what is asked for where the credential is revealed.
    pub url: &'a str,
    /// Which of the connection's tokens; its own when absent.
    pub slot: Option<&'a str>,
    /// The headers that go on to the provider.
    pub headers: &'a HeaderMap,
    /// The body, to its end.
    pub body: &'a [u8],
}

/// The digest of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest(String);

impl Digest {
    /// The digest of a call in a site.
    pub async fn of(base: &Base, site: &SiteId, call: &Call<'_>) -> Result<Self> {
        let key = base.ring.derived(&base.db, site, LABEL).await?;
        Ok(Self(call.digest(key.expose())))
    }

    /// As it was stored.
    pub(super) fn stored(text: String) -> Self {
        Self(text)
    }

    /// As it is stored and told: lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Call<'_> {
    fn digest(&self, key: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        part(self.agent.as_str().as_bytes());
        for maybe in [self.person.map(UserId::as_str), self.slot] {
            // Absent and empty are not the same.
            part(&[u8::from(maybe.is_some())]);
            part(maybe.unwrap_or_default().as_bytes());
        }
        part(self.connection.as_str().as_bytes());
        part(self.grant.as_str().as_bytes());
        part(self.delivery.to_string().as_bytes());
        part(self.method.as_bytes());
        part(self.url.as_bytes());
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| !says_nothing(name.as_str())).collect();
        // Headers of one name keep their order, which has a meaning (RFC 9110 section 5.3); this sort is stable.
        headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        part(&(headers.len() as u64).to_be_bytes());
        for (name, value) in headers {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
        }
        part(self.body);
        hex::encode(context.sign().as_ref())
    }
}

/// Whether a header differs between two sendings of one call, and tells no provider what to do: what clients and whatever
/// stands between them and us add for themselves.
///
/// Each by its whole name. Behind a common beginning orders stand, too: `cf-create-bucket-if-missing` is one of Cloudflare's.
fn says_nothing(name: &str) -> bool {
    // The body is in the digest, to its end.
    let none = [
        "accept-encoding",
        "b3",
        "baggage",
        "cdn-loop",
        "cf-ipcountry",
        "cf-ray",
        "cf-visitor",
        "content-length",
        "date",
        "newrelic",
        "sentry-trace",
        "te",
        "trailer",
        "traceparent",
        "tracestate",
        "uber-trace-id",
        "user-agent",
        "x-amz-cf-id",
        "x-amzn-trace-id",
        "x-b3-flags",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-spanid",
        "x-b3-traceid",
        "x-cloud-trace-context",
        "x-correlation-id",
        "x-datadog-origin",
        "x-datadog-parent-id",
        "x-datadog-sampling-priority",
        "x-datadog-tags",
        "x-datadog-trace-id",
        "x-envoy-attempt-count",
        "x-envoy-decorator-operation",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-internal",
        "x-envoy-peer-metadata",
        "x-envoy-peer-metadata-id",
        "x-request-id",
    ];
    none.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Parts {
        agent: AgentId,
        person: Option<UserId>,
        connection: ConnectionId,
        grant: GrantId,
        slot: Option<&'static str>,
        url: &'static str,
        headers: HeaderMap,
        body: &'static [u8],
    }

    impl Parts {
        fn digest(&self) -> String {
            let call = Call {
                agent: &self.agent,
                person: self.person.as_ref(),
                connection: &self.connection,
                grant: &self.grant,
                delivery: Delivery::Proxy,
                method: "POST",
                url: self.url,
                slot: self.slot,
                headers: &self.headers,
                body: self.body,
            };
            call.digest(b"key")
        }
    }

    fn parts() -> Parts {
        Parts {
            agent: "a".parse().unwrap(),
            person: Some("alice".parse().unwrap()),
            connection: format!("con_{}", "0".repeat(32)).parse().unwrap(),
            grant: format!("gra_{}", "0".repeat(32)).parse().unwrap(),
            slot: None,
            url: "https://api.example.com/x?a=1",
            headers: HeaderMap::new(),
            body: b"hello",
        }
    }

    fn with_header(name: &'static str, value: &'static str) -> Parts {
        let mut parts = parts();
        parts.headers.append(name, value.parse().unwrap());
        parts
    }

    #[test]
    fn whatever_a_provider_may_read_an_order_from_changes_the_digest() {
        let first = parts().digest();
        assert_eq!(first, parts().digest());
        for (what, other) in [
            ("the agent", Parts { agent: "b".parse().unwrap(), ..parts() }),
            ("another person", Parts { person: Some("bob".parse().unwrap()), ..parts() }),
            ("no person", Parts { person: None, ..parts() }),
            ("the connection", Parts { connection: ConnectionId::new(), ..parts() }),
            ("the grant", Parts { grant: GrantId::new(), ..parts() }),
            ("the slot", Parts { slot: Some("page/1"), ..parts() }),
            ("an empty slot", Parts { slot: Some(""), ..parts() }),
            ("the query", Parts { url: "https://api.example.com/x?a=2", ..parts() }),
            ("the body", Parts { body: b"hello!", ..parts() }),
            ("a header", with_header("dropbox-api-arg", "{}")),
            ("an order of Cloudflare's", with_header("cf-create-bucket-if-missing", "true")),
            ("an order to Envoy", with_header("x-envoy-original-path", "/y")),
        ] {
            assert_ne!(first, other.digest(), "{what}");
        }
    }

    #[test]
    fn what_moves_from_one_part_into_the_next_changes_the_digest() {
        let one = Parts { url: "https://api.example.com/x", body: b"yz", ..parts() };
        let other = Parts { url: "https://api.example.com/xy", body: b"z", ..parts() };
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn what_differs_from_one_sending_to_the_next_does_not() {
        for name in ["user-agent", "date", "traceparent", "x-request-id", "x-amzn-trace-id", "cf-ray", "x-b3-spanid"] {
            assert_eq!(with_header(name, "1").digest(), parts().digest(), "{name}");
        }
    }

    #[test]
    fn the_order_of_headers_counts_only_among_those_of_one_name() {
        let put = |headers: [(&'static str, &'static str); 3]| {
            let mut parts = parts();
            for (name, value) in headers {
                parts.headers.append(name, value.parse().unwrap());
            }
            parts.digest()
        };
        let first = put([("x-a", "1"), ("x-b", "2"), ("x-a", "3")]);
        assert_eq!(first, put([("x-b", "2"), ("x-a", "1"), ("x-a", "3")]));
        assert_ne!(first, put([("x-b", "2"), ("x-a", "3"), ("x-a", "1")]));
    }

    #[test]
    fn without_the_key_a_digest_is_not_the_same() {
        let parts = parts();
        let call = Call {
            agent: &parts.agent,
            person: None,
            connection: &parts.connection,
            grant: &parts.grant,
            delivery: Delivery::Proxy,
            method: "GET",
            url: parts.url,
            slot: None,
            headers: &parts.headers,
            body: b"",
        };
        assert_ne!(call.digest(b"one"), call.digest(b"other"));
    }
}
