//! What a [`Mimic`](crate::Mimic) plays: a provider in neutral words. Whoever tries out a definition writes one of these
//! out of it; the lab knows nothing of definitions.

use serde_json::Value as Json;

/// A provider to play.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Its hosts, each with `:port` where that is not 443. Certificates are made for them.
    pub hosts: Vec<String>,
    /// Where the browser is sent; absent where no browser is.
    pub authorize: Option<Authorize>,
    /// The calls that a broker makes itself.
    pub calls: Vec<Call>,
    /// How the credential stands in any other call, which is one of the API's. Each must be there once.
    pub credential: Vec<Param>,
    /// How its tokens live.
    pub tokens: TokenLife,
    /// What its calls are signed with; absent where none is.
    pub signing: Option<Signing>,
}

/// What calls are signed with, by OAuth 1.0a (RFC 5849 section 3).
#[derive(Clone, Debug)]
pub struct Signing {
    /// The app's key.
    pub key: String,
    /// The app's secret.
    pub secret: String,
    /// The parameter by which the browser comes back where the person refused. The RFC has none, and then it is `error`.
    pub denied_param: Option<String>,
    /// Whether calls of the API are signed, too.
    pub api: bool,
}

/// The authorization endpoint (RFC 6749 section 4.1.1).
#[derive(Clone, Debug)]
pub struct Authorize {
    /// The host, as in [`Script::hosts`].
    pub host: String,
    /// The path.
    pub path: String,
    /// The parameters that it takes, beside `state` and the challenge. Any other is refused.
    pub params: Vec<Param>,
    /// Where it sends the browser back to.
    pub redirect_uri: String,
    /// How a PKCE challenge is written; absent where none may come.
    pub challenge: Option<Challenge>,
    /// What it says in `iss` (RFC 9207).
    pub issuer: Option<String>,
    /// What it appends to a code.
    pub code_suffix: Option<String>,
    /// Whether the browser brings a temporary token, `oauth_token`, and no `state` (RFC 5849 section 2.2). It goes back with that
    /// token and `oauth_verifier`.
    pub by_token: bool,
}

/// How the SHA-256 of a PKCE verifier is written (RFC 7636 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Base64url without padding, as the RFC says.
    Base64Url,
    /// Hexadecimal.
    Hex,
}

/// One call: where it goes, what it must carry, what is answered.
#[derive(Clone, Debug)]
pub struct Call {
    /// What it is for.
    pub role: Role,
    /// The method.
    pub method: String,
    /// The host, as in [`Script::hosts`].
    pub host: String,
    /// The decoded path.
    pub path: Pattern,
    /// What it carries. A query or form parameter that is not among these is refused.
    pub params: Vec<Param>,
    /// Whether it is signed ([`Script::signing`]): by the app alone where it is [`Role::Temporary`], else with a token, too.
    pub is_signed: bool,
    /// What is answered.
    pub answer: Answer,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It registers a client.
    Register,
    /// It brings the temporary token that a browser takes along (RFC 5849 section 2.1).
    Temporary,
    /// It brings the first tokens: for a code, a login, an assertion, or a client's own credentials.
    First,
    /// It makes another access token of one.
    Exchange,
    /// It renews.
    Refresh,
    /// It revokes.
    Revoke,
    /// It says who the account is.
    Identity,
    /// It says anything else about the account: scopes, lists to choose from, whether a key works.
    Details,
}

/// A value that a request carries.
#[derive(Clone, Debug)]
pub struct Param {
    /// Where.
    pub place: Place,
    /// Its name; for [`Place::Json`] a JSON pointer (RFC 6901).
    pub name: String,
    /// What it must be.
    pub value: Pattern,
    /// Whether it may be missing.
    pub optional: bool,
}

/// Where a value stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the query.
    Query,
    /// In a form body.
    Form,
    /// In a JSON body.
    Json,
    /// In a header.
    Header,
    /// Among the parameters of the signature, in the header `Authorization` (RFC 5849 section 3.5.1).
    Signature,
}

/// A text with values in it that the lab knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pattern(pub Vec<Piece>);

/// A part of a [`Pattern`].
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Exactly this.
    Text(String),
    /// A value.
    Value(Value),
    /// Something in Base64 (with padding).
    Base64(Pattern),
    /// The HMAC-SHA-256 of a value in lower-case hex.
    Hmac {
        /// The key.
        key: String,
        /// Of what.
        of: Value,
    },
}

/// A value that the lab gave out, or must check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// An authorization code.
    Code,
    /// The PKCE verifier of that code.
    Verifier,
    /// An access token.
    AccessToken,
    /// A refresh token.
    RefreshToken,
    /// A signed assertion in three parts (RFC 7515 section 3.1). Its signature is not checked.
    Assertion,
    /// Anything but nothing.
    Anything,
}

/// A value that was found in a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// As it is.
    Plain(Value, String),
    /// Its keyed hash.
    Hmac { key: String, of: Value, hex: String },
}

