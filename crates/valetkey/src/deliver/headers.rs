//! Which headers pass the proxy, in each direction. Trailers obey the same rules.
//!
//! Everything passes with its value unchanged, except what the functions here name. A name counts as the same with
//! `_` in place of `-`, because CGI-like servers cannot tell the two apart.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request, response};
use url::Url;

use super::echo::Needles;
use crate::error::{Code, Error, Result};

/// Refuses a request that the proxy does not pass on whatever else is in it.
///
/// Errors: `upgrade_refused` where an upgrade is asked for; `invalid_request` for lengths that contradict each other, which
/// is how requests are smuggled past a proxy.
pub fn check_request(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(header::UPGRADE) || headers.contains_key("http2-settings") {
        return Err(Error::new(Code::UpgradeRefused, "protocol upgrades are not proxied"));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    let digits = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    if !digits || lengths.any(|other| other != first) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Error::new(Code::InvalidRequest, "the request contradicts itself about its length"));
    }
    Ok(())
}

/// Prepares a caller's headers, which [`check_request`] let pass, for the provider.
///
/// Removed: hop-by-hop headers and those that `Connection` names (RFC 9110 section 7.6.1), `Host`, our own
/// `Authorization`, `Valet-*` and `X-Agents-Api-*`, `Cookie`, `Expect`, what tells of other hops (`Via`, `Forwarded`,
/// `X-Forwarded-*`, ...), what makes some servers see another URL (`X-Original-URL`, ...), and every header of `injected`: the
/// definition sets those, after this. A length that is said twice is said once.
pub fn clean_request(headers: &mut HeaderMap, injected: &[HeaderName]) {
    if let Some(length) = headers.get(header::CONTENT_LENGTH).cloned() {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    let trailers_welcome = headers.get_all(header::TE).iter().any(|value| {
        let codings = value.to_str().unwrap_or_default();
        codings.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    });
    let named = named_by_connection(headers);
    let refused = |name: &HeaderName| named.contains(name) || is_refused_in_request(name, injected);
    remove(headers, &refused);
    if trailers_welcome {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    announce(headers, &|name| is_refused_in_request(name, injected) || is_framing(name));
}

/// Prepares the trailers of a caller's body.
pub fn clean_request_trailers(trailers: &mut HeaderMap, injected: &[HeaderName]) {
    remove(trailers, &|name| is_refused_in_request(name, injected) || is_framing(name));
}

/// Prepares the head of a provider's answer for the caller.
///
/// Removed: hop-by-hop headers and those that `Connection` names, what would act on our own origin (`Set-Cookie`,
/// `Clear-Site-Data`, `Access-Control-*`, HSTS, ...), orders to a web server in front of us (`X-Accel-*`, `X-Sendfile`,
/// ...), `Valet-*`, and every header that holds an injected secret.
/// Set: `Content-Security-Policy: sandbox` and `X-Content-Type-Options: nosniff`, so that a provider's page does not
/// run on our origin. Nobody follows a redirect with the credential; it goes to the caller with where it leads written out:
/// `sent` is the URL that was asked for, without what was injected into it, and `ours` is the public URL. A challenge loses
/// `resource_metadata` (RFC 9728 section 5.1), which would be said of us.
///
/// What hyper noted beside the headers (a reason phrase, which could hold a secret too) is dropped.
pub fn clean_response(parts: &mut response::Parts, needles: &Needles, sent: &Uri, ours: &Url) {
    let headers = &mut parts.headers;
    let named = named_by_connection(headers);
    remove(headers, &|name| named.contains(name) || is_refused_in_response(name));
    write_out_links(headers, sent, ours);
    strip_metadata(headers);
    remove_echoes(headers, needles);
    announce(headers, &|name| is_refused_in_response(name) || is_framing(name));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    parts.extensions.clear();
}

/// Prepares the trailers of a provider's body.
pub fn clean_response_trailers(trailers: &mut HeaderMap, needles: &Needles) {
    remove(trailers, &|name| is_refused_in_response(name) || is_framing(name));
    remove_echoes(trailers, needles);
}

/// Removes a header and everything that a careless server would take for it.
pub(super) fn remove_named(parts: &mut request::Parts, name: &HeaderName) {
    let folded = folded_name(name).into_owned();
    remove(&mut parts.headers, &|other| folded_name(other) == folded);
}

/// A header's name with `-` for `_`.
pub(super) fn folded_name(name: &HeaderName) -> Cow<'_, str> {
    let name = name.as_str();
    if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) }
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "te" | "transfer-encoding" | "upgrade" | "http2-settings")
        || name.starts_with("proxy-")
}

