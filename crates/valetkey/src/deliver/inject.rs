//! Putting the credential into a proxied call: the last thing before it is sent.
//!
//! Nothing that the caller sent can take its place: what has the same name is cut off first (headers, query), or the
//! call is refused (a JSON member, which could not be cut out without rewriting the rest).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{headers, query};
use crate::{
    clock::Timestamp,
    error::{Code, Error, Result},
    oauth1::{self, Call, Keys, Stamp},
    provider::{BodyKind, body_kind},
    secret::Secret,
    upstream::BoxError,
};

/// The largest body that is read whole, in bytes: 1 MiB.
pub const MAX_BUFFERED: usize = 1 << 20;

/// RFC 3986's unreserved characters stand as they are.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One place of a call that carries the credential, with its whole value.
#[derive(Clone, Debug)]
pub enum Injection {
    /// A header, such as `Authorization: Bearer ...`.
    Header {
        /// Its name.
        name: HeaderName,
        /// Its value, prefix and all.
        value: Secret,
    },
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user name; it cannot hold a colon.
        user: Secret,
        /// The password.
        password: Secret,
    },
    /// A query parameter.
    Query {
        /// Its name.
        name: String,
        /// Its value, not encoded.
        value: Secret,
    },
    /// A field of a form body; the body must be read.
    Form {
        /// Its name.
        name: String,
        /// Its value, not encoded.
        value: Secret,
    },
    /// A top-level member of a JSON object; the body must be read.
    Json {
        /// Its name.
        name: String,
        /// Its value, a text.
        value: Secret,
    },
    /// An OAuth 1.0a signature over the call as it will be sent; a form body must be read.
    Signature(Keys),
}

impl Injection {
    /// Whether something is put into the body, which must be read whole for it (see [`buffer`] and [`into_body`]).
    pub fn needs_body(&self) -> bool {
        matches!(self, Injection::Form { .. } | Injection::Json { .. })
    }

    /// The header that is set, if one is: callers may not send it.
    pub fn header_name(&self) -> Option<HeaderName> {
        match self {
            Injection::Header { name, .. } => Some(name.clone()),
            Injection::Basic { .. } | Injection::Signature(_) => Some(header::AUTHORIZATION),
            _ => None,
        }
    }
}

/// Puts headers and query parameters in. `strip_query` names further parameters that a caller may not send.
///
/// Errors: `not_authenticated` where the stored credential holds what the place cannot carry.
pub fn into_head(parts: &mut Parts, injections: &[Injection], strip_query: &[&str]) -> Result<()> {
    for injection in injections {
        match injection {
            Injection::Header { name, value } => set_header(parts, name, value.expose())?,
            Injection::Basic { user, password } => {
                if user.expose().contains(':') {
                    return Err(unusable("the user name holds a colon"));
                }
                let pair = Zeroizing::new(format!("{}:{}", user.expose(), password.expose()));
                let value = Zeroizing::new(format!("Basic {}", &*Zeroizing::new(STANDARD.encode(&*pair))));
                set_header(parts, &header::AUTHORIZATION, &value)?;
            }
            Injection::Query { .. } | Injection::Form { .. } | Injection::Json { .. } | Injection::Signature(_) => {}
        }
    }
    into_query(parts, injections, strip_query)
}

fn set_header(parts: &mut Parts, name: &HeaderName, value: &str) -> Result<()> {
    let mut value = HeaderValue::from_str(value).map_err(|_| unusable("a header cannot hold it"))?;
    // Kept out of HPACK tables and of hyper's own debug texts.
    value.set_sensitive(true);
    headers::remove_named(parts, name);
    parts.headers.insert(name.clone(), value);
    Ok(())
}

fn unusable(why: &str) -> Error {
    Error::new(Code::NotAuthenticated, "the stored credential cannot be sent this way; connect the account again")
        .with_detail(why)
}

fn into_query(parts: &mut Parts, injections: &[Injection], strip_query: &[&str]) -> Result<()> {
    let own = injections.iter().filter_map(|injection| match injection {
        Injection::Query { name, value } => Some((name.as_str(), value)),
        _ => None,
    });
    let names: Vec<&str> = own.clone().map(|(name, _)| name).chain(strip_query.iter().copied()).collect();
    let kept = parts.uri.query().map(|raw| query::without(raw, &names));
    let untouched = kept.as_deref().map(str::len) == parts.uri.query().map(str::len);
    if untouched && own.clone().next().is_none() {
        return Ok(());
    }
    let mut whole = parts.uri.path().to_owned();
    let mut separator = '?';
    if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
        whole.push(separator);
        whole.push_str(&kept);
        separator = '&';
    }
    for (name, value) in own {
        whole.push(separator);
        whole.extend(utf8_percent_encode(name, VALUE));
        whole.push('=');
        whole.extend(utf8_percent_encode(value.expose(), VALUE));
        separator = '&';
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    let too_long = |_| Error::new(Code::InvalidRequest, "the URL is too long");
    uri.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(whole)).map_err(too_long)?);
    parts.uri = Uri::from_parts(uri).map_err(Error::internal)?;
    Ok(())
}