impl Pattern {
    /// A pattern that is exactly this text.
    pub fn text(text: impl Into<String>) -> Self {
        Self(vec![Piece::Text(text.into())])
    }

    /// A pattern that is one value.
    pub fn value(value: Value) -> Self {
        Self(vec![Piece::Value(value)])
    }

    /// The values in a text; nothing where the text does not fit.
    pub(crate) fn read(&self, text: &str) -> Option<Vec<Found>> {
        use base64::Engine as _;
        let (mut found, mut rest) = (Vec::new(), text);
        for (at, piece) in self.0.iter().enumerate() {
            if let Piece::Text(exactly) = piece {
                rest = rest.strip_prefix(exactly.as_str())?;
                continue;
            }
            let end = match self.0.get(at + 1) {
                Some(Piece::Text(next)) => rest.find(next.as_str())?,
                Some(_) => return None,
                None => rest.len(),
            };
            let (value, after) = rest.split_at(end);
            if value.is_empty() {
                return None;
            }
            match piece {
                Piece::Value(what) => found.push(Found::Plain(*what, value.to_owned())),
                Piece::Hmac { key, of } => found.push(Found::Hmac { key: key.clone(), of: *of, hex: value.to_owned() }),
                Piece::Base64(inner) => {
                    let decoded = base64::engine::general_purpose::STANDARD.decode(value).ok()?;
                    found.extend(inner.read(std::str::from_utf8(&decoded).ok()?)?);
                }
                Piece::Text(_) => {}
            }
            rest = after;
        }
        rest.is_empty().then_some(found)
    }
}

/// What is answered with status 200.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Whether it is written as a form (`application/x-www-form-urlencoded`) and not as JSON.
    pub form: bool,
    /// The body; absent for an empty one.
    pub body: Option<Tree>,
}

/// A body with values in it that are made for each answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// This.
    Plain(Json),
    /// A value that is made.
    Said(Said),
    /// A list.
    List(Vec<Tree>),
    /// An object; a member that is left out is not among its members.
    Object(Vec<(String, Tree)>),
}

/// A value that is made for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// A new access token.
    AccessToken,
    /// The refresh token that counts from now on.
    RefreshToken,
    /// The secret that belongs to the access token of the same answer.
    TokenSecret,
    /// A token of something that belongs to the account, such as a page.
    ResourceToken,
    /// Seconds until the access token ends.
    ExpiresIn,
    /// When the access token ends: seconds since 1970.
    ExpiresAtSeconds,
    /// When the access token ends: milliseconds since 1970.
    ExpiresAtMs,
    /// When the access token ends, as in RFC 3339.
    ExpiresAtText,
    /// Seconds until the refresh token ends.
    RefreshExpiresIn,
}

/// How tokens live.
#[derive(Clone, Copy, Debug)]
pub struct TokenLife {
    /// Seconds that an access token lives.
    pub access: u64,
    /// Seconds that a refresh token lives.
    pub refresh: u64,
    /// Whether a refresh replaces the refresh token; the old one is spent then.
    pub rotates: bool,
    /// For how many seconds a spent refresh token still yields its successor.
    pub grace: u64,
    /// Whether a spent refresh token that comes back ends everything that came of it.
    pub reuse_kills_family: bool,
    /// Whether tokens are JWTs whose `exp` says when they end.
    pub jwt: bool,
}

impl Default for TokenLife {
    fn default() -> Self {
        Self { access: 3600, refresh: 30 * 86_400, rotates: false, grace: 0, reuse_kills_family: false, jwt: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_finds_its_values_and_refuses_what_does_not_fit() {
        let bearer = Pattern(vec![Piece::Text("Bearer ".to_owned()), Piece::Value(Value::AccessToken)]);
        assert_eq!(bearer.read("Bearer abc"), Some(vec![Found::Plain(Value::AccessToken, "abc".to_owned())]));
        assert_eq!((bearer.read("bearer abc"), bearer.read("Bearer ")), (None, None));
        let path = Pattern(vec![Piece::Text("/a/".into()), Piece::Value(Value::Anything), Piece::Text("/token".into())]);
        assert_eq!(path.read("/a/7/token"), Some(vec![Found::Plain(Value::Anything, "7".to_owned())]));
        assert_eq!((path.read("/a/7/tokens"), path.read("/a//token")), (None, None));
    }

    #[test]
    fn a_pattern_looks_into_base64() {
        let inner = Pattern(vec![Piece::Text("id:".into()), Piece::Value(Value::RefreshToken)]);
        let basic = Pattern(vec![Piece::Text("Basic ".into()), Piece::Base64(inner)]);
        // `id:secret`
        assert_eq!(basic.read("Basic aWQ6c2VjcmV0"), Some(vec![Found::Plain(Value::RefreshToken, "secret".to_owned())]));
        // `other:secret`, and no Base64 at all
        assert_eq!((basic.read("Basic b3RoZXI6c2VjcmV0"), basic.read("Basic id:secret")), (None, None));
    }
}