fn is_refused_in_request(name: &HeaderName, injected: &[HeaderName]) -> bool {
    let folded = folded_name(name);
    let name = &*folded;
    is_hop_by_hop(name)
        || matches!(
            name,
            "host" | "authorization" | "cookie" | "cookie2" | "expect" | "forwarded" | "via"
            // Who the client is: said by proxies that we are not.
            | "x-real-ip" | "x-client-ip" | "x-cluster-client-ip" | "true-client-ip" | "cf-connecting-ip" | "client-ip"
            // Another URL or host than the one that was checked.
            | "x-original-url" | "x-original-uri" | "x-original-host" | "x-rewrite-url" | "x-host" | "x-http-host-override"
        )
        || name.starts_with("x-forwarded")
        || name.starts_with("valet-")
        // Which of the platform's agents and people called one another is not the provider's business.
        || name.starts_with("x-agents-api-")
        || injected.iter().any(|own| folded_name(own) == name)
}

fn is_refused_in_response(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_hop_by_hop(name)
        || matches!(
            name,
            "set-cookie"
                | "set-cookie2"
                | "clear-site-data"
                | "strict-transport-security"
                | "public-key-pins"
                | "public-key-pins-report-only"
                | "expect-ct"
                | "alt-svc"
                | "service-worker-allowed"
                | "nel"
                | "report-to"
                | "reporting-endpoints"
                // Only browsers go where it says, and to them the page is ours.
                | "refresh"
                | "content-security-policy"
                | "content-security-policy-report-only"
                | "x-content-type-options"
                // A web server in front of us would read these as orders from us: to send a file of its own.
                | "x-sendfile"
                | "x-lighttpd-send-file"
                | "x-lighttpd-send-tempfile"
                | "x-litespeed-location"
                | "x-reproxy-url"
                | "x-reproxy-file"
        )
        || name.starts_with("x-accel-")
        || name.starts_with("access-control-")
        || name.starts_with("valet-")
}

/// What frames a message: nothing a trailer may say (RFC 9110 section 6.5.1).
fn is_framing(name: &HeaderName) -> bool {
    matches!(
        &*folded_name(name),
        "content-length" | "content-encoding" | "content-type" | "content-range" | "host" | "trailer"
        // Where a client goes on to is said in the head, where it is looked at.
        | "location" | "content-location" | "link" | "www-authenticate"
    )
}

/// Writes out where an answer leads, as its provider meant it: a client that resolved `/v1/...` itself would resolve it
/// against the broker, come back with its own token, after a 307 with its method and body too, and so a provider would choose
/// what an agent does with another of its connections. What leads to the broker even so, and what cannot be read, is left out.
fn write_out_links(headers: &mut HeaderMap, sent: &Uri, ours: &Url) {
    for name in [header::LOCATION, header::CONTENT_LOCATION, header::LINK] {
        if !headers.contains_key(&name) {
            continue;
        }
        let base = Url::parse(&sent.to_string()).ok();
        let written = |value: &HeaderValue| {
            let (base, text) = (base.as_ref()?, std::str::from_utf8(value.as_bytes()).ok()?);
            let text = if name == header::LINK { targets(text, base, ours)? } else { target(text, base, ours)? };
            HeaderValue::from_bytes(text.as_bytes()).ok()
        };
        let values: Vec<_> = headers.get_all(&name).iter().filter_map(written).collect();
        headers.remove(&name);
        for value in values {
            headers.append(&name, value);
        }
    }
}

/// An absolute URL for a reference; nothing where it leads to the broker.
fn target(reference: &str, base: &Url, ours: &Url) -> Option<String> {
    // What the URL parser drops by itself (RFC 3986 knows none of it) other clients may read otherwise.
    let url = base.join(reference).ok().filter(|_| !reference.contains(['\t', '\n', '\r']))?;
    let host = |url: &Url| url.host_str().map(|host| host.trim_end_matches('.').to_owned());
    // The usual ports too: whatever listens there for our name most likely leads here.
    let same_port = url.port().is_none() || url.port_or_known_default() == ours.port_or_known_default();
    (!same_port || host(&url) != host(ours)).then(|| url.into())
}