/// Reads a body whole, up to [`MAX_BUFFERED`]. Errors: `payload_too_large`; `invalid_request` when it breaks off.
pub async fn buffer<B>(body: B) -> Result<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let too_large = || Error::new(Code::PayloadTooLarge, "the body of this call has to be read here, and may be 1 MiB at most");
    if body.size_hint().lower() > MAX_BUFFERED as u64 {
        return Err(too_large());
    }
    match Limited::new(body, MAX_BUFFERED).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Error::new(Code::InvalidRequest, "the request body broke off before its end").with_detail(error)),
    }
}

/// Puts form fields or JSON members into a body that was read, and sets its length.
///
/// Errors: `invalid_request` where the body is not what its definition takes, or holds an injected name itself.
pub fn into_body(headers: &mut HeaderMap, body: Bytes, injections: &[Injection]) -> Result<Bytes> {
    let mut body = body;
    for injection in injections {
        body = match injection {
            Injection::Form { name, value } => into_form(headers, &body, name, value)?,
            Injection::Json { name, value } => into_json(headers, &body, name, value)?,
            _ => continue,
        };
    }
    headers.remove(header::TRAILER);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(body)
}

/// Signs a call that is final: URL, headers and body. The last of all; it changes nothing but `Authorization`.
///
/// A form is part of what is signed (RFC 5849 section 3.4.1.3.1), so `body` holds it whole; other bodies are not signed.
///
/// Errors: `invalid_request` where the call brings parameters of the protocol itself, or a form that cannot be read as one.
pub fn sign(parts: &mut Parts, body: &[u8], injections: &[Injection], now: Timestamp) -> Result<()> {
    for injection in injections {
        let Injection::Signature(keys) = injection else { continue };
        let form: &[u8] = match body_kind(&parts.headers) {
            BodyKind::Form if parts.headers.contains_key(header::CONTENT_ENCODING) => {
                return Err(Error::new(Code::InvalidRequest, "a form is signed here as it is; send it without Content-Encoding"));
            }
            BodyKind::Form => body,
            BodyKind::Unclear => {
                return Err(Error::new(Code::InvalidRequest, "a call that is signed here names one content type, or none"));
            }
            BodyKind::Json | BodyKind::Multipart | BodyKind::Other => &[],
        };
        if brings_protocol(parts.uri.query().unwrap_or_default()) || brings_protocol(&String::from_utf8_lossy(form)) {
            let message = "leave parameters that begin with `oauth_` out of the call; it is signed here";
            return Err(Error::new(Code::InvalidRequest, message));
        }
        let call = Call { method: &parts.method, uri: &parts.uri, form, more: &[] };
        let value = keys.authorization(&call, &Stamp::new(now)?)?;
        set_header(parts, &header::AUTHORIZATION, value.expose())?;
    }
    Ok(())
}

/// Whether a query or form has parameters of OAuth 1.0a. They would stand beside ours, and no two providers agree on which
/// of them counts.
fn brings_protocol(form: &str) -> bool {
    query::parameters(form).any(|(name, _)| query::folded(&name).starts_with(oauth1::PREFIX))
}

fn into_form(headers: &mut HeaderMap, body: &[u8], name: &str, value: &Secret) -> Result<Bytes> {
    let refused = || Error::new(Code::InvalidRequest, "this call takes a body of application/x-www-form-urlencoded");
    expect_type(headers, body, "application/x-www-form-urlencoded").ok_or_else(refused)?;
    let text = std::str::from_utf8(body).map_err(|_| refused())?;
    let mut whole = query::without(text, &[name]).into_owned();
    if !whole.is_empty() {
        whole.push('&');
    }
    whole.extend(utf8_percent_encode(name, VALUE));
    whole.push('=');
    whole.extend(utf8_percent_encode(value.expose(), VALUE));
    Ok(whole.into())
}

/// Puts a member in front of the others; every other byte stays.
fn into_json(headers: &mut HeaderMap, body: &[u8], name: &str, value: &Secret) -> Result<Bytes> {
    let refused = || Error::new(Code::InvalidRequest, "this call takes a JSON object as its body");
    expect_type(headers, body, "application/json").ok_or_else(refused)?;
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).map_err(|_| refused())?;
    if object.keys().any(|key| key.eq_ignore_ascii_case(name)) {
        let message = format!("leave `{name}` out of the body; it is put in here");
        return Err(Error::new(Code::InvalidRequest, message));
    }
    // It is an object, so its brace is the first byte that is no white space.
    let open = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    let (before, after) = body.split_at(open);
    let member = Zeroizing::new(serde_json::to_vec(value.expose()).map_err(Error::internal)?);
    let mut whole = before.to_vec();
    whole.extend(serde_json::to_vec(name).map_err(Error::internal)?);
    whole.push(b':');
    whole.extend_from_slice(&member);
    if !object.is_empty() {
        whole.push(b',');
    }
    whole.extend_from_slice(after);
    Ok(whole.into())
}

