//! What a person or an operator enters for a provider, and how an entered text becomes a stored value.

use serde::Serialize;

use super::words::{FieldLevel, FieldType, Normalize, Parse, Role};
use crate::error::{Code, Error, Result};

/// The longest text a field takes, in bytes: a service account's key file is about 2.4 KB.
const MAX_BYTES: usize = 32 * 1024;

/// One field of a form.
#[derive(Clone, Debug, Serialize)]
pub struct Field {
    /// Its name in the stored configuration or account.
    pub name: String,
    /// Its name for people.
    pub label: String,
    /// How a form shows it.
    #[serde(rename = "type")]
    pub kind: FieldType,
    /// Whether it must be given.
    pub required: bool,
    /// Whether it is masked in every listing.
    pub secret: bool,
    /// To whom it belongs.
    pub level: FieldLevel,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The value when none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The values of a `select`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The form of a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<FieldPattern>,
    /// How a value is brought into one form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// How templates look into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parse: Option<Parse>,
    /// Members of a JSON field that are no secret, such as an account's name in a key file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub public_members: Vec<String>,
    /// Help for whoever enters it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// An example shown in the empty field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
    /// Whether `http://` to a loopback host is taken: only in definitions loaded for development.
    #[serde(skip)]
    pub(super) loopback_http: bool,
}

impl Field {
    /// Turns what was entered into what is stored: trimmed, normalised and checked. Absent when nothing was entered
    /// and nothing is needed; the default where there is one.
    ///
    /// The errors name the field and never the value.
    pub fn accept(&self, entered: &str) -> Result<Option<String>> {
        let refuse = |why: String| Err(Error::new(Code::InvalidRequest, format!("{}: {why}", self.name)));
        // A password may begin or end with a space; everything else gets there by copy and paste.
        let text = if self.role == Some(Role::Password) { entered } else { entered.trim() };
        if text.is_empty() {
            return match (&self.default, self.required) {
                (Some(default), _) => Ok(Some(default.clone())),
                (None, true) => refuse(format!("{} is needed", self.label)),
                (None, false) => Ok(None),
            };
        }
        if text.len() > MAX_BYTES {
            return refuse(format!("it is longer than {MAX_BYTES} bytes"));
        }
        let lines = matches!(self.kind, FieldType::Textarea) || matches!(self.normalize, Some(Normalize::Pem));
        if text.chars().any(|c| c.is_control() && !(lines && matches!(c, '\n' | '\r' | '\t'))) {
            return refuse("it holds a control character".to_owned());
        }
        if self.kind == FieldType::Select && !self.options.iter().any(|option| option == text) {
            return refuse(format!("it is one of {}", self.options.join(", ")));
        }
        if self.kind == FieldType::Number && text.parse::<u64>().is_err() {
            return refuse("it is a whole number".to_owned());
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
            return refuse(format!("it has the form {pattern}"));
        }
        if self.parse == Some(Parse::Json) && serde_json::from_str::<serde_json::Map<_, _>>(text).is_err() {
            return refuse("it is a JSON object".to_owned());
        }
        match self.normalize {
            Some(Normalize::HttpsOrigin) => match origin(text, self.loopback_http) {
                Ok(origin) => Ok(Some(origin)),
                Err(why) => refuse(why.to_owned()),
            },
            Some(Normalize::Pem) => Ok(Some(pem(text))),
            None => Ok(Some(text.to_owned())),
        }
    }
}

/// `https://host[:port]` out of what a person types; `http` only to a loopback host, and only where that is allowed.
pub(super) fn origin(text: &str, loopback_http: bool) -> Result<String, &'static str> {
    const FORM: &str = "it is the address of a server, such as https://social.example, without a path";
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = url::Url::parse(&with_scheme).map_err(|_| FORM)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(FORM)?;
    match url.scheme() {
        "https" => {}
        "http" if loopback_http && is_loopback(host) => {}
        "http" => return Err("it starts with https://"),
        _ => return Err(FORM),
    }
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !bare || !matches!(url.path(), "" | "/") {
        return Err(FORM);
    }
    match url.port() {
        Some(port) => Ok(format!("{}://{host}:{port}", url.scheme())),
        None => Ok(format!("{}://{host}", url.scheme())),
    }
}

/// Whether a host, as a URL writes it, is this machine by its spelling alone. Nothing is looked up.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

/// A PEM text with `\n` line ends and a last one. A key pasted out of JSON or an environment file has them escaped.
fn pem(text: &str) -> String {
    let mut lines = text.replace("\\n", "\n").replace("\r\n", "\n").replace('\r', "\n").trim().to_owned();
    lines.push('\n');
    lines
}

/// The form of a field's value: one or more alternatives between `|`, in which `*` stands for any text.
///
/// `github_pat_*|ghp_*` is a value that starts with one of the two. The whole value is compared, with regard to case.
/// It is less than a regular expression on purpose: nothing in it can take long, and a person can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPattern {
    source: String,
    alternatives: Vec<Vec<String>>,
}