/// The value of `Link` (RFC 8288 section 3) with its targets written out.
fn targets(value: &str, base: &Url, ours: &Url) -> Option<String> {
    let (mut written, mut rest) = (String::with_capacity(value.len()), value);
    while let Some(at) = rest.find(['<', '"']) {
        let (before, marked) = rest.split_at(at);
        written.push_str(before);
        let quoted = marked.starts_with('"');
        let inner = marked.get(1..)?;
        let end = if quoted { end_of_quoted(inner)? } else { inner.find('>')? };
        let (inner, after) = inner.split_at(end);
        if quoted {
            written.extend(["\"", inner, "\""]);
        } else {
            written.extend(["<", target(inner, base, ours)?.as_str(), ">"]);
        }
        rest = after.get(1..)?;
    }
    written.push_str(rest);
    Some(written)
}

/// By which a challenge says where tokens for the resource come from (RFC 9728 section 5.1).
const METADATA: &str = "resource_metadata";

/// Takes out of every challenge where tokens for the resource come from. To a client the resource is the URL that it asked, which
/// is ours: a provider could send an agent, or the person behind it, to an authorization server of its choice, as if we said so.
/// Everything else of a challenge stays; one that cannot be read goes.
fn strip_metadata(headers: &mut HeaderMap) {
    let name = header::WWW_AUTHENTICATE;
    let names_it = |value: &HeaderValue| {
        value.as_bytes().windows(METADATA.len()).any(|bytes| bytes.eq_ignore_ascii_case(METADATA.as_bytes()))
    };
    if !headers.get_all(&name).iter().any(names_it) {
        return;
    }
    let left = |value: &HeaderValue| match names_it(value) {
        false => Some(value.clone()),
        true => HeaderValue::from_str(&without_metadata(std::str::from_utf8(value.as_bytes()).ok()?)?).ok(),
    };
    let values: Vec<_> = headers.get_all(&name).iter().filter_map(left).collect();
    headers.remove(&name);
    for value in values {
        headers.append(&name, value);
    }
}

/// The value of `WWW-Authenticate` (RFC 9110 section 11.6.1) without the parameter; nothing where nothing is left, or where
/// somebody could still read the parameter in what is left: many a client looks for it as a text.
fn without_metadata(value: &str) -> Option<String> {
    let mut written = String::with_capacity(value.len());
    // Whether the scheme that was written last has lost what stood behind it: what comes next stands there.
    let mut bare = false;
    for element in elements(value)? {
        let element = element.trim_matches([' ', '\t']);
        // A scheme stands before the first parameter of a challenge, in the same element.
        let (scheme, parameter) = match parameter_name(element) {
            Some(_) => ("", element),
            None => element.split_once([' ', '\t']).unwrap_or((element, "")),
        };
        let dropped =
            parameter_name(parameter.trim_start_matches([' ', '\t'])).is_some_and(|name| name.eq_ignore_ascii_case(METADATA));
        if element.is_empty() || (dropped && scheme.is_empty()) {
            continue;
        }
        if !written.is_empty() {
            written.push_str(if bare && scheme.is_empty() { " " } else { ", " });
        }
        written.push_str(if dropped { scheme } else { element });
        bare = dropped;
    }
    let found = written.to_ascii_lowercase();
    let still_there = found
        .match_indices(METADATA)
        .any(|(at, name)| found.get(at + name.len()..).is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with('=')));
    (!written.is_empty() && !still_there).then_some(written)
}

/// The elements of a list (RFC 9110 section 5.6.1), in which quoted commas do not count; nothing where a quotation does not end.
fn elements(value: &str) -> Option<Vec<&str>> {
    let (mut all, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(next) = value.get(at..)?.find([',', '"']) {
        let mark = at + next;
        at = mark + 1;
        if value.get(mark..at)? == "," {
            all.push(value.get(start..mark)?);
            start = at;
        } else {
            at += end_of_quoted(value.get(at..)?)? + 1;
        }
    }
    all.push(value.get(start..)?);
    Some(all)
}

/// The name of a parameter that an element begins with; nothing where it begins with a scheme.
fn parameter_name(element: &str) -> Option<&str> {
    let (name, _) = element.split_once('=')?;
    let name = name.trim_end_matches([' ', '\t']);
    (!name.is_empty() && !name.contains([' ', '\t', '"'])).then_some(name)
}

/// Where the text ends that a quotation mark began (RFC 9110 section 5.6.4).
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// The headers that `Connection` declares to be for this hop only.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    names
        .filter(|name| !name.eq_ignore_ascii_case("close") && !name.eq_ignore_ascii_case("keep-alive"))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect()
}