/// Whether the body is of this type; a call without a body becomes one.
fn expect_type(headers: &mut HeaderMap, body: &[u8], wanted: &'static str) -> Option<()> {
    // A body that is encoded cannot be read here.
    if headers.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    match headers.get(header::CONTENT_TYPE) {
        None if body.is_empty() => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(wanted));
            Some(())
        }
        None => None,
        Some(told) => {
            let essence = told.to_str().ok()?.split(';').next()?.trim();
            essence.eq_ignore_ascii_case(wanted).then_some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Full;

    use super::*;

    fn parts(uri: &str, rows: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in rows {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn query(name: &str, value: &str) -> Injection {
        Injection::Query { name: name.to_owned(), value: Secret::new(value) }
    }

    #[test]
    fn the_injected_header_is_the_only_one_of_its_name_and_silent() {
        let mut parts = parts("https://h.example/", &[("x-key", "evil"), ("x-key", "evil2"), ("x_key", "evil3")]);
        let name = HeaderName::from_static("x-key");
        into_head(&mut parts, &[Injection::Header { name, value: Secret::new("good-value") }], &[]).unwrap();
        assert_eq!(parts.headers.len(), 1);
        assert_eq!(parts.headers["x-key"], "good-value");
        assert!(!format!("{parts:?}").contains("good-value"));
    }

    ///
    #[test]
    fn basic_is_user_colon_password_in_base64() {
        let basic = |user: &str| Injection::Basic { user: Secret::new(user), password: Secret::new("open sesame") };
        let mut head = parts("https://h.example/", &[]);
        into_head(&mut head, &[basic("Aladdin")], &[]).unwrap();
        assert_eq!(head.headers["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(into_head(&mut head, &[basic("a:b")], &[]).unwrap_err().code(), Code::NotAuthenticated);
    }

    #[test]
    fn a_credential_with_a_line_break_is_not_sent_and_not_shown() {
        let mut head = parts("https://h.example/", &[]);
        let name = HeaderName::from_static("x-key");
        let error = into_head(&mut head, &[Injection::Header { name, value: Secret::new("canary\r\nX: y") }], &[]).unwrap_err();
        assert_eq!(error.code(), Code::NotAuthenticated);
        assert!(!format!("{error:?}").contains("canary"));
    }

    #[test]
    fn the_callers_query_parameters_of_that_name_are_gone() {
        let mut head = parts("https://h.example/p?a=%20&KEY=evil&b&k%65y=evil&access_token=x", &[]);
        into_head(&mut head, &[query("key", "s p&c=/")], &["access_token"]).unwrap();
        assert_eq!(head.uri.to_string(), "https://h.example/p?a=%20&b&key=s%20p%26c%3D%2F");

        let mut bare = parts("https://h.example/p", &[]);
        into_head(&mut bare, &[query("key", "v")], &[]).unwrap();
        assert_eq!(bare.uri.to_string(), "https://h.example/p?key=v");

        let mut stripped = parts("https://h.example/p?access_token=x", &[]);
        into_head(&mut stripped, &[], &["access_token"]).unwrap();
        assert_eq!(stripped.uri.to_string(), "https://h.example/p");

        let mut same = parts("https://h.example/p?a=1&&b=%2e", &[]);
        into_head(&mut same, &[], &["access_token"]).unwrap();
        assert_eq!(same.uri.to_string(), "https://h.example/p?a=1&&b=%2e");
    }

    #[test]
    fn a_form_field_is_replaced_and_the_length_set() {
        let form = [Injection::Form { name: "api_key".to_owned(), value: Secret::new("s+e&c") }];
        let rows = [("content-type", "application/x-www-form-urlencoded; charset=utf-8"), ("content-length", "3")];
        let mut head = parts("https://h.example/", &rows);
        let body = into_body(&mut head.headers, Bytes::from_static(b"a=1&api_key=evil&b=%20"), &form).unwrap();
        assert_eq!(body, "a=1&b=%20&api_key=s%2Be%26c");
        assert_eq!(head.headers["content-length"], body.len().to_string());

        let mut empty = parts("https://h.example/", &[]);
        assert_eq!(into_body(&mut empty.headers, Bytes::new(), &form).unwrap(), "api_key=s%2Be%26c");
        assert_eq!(empty.headers["content-type"], "application/x-www-form-urlencoded");

        for rows in [&[("content-type", "text/plain")][..], &[], &[rows[0], ("content-encoding", "gzip")]] {
            let mut head = parts("https://h.example/", rows);
            let error = into_body(&mut head.headers, Bytes::from_static(b"a=1"), &form).unwrap_err();
            assert_eq!(error.code(), Code::InvalidRequest);
        }
    }

    #[test]
    fn a_json_member_is_added_and_the_rest_kept_to_the_byte() {
        let json = [Injection::Json { name: "key".to_owned(), value: Secret::new("s\"e") }];
        let send = |body: &'static str| {
            let mut head = parts("https://h.example/", &[("content-type", "application/json")]);
            into_body(&mut head.headers, Bytes::from_static(body.as_bytes()), &json)
        };
        let kept = send(" { \"n\": 12345678901234567890.10, \"z\":1,\"a\":[ ] }").unwrap();
        assert_eq!(kept, " {\"key\":\"s\\\"e\", \"n\": 12345678901234567890.10, \"z\":1,\"a\":[ ] }");
        assert_eq!(send("{ }").unwrap(), "{\"key\":\"s\\\"e\" }");
        for refused in ["[]", "1", "{\"key\":1}", "{\"KEY\":1}", "{\"k\\u0065y\":1}", "{} {}", "{"] {
            assert_eq!(send(refused).unwrap_err().code(), Code::InvalidRequest, "{refused}");
        }
    }

    fn signature() -> [Injection; 1] {
        [Injection::Signature(Keys {
            hash: oauth1::Hash::Sha1,
            consumer_key: "ck".to_owned(),
            consumer_secret: Secret::new("canary-app"),
            token: Some((Secret::new("tk"), Secret::new("canary-token"))),
        })]
    }

    fn signed(uri: &str, rows: &[(&str, &str)], body: &str) -> Result<Parts> {
        let mut head = parts(uri, rows);
        sign(&mut head, body.as_bytes(), &signature(), Timestamp::from_unix_seconds(1_800_000_000)).map(|()| head)
    }

    #[test]
    fn a_signature_is_put_in_last_and_is_silent() {
        let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        for (rows, body) in [(&[form][..], "a=1&b=%20"), (&[("content-type", "application/json")], "{}"), (&[], "")] {
            let head = signed("https://h.example/p?c=2", rows, body).unwrap();
            let header = head.headers["authorization"].to_str().unwrap();
            assert!(header.starts_with("OAuth oauth_consumer_key=\"ck\", ") && header.contains("oauth_token=\"tk\""), "{header}");
            assert_eq!(head.uri.to_string(), "https://h.example/p?c=2");
            assert!(!format!("{head:?}").contains("oauth_signature"));
        }
        assert_eq!(signature()[0].header_name(), Some(header::AUTHORIZATION));
    }

    #[test]
    fn a_call_that_brings_parameters_of_the_protocol_is_not_signed() {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        for (query, body) in [
            ("oauth_token=other", ""),
            ("a=1&OAUTH_token=other", ""),
            ("%6fauth_verifier=x", ""),
            ("oauth.nonce=x", ""),
            ("", "status=x&oauth_consumer_key=other"),
            ("", "oauth%5Fsignature=x"),
        ] {
            let error = signed(&format!("https://h.example/p?{query}"), &form, body).unwrap_err();
            assert_eq!(error.code(), Code::InvalidRequest, "{query} {body}");
        }
        assert!(signed("https://h.example/p?my_oauth_token=1&oauth=2", &form, "status=oauth_token").is_ok());
    }

    #[test]
    fn a_form_that_cannot_be_read_as_one_is_not_sent_unsigned() {
        let form = ("content-type", "application/x-www-form-urlencoded");
        for rows in [
            &[form, ("content-encoding", "gzip")][..],
            &[form, ("content-type", "application/json")],
            &[("content-type", "application/json, application/x-www-form-urlencoded")],
        ] {
            assert_eq!(signed("https://h.example/p", rows, "a=1").unwrap_err().code(), Code::InvalidRequest);
        }
    }

    ///
    #[tokio::test]
    async fn a_body_to_be_read_is_at_most_one_mebibyte() {
        let full = |size| Full::new(Bytes::from(vec![0; size]));
        assert_eq!(buffer(full(MAX_BUFFERED)).await.unwrap().len(), MAX_BUFFERED);
        assert_eq!(buffer(full(MAX_BUFFERED + 1)).await.unwrap_err().code(), Code::PayloadTooLarge);
        // A body that does not tell its length is cut off too.
        let frames = futures_util::stream::repeat_with(|| {
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(&[0; 4096])))
        });
        assert_eq!(buffer(http_body_util::StreamBody::new(frames)).await.unwrap_err().code(), Code::PayloadTooLarge);
    }
}