impl FieldPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let alternatives: Vec<Vec<String>> =
            text.split('|').map(|alternative| alternative.split('*').map(str::to_owned).collect()).collect();
        if alternatives.iter().any(|pieces| pieces.iter().all(String::is_empty)) {
            return Err("an alternative of a pattern holds some text beside `*`");
        }
        Ok(Self { source: text.to_owned(), alternatives })
    }

    /// Whether the whole value has one of the forms.
    pub fn matches(&self, value: &str) -> bool {
        self.alternatives.iter().any(|pieces| pieces_match(pieces, value))
    }
}

/// Compares the pieces between the stars: the first at the start, the last at the end, the others in order.
fn pieces_match(pieces: &[String], value: &str) -> bool {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return false };
    if pieces.len() == 1 {
        return value == first;
    }
    let Some(rest) = value.strip_prefix(first.as_str()) else { return false };
    let Some(mut rest) = rest.strip_suffix(last.as_str()) else { return false };
    for piece in &pieces[1..pieces.len() - 1] {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

impl std::fmt::Display for FieldPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for FieldPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(normalize: Option<Normalize>) -> Field {
        Field {
            name: "instance".to_owned(),
            label: "Instance URL".to_owned(),
            kind: FieldType::Url,
            required: true,
            secret: false,
            level: FieldLevel::Connection,
            role: None,
            default: None,
            options: Vec::new(),
            pattern: None,
            normalize,
            parse: None,
            public_members: Vec::new(),
            description: None,
            placeholder: None,
            loopback_http: false,
        }
    }

    #[test]
    fn an_instance_is_brought_into_one_form() {
        let field = field(Some(Normalize::HttpsOrigin));
        for (entered, stored) in [
            ("mastodon.social", "https://mastodon.social"),
            (" https://Mastodon.Social/ ", "https://mastodon.social"),
            ("https://m.example:8443", "https://m.example:8443"),
            ("https://m.example:443/", "https://m.example"),
        ] {
            assert_eq!(field.accept(entered).unwrap().as_deref(), Some(stored));
        }
    }

    #[test]
    fn an_instance_with_more_than_an_origin_is_refused() {
        let field = field(Some(Normalize::HttpsOrigin));
        for entered in [
            "http://m.example",
            "https://u@m.example",
            "https://u:p@m.example",
            "https://m.example/path",
            "https://m.example?x=1",
            "https://m.example#f",
            "ftp://m.example",
            "javascript:alert(1)",
            "https://",
            "http://127.0.0.1:8080",
        ] {
            assert!(field.accept(entered).is_err(), "{entered} was taken");
        }
    }

    #[test]
    fn http_is_taken_for_loopback_in_development_only() {
        let mut field = field(Some(Normalize::HttpsOrigin));
        field.loopback_http = true;
        assert_eq!(field.accept("http://127.0.0.1:8080/").unwrap().as_deref(), Some("http://127.0.0.1:8080"));
        assert!(field.accept("http://m.example").is_err());
        assert!(field.accept("http://127.0.0.1.m.example").is_err());
    }

    #[test]
    fn a_refusal_names_the_field_and_not_the_value() {
        let mut field = field(None);
        field.pattern = Some(FieldPattern::parse("xoxb-*").unwrap());
        let error = field.accept("xoxp-canary").unwrap_err();
        assert!(error.message().contains("instance") && !format!("{error:?}").contains("canary"));
    }

    #[test]
    fn a_pattern_compares_the_whole_value() {
        let pattern = FieldPattern::parse("github_pat_*|ghp_*").unwrap();
        assert!(pattern.matches("ghp_abc") && pattern.matches("github_pat_1"));
        assert!(!pattern.matches("xghp_abc") && !pattern.matches("GHP_abc"));
        let middle = FieldPattern::parse("a*b*c").unwrap();
        assert!(middle.matches("abc") && middle.matches("a-b-c") && !middle.matches("ac"));
        assert!(FieldPattern::parse("*").is_err() && FieldPattern::parse("a|").is_err());
    }

    #[test]
    fn a_pattern_does_not_use_one_character_twice() {
        assert!(!FieldPattern::parse("aba*ba").unwrap().matches("abaa"));
        assert!(!FieldPattern::parse("ab*bc").unwrap().matches("abc"));
    }

    #[test]
    fn an_escaped_key_becomes_lines() {
        let mut field = field(Some(Normalize::Pem));
        field.kind = FieldType::Textarea;
        let stored = field.accept("-----BEGIN X-----\\nAA\\n-----END X-----\r\n").unwrap();
        assert_eq!(stored.as_deref(), Some("-----BEGIN X-----\nAA\n-----END X-----\n"));
    }

    #[test]
    fn an_empty_field_is_its_default_or_nothing_or_refused() {
        let mut field = field(None);
        assert!(field.accept("  ").is_err());
        field.required = false;
        assert_eq!(field.accept("").unwrap(), None);
        field.default = Some("993".to_owned());
        assert_eq!(field.accept("").unwrap().as_deref(), Some("993"));
    }
}