fn remove(headers: &mut HeaderMap, refused: &dyn Fn(&HeaderName) -> bool) {
    let names: Vec<_> = headers.keys().filter(|name| refused(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn remove_echoes(headers: &mut HeaderMap, needles: &Needles) {
    let echoing = headers.iter().filter(|(_, value)| needles.are_in(value.as_bytes()));
    let names: Vec<_> = echoing.map(|(name, _)| name.clone()).collect();
    for name in names {
        headers.remove(name);
    }
}

/// Keeps of `Trailer` the names that may follow. HTTP/1.1 needs the announcement: our own client and server send
/// only trailers that it names.
fn announce(headers: &mut HeaderMap, refused: &dyn Fn(&HeaderName) -> bool) {
    if !headers.contains_key(header::TRAILER) {
        return;
    }
    let values = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    let kept: Vec<_> = names.filter(|name| !refused(name)).map(|name| name.as_str().to_owned()).collect();
    headers.remove(header::TRAILER);
    if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_str(&kept.join(", "))) {
        headers.insert(header::TRAILER, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn map(rows: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn cleaned(rows: &[(&str, &str)], secret: &str) -> HeaderMap {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.headers = map(rows);
        let (sent, ours) = (Uri::from_static("https://api.example/v2/items?page=1"), "https://keys.example/".parse().unwrap());
        clean_response(&mut parts, &Needles::new([&Secret::new(secret)]), &sent, &ours);
        parts.headers
    }

    fn leads(name: &str, value: &str) -> Option<String> {
        let headers = cleaned(&[(name, value)], "secret-token-1");
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn where_an_answer_leads_is_written_out_as_its_provider_meant_it() {
        for (reference, whole) in [
            ("/v1/proxy/github/x", "https://api.example/v1/proxy/github/x"),
            ("7?a=1#f", "https://api.example/v2/7?a=1#f"),
            ("../v3", "https://api.example/v3"),
            ("//keys.evil/x", "https://keys.evil/x"),
            ("\\\\cdn.example\\x", "https://cdn.example/x"),
            ("https:x", "https://api.example/v2/x"),
            ("https://cdn.example/a%20b?c=%2F", "https://cdn.example/a%20b?c=%2F"),
            ("https://keys.example@evil.example/", "https://keys.example@evil.example/"),
            ("https://keys.example:8443/", "https://keys.example:8443/"),
            ("", "https://api.example/v2/items?page=1"),
            ("app://done", "app://done"),
        ] {
            assert_eq!(leads("location", reference).as_deref(), Some(whole), "{reference}");
            assert_eq!(leads("content-location", reference).as_deref(), Some(whole), "{reference}");
        }
    }

    #[test]
    fn what_leads_back_to_the_broker_is_left_out() {
        for reference in [
            "https://keys.example/v1/proxy/con_other/x",
            "//KEYS.example/v1/me",
            "https://keys.example./v1/me",
            "http://keys.example/v1/me",
            "https://keys.example:443",
            "https://a@keys.example/",
            "https:\\\\keys.example/",
            "https://[broken/",
            "//keys.exa\tmple/",
        ] {
            assert_eq!(leads("location", reference), None, "{reference}");
            assert_eq!(leads("link", &format!("<{reference}>; rel=next")), None, "{reference}");
        }
        let both =
            cleaned(&[("location", "https://keys.example/"), ("location", "/x"), ("refresh", "0;url=/v1/me")], "secret-token-1");
        assert_eq!(both.get_all("location").iter().collect::<Vec<_>>(), ["https://api.example/x"]);
        assert!(!both.contains_key("refresh"));
    }

    #[test]
    fn the_targets_of_a_link_are_written_out_and_nothing_else_of_it() {
        let value = r#"</v2/items?page=2>; rel="next"; title="a \"<b>\", c", <https://cdn.example/x>;rel=alternate"#;
        let whole =
            r#"<https://api.example/v2/items?page=2>; rel="next"; title="a \"<b>\", c", <https://cdn.example/x>;rel=alternate"#;
        assert_eq!(leads("link", value).as_deref(), Some(whole));
        for broken in ["<https://api.example/", "</x>; title=\"open"] {
            assert_eq!(leads("link", broken), None, "{broken}");
        }
    }

    #[test]
    fn a_challenge_loses_where_tokens_come_from_and_nothing_else() {
        let left = |value: &str| leads("www-authenticate", value);
        for untouched in [
            "Bearer",
            r#"Bearer realm="a, b=\"c\"" ,scope="x y",,Basic  realm=z"#,
            "Basic, Negotiate abc==",
            r#"Bearer error_description="metadata of the resource""#,
        ] {
            assert_eq!(left(untouched).as_deref(), Some(untouched));
        }
        for (value, expected) in [
            (r#"Bearer resource_metadata="https://evil.example/m""#, "Bearer"),
            (r#"Bearer resource_metadata="https://evil.example/m", scope="x""#, r#"Bearer scope="x""#),
            (r#"Bearer scope="x", resource_metadata="https://evil.example/m""#, r#"Bearer scope="x""#),
            (r#"Bearer scope="a, b", RESOURCE_Metadata = https://evil.example, error="e""#, r#"Bearer scope="a, b", error="e""#),
            (
                r#"Bearer resource_metadata="a,\"b", resource_metadata=c, realm="r", Basic realm="s""#,
                r#"Bearer realm="r", Basic realm="s""#,
            ),
            (r#"Bearer  resource_metadata=a, Basic realm="s""#, r#"Bearer, Basic realm="s""#),
            (r#"Basic realm="s", Bearer resource_metadata=a"#, r#"Basic realm="s", Bearer"#),
            (
                r#"Bearer error_description="no resource_metadata here""#,
                r#"Bearer error_description="no resource_metadata here""#,
            ),
        ] {
            assert_eq!(left(value).as_deref(), Some(expected), "{value}");
        }
        for gone in [
            r#"resource_metadata="https://evil.example/m""#,
            r#"Bearer realm="open, resource_metadata="https://evil.example/m""#,
            r#"Bearer realm="x, resource_metadata=https://evil.example/m""#,
            r#"Bearer x_resource_metadata="https://evil.example/m""#,
            "Bearer odd resource_metadata=https://evil.example/m",
        ] {
            assert_eq!(left(gone), None, "{gone}");
        }
        let two = cleaned(
            &[("www-authenticate", "Basic realm=x"), ("www-authenticate", "Bearer resource_metadata=y, scope=z")],
            "secret-token-1",
        );
        assert_eq!(two.get_all("www-authenticate").iter().collect::<Vec<_>>(), ["Basic realm=x", "Bearer scope=z"]);
    }

    /// T-047.
    #[test]
    fn what_belongs_to_this_hop_or_to_us_does_not_go_on() {
        let mut headers = map(&[
            ("connection", "X-Hop, close , content-type"),
            ("connection", "x-second"),
            ("x-hop", "1"),
            ("x-second", "1"),
            ("content-type", "text/plain"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "close"),
            ("te", "gzip, Trailers"),
            ("host", "broker.example"),
            ("authorization", "Bearer vk_ours"),
            ("cookie", "session=ours"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_host", "evil"),
            ("x-real-ip", "1.2.3.4"),
            ("x-original-url", "/admin"),
            ("x_rewrite_url", "/admin"),
            ("via", "1.1 x"),
            ("valet-person", "bob"),
            ("x-agents-api-caller-user", "7"),
            ("expect", "100-continue"),
            ("accept", "a"),
            ("accept", "b"),
            ("x-odd", "\u{e9}"),
        ]);
        clean_request(&mut headers, &[]);
        assert_eq!(names(&headers), ["accept", "te", "x-odd"]);
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers.get_all("accept").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(headers["x-odd"].as_bytes(), "\u{e9}".as_bytes());
    }

    #[test]
    fn a_caller_cannot_send_a_header_that_the_definition_injects() {
        let injected = [HeaderName::from_static("x-api-key")];
        for name in ["x-api-key", "X_Api_Key", "x-api_key"] {
            let mut headers = map(&[(name, "evil"), ("x-other", "1")]);
            clean_request(&mut headers, &injected);
            assert_eq!(names(&headers), ["x-other"]);
            let mut trailers = map(&[(name, "evil"), ("x-other", "1")]);
            clean_request_trailers(&mut trailers, &injected);
            assert_eq!(names(&trailers), ["x-other"]);
        }
    }

    #[test]
    fn upgrades_have_their_own_code() {
        for rows in [[("upgrade", "websocket"), ("connection", "upgrade")], [("http2-settings", "x"), ("upgrade", "h2c")]] {
            assert_eq!(check_request(&map(&rows)).unwrap_err().code(), Code::UpgradeRefused);
        }
    }

    #[test]
    fn contradicting_lengths_are_refused() {
        for rows in [
            &[("content-length", "5"), ("content-length", "6")][..],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("content-length", "+5")],
            &[("content-length", "5, 5")],
            &[("content-length", "")],
        ] {
            assert_eq!(check_request(&map(rows)).unwrap_err().code(), Code::InvalidRequest);
        }
        let mut same = map(&[("content-length", "5"), ("content-length", "5")]);
        check_request(&same).unwrap();
        clean_request(&mut same, &[]);
        assert_eq!(same.get_all("content-length").iter().count(), 1);
    }

    #[test]
    fn trailers_obey_the_header_rules() {
        let mut headers = map(&[("trailer", "X-Sum, Authorization, Content-Length"), ("trailer", "grpc-status")]);
        clean_request(&mut headers, &[]);
        assert_eq!(headers["trailer"], "x-sum, grpc-status");
        let mut trailers =
            map(&[("x-sum", "1"), ("authorization", "x"), ("cookie", "x"), ("content-length", "1"), ("host", "x")]);
        clean_request_trailers(&mut trailers, &[]);
        assert_eq!(names(&trailers), ["x-sum"]);

        let mut trailers = map(&[
            ("x-sum", "1"),
            ("set-cookie", "x"),
            ("x-echo", "Bearer secret-token-1"),
            ("link", "</v1/me>; rel=next"),
            ("www-authenticate", "Bearer resource_metadata=x"),
        ]);
        clean_response_trailers(&mut trailers, &Needles::new([&Secret::new("secret-token-1")]));
        assert_eq!(names(&trailers), ["x-sum"]);
    }

    #[test]
    fn what_would_act_on_our_origin_does_not_come_back() {
        let headers = cleaned(
            &[
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("transfer-encoding", "chunked"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=1"),
                ("clear-site-data", "*"),
                ("access-control-allow-origin", "*"),
                ("access-control-allow-credentials", "true"),
                ("strict-transport-security", "max-age=1"),
                ("alt-svc", "h3=\":443\""),
                ("service-worker-allowed", "/"),
                ("nel", "{}"),
                ("report-to", "{}"),
                ("content-security-policy", "default-src *"),
                ("content-security-policy", "script-src *"),
                ("content-security-policy-report-only", "x"),
                ("x-content-type-options", "off"),
                ("valet-error", "spoofed"),
                ("x-accel-redirect", "/internal/secrets"),
                ("x-sendfile", "/etc/passwd"),
                ("content-type", "text/html"),
                ("etag", "\"1\""),
                ("location", "https://elsewhere.example/"),
            ],
            "secret-token-1",
        );
        assert_eq!(names(&headers), ["content-security-policy", "content-type", "etag", "location", "x-content-type-options"]);
        assert_eq!(headers["content-security-policy"], "sandbox");
        assert_eq!(headers.get_all("content-security-policy").iter().count(), 1);
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }

    #[test]
    fn an_echoed_credential_is_removed_with_its_header() {
        let headers = cleaned(
            &[
                ("x-debug", "got Bearer secret-token-1"),
                ("location", "https://x.example/?t=secret%2Dtoken%2D1"),
                ("x-many", "fine"),
                ("x-many", "secret-token-1"),
                ("etag", "\"1\""),
            ],
            "secret-token-1",
        );
        assert_eq!(names(&headers), ["content-security-policy", "etag", "x-content-type-options"]);
    }
}
