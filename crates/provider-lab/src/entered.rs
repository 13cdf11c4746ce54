//! Accounts at the lab that are made of entered values: sessions begun with an app password at the server that holds the
//! account, logins for a token, signed assertions (RFC 7523), client credentials (RFC 6749 section 4.4), and a static key.
//!
//! | route | what |
//! |---|---|
//! | `GET /resolve?handle=`, `GET /did/{did}` | a directory: whose a handle is, and which server holds that account |
//! | `POST /session`, `GET /session`, `POST /session/refresh`, `POST /session/delete` | a session, in the manner of atproto |
//! | `POST /login` | e-mail address and password for a token; a refusal has status 200, as GraphQL answers it |
//! | `POST /assertion` | RFC 7523 section 2.1 |
//! | `POST /installations/{id}/tokens` | a token for an installation of an app that proves itself by an assertion |
//!
//! Assertions are verified: the signature, `iss`, `aud`, and that `exp` lies at most an hour after `iat`. They are not held
//! against the lab's clock, because a test moves the broker's own.

use std::collections::BTreeMap;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};
use base64::Engine as _;
use serde_json::Value;

use crate::{
    control::Control,
    settings::{PEOPLE, Person},
    tokens::Refusal,
    world::same,
};

/// The app password of everybody at first.
pub const APP_PASSWORD: &str = "lab-app-password";
/// The installation of every app.
pub const INSTALLATION: &str = "4711";

/// How an assertion is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl Signing {
    /// The name in a token's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Signing::Rs256 => "RS256",
            Signing::Es256 => "ES256",
        }
    }
}

/// What the lab knows of such accounts.
#[derive(Default)]
pub(crate) struct Entered {
    /// The server that the directory names; the lab itself where absent.
    pub(crate) server: Option<String>,
    /// App passwords that were changed, by username.
    passwords: BTreeMap<&'static str, String>,
    /// Public keys of those who sign assertions, by `iss`.
    keys: BTreeMap<String, (Signing, Vec<u8>)>,
}

impl Entered {
    /// The person with this handle, DID, username or e-mail address, if the password is theirs.
    pub(crate) fn sign_in(&self, who: &str, password: &str) -> Option<&'static Person> {
        let person = person(who)?;
        let right = self.passwords.get(person.username).map_or(APP_PASSWORD, String::as_str);
        same(right, password).then_some(person)
    }

    /// The claims of an assertion whose issuer is known here and that is meant for `audience`.
    pub(crate) fn verify(&self, assertion: &str, audience: Option<&str>) -> Result<Value, Refusal> {
        let wrong = || Refusal::grant("the assertion is not valid");
        let decode = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).map_err(|_| wrong());
        let (signed, signature) = assertion.rsplit_once('.').ok_or_else(wrong)?;
        let (header, claims) = signed.split_once('.').ok_or_else(wrong)?;
        let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| wrong());
        let (header, claims) = (json(header)?, json(claims)?);
        let issuer = claims["iss"].as_str().ok_or_else(wrong)?;
        let (signing, key) = self.keys.get(issuer).ok_or_else(|| Refusal::grant("nobody knows this issuer"))?;
        let algorithm: &'static dyn VerificationAlgorithm = match signing {
            Signing::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Signing::Es256 => &ECDSA_P256_SHA256_FIXED,
        };
        if header["alg"] != signing.as_str() {
            return Err(wrong());
        }
        UnparsedPublicKey::new(algorithm, key).verify(signed.as_bytes(), &decode(signature)?).map_err(|_| wrong())?;
        let (issued, ends) = (claims["iat"].as_i64().ok_or_else(wrong)?, claims["exp"].as_i64().ok_or_else(wrong)?);
        let life = ends.saturating_sub(issued);
        if !(1..=3600).contains(&life) {
            return Err(Refusal::grant("an assertion lives for an hour at most"));
        }
        if audience.is_some_and(|audience| claims["aud"] != audience) {
            return Err(Refusal::grant("the assertion is for somebody else"));
        }
        Ok(claims)
    }
}

/// The person with this handle, DID, username or e-mail address.
pub(crate) fn person(who: &str) -> Option<&'static Person> {
    PEOPLE.iter().find(|person| who == person.username || who == person.email || who == handle(person) || who == did(person))
}

pub(crate) fn handle(person: &Person) -> String {
    format!("{}.lab.example", person.username)
}

pub(crate) fn did(person: &Person) -> String {
    format!("did:lab:{}", person.id)
}

impl Control {
    /// Lets the directory name another server for every account; none names the lab again.
    pub fn move_accounts(&self, server: Option<&str>) {
        self.world.with(|state, _| state.entered.server = server.map(str::to_owned));
    }

    /// Changes a person's app password. False if nobody of that name lives here.
    pub fn change_password(&self, person: &str, password: &str) -> bool {
        let Some(person) = Person::named(person) else { return false };
        self.world.with(|state, _| state.entered.passwords.insert(person.username, password.to_owned()));
        true
    }

    /// Makes a key for whoever signs assertions as `issuer`, in place of the one that was there; the private key as PEM
    /// (PKCS#8). None where no key could be made.
    pub fn signing_key(&self, issuer: &str, signing: Signing) -> Option<String> {
        let (private, public) = match signing {
            Signing::Rs256 => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).ok()?;
                let private = AsDer::<Pkcs8V1Der<'static>>::as_der(&pair).ok()?;
                (private.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
            }
            Signing::Es256 => {
                let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let private = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).ok()?;
                let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref()).ok()?;
                (private.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
            }
        };
        self.world.with(|state, _| state.entered.keys.insert(issuer.to_owned(), (signing, public)));
        let text = base64::engine::general_purpose::STANDARD.encode(private);
        let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        Some(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")))
    }

    /// The definition by which a broker begins sessions here.
    pub fn session_definition(&self) -> String {
        let origin = self.origin();
        format!(
            r##"title = "Lab session"
kind = "session"
setup_url = "{origin}/"

[fields]
username = {{ label = "Handle", type = "text", required = true, level = "connection", role = "username", placeholder = "alice.lab.example" }}
app_password = {{ label = "App Password", type = "password", required = true, secret = true, level = "connection", role = "password", description = "Not the password of the account" }}
service = {{ label = "Service", type = "url", level = "connection", default = "{origin}", normalize = "https_origin" }}

[extra_defaults]
pds = "{{{{field.service}}}}"

[session]
resolve_unless = "service"

[[session.resolve]]
method = "GET"
url = "{origin}/resolve"
query = {{ handle = "{{{{field.username}}}}" }}
out = {{ id = "did", "extra.did" = "did" }}

[[session.resolve]]
method = "GET"
url = "{origin}/did/{{{{extra.did}}}}"
out = {{ id = "id", "extra.pds" = "$.service[?@.id=='#lab_pds'].serviceEndpoint" }}

[session.login]
method = "POST"
url = "{{{{extra.pds}}}}/session"
json = {{ identifier = "{{{{field.username}}}}", password = "{{{{field.app_password}}}}" }}
error_path = "error"
out = {{ access_token = "accessJwt", refresh_token = "refreshJwt", expires_in = "expiresIn", id = "did", username = "handle", "extra.pds" = "$.didDoc.service[?@.id=='#lab_pds'].serviceEndpoint" }}

[refresh]
strategy = "refresh_token"
method = "POST"
url = "{{{{extra.pds}}}}/session/refresh"
auth = "bearer_refresh"
error_path = "error"
out = {{ access_token = "accessJwt", refresh_token = "refreshJwt", expires_in = "expiresIn" }}
before = "5m"
access_ttl = "1h"
rotation = "always"
terminal_errors = ["ExpiredToken"]
fallback = "session.login"

[revoke]
method = "POST"
url = "{{{{extra.pds}}}}/session/delete"
auth = "bearer_refresh"
kills = "family"

[identity]
method = "GET"
url = "{{{{extra.pds}}}}/session"
auth = "bearer"
out = {{ id = "did", username = "handle" }}

[proxy]
base_url = "{{{{extra.pds}}}}"
hosts = ["{{{{extra.pds|host}}}}"]
inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{token.access_token}}}}" }}]
credential_paths = ["/session", "/session/**", "/login", "/assertion", "/installations/**", "/token", "/lab/**"]
"##
        )
    }

    /// The definition by which a broker logs in here for a token, and logs in again when that ends.
    pub fn login_definition(&self) -> String {
        let origin = self.origin();
        format!(
            r#"title = "Lab login"
kind = "session"

[fields]
email = {{ label = "Email", type = "text", required = true, level = "connection", role = "username" }}
password = {{ label = "Password", type = "password", required = true, secret = true, level = "connection", role = "password" }}

[session.login]
method = "POST"
url = "{origin}/login"
json = {{ email = "{{{{field.email}}}}", password = "{{{{field.password}}}}" }}
fail_when = [{{ path = "errors[0]", exists = true, error = "login_refused" }}]
out = {{ access_token = "data.token", expires_in = "data.expiresIn", id = "data.userId" }}

[refresh]
strategy = "remint"
before = "1m"
access_ttl = "1h"
terminal_errors = ["login_refused"]

[identity]
static = {{ id = "{{{{field.email}}}}", email = "{{{{field.email}}}}" }}

{proxy}"#,
            proxy = self.bearer_proxy()
        )
    }

    /// The definition by which a broker shows assertions of a service account here, pasted as a JSON file.
    pub fn assertion_definition(&self, signing: Signing) -> String {
        let (origin, alg) = (self.origin(), signing.as_str());
        format!(
            r#"title = "Lab service account"
kind = "jwt_bearer"

[fields]
service_account_json = {{ label = "Service account JSON", type = "textarea", required = true, secret = true, level = "connection", parse = "json", public_members = ["client_email"] }}

[jwt]
alg = "{alg}"
key = "{{{{field.service_account_json.private_key}}}}"
claims = {{ iss = "{{{{field.service_account_json.client_email}}}}", scope = "{{{{scopes}}}}", aud = "{origin}/assertion" }}
scopes = ["posts:read"]
ttl = "1h"

[mint]
method = "POST"
url = "{origin}/assertion"
form = {{ grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer", assertion = "{{{{jwt}}}}" }}
out = {{ access_token = "access_token", expires_in = "expires_in" }}

[refresh]
strategy = "remint"
before = "2m"
access_ttl = "1h"

[identity]
static = {{ id = "{{{{field.service_account_json.client_email}}}}" }}

{proxy}"#,
            proxy = self.bearer_proxy()
        )
    }

    /// The definition by which a broker draws tokens for an installation of its app.
    pub fn installation_definition(&self) -> String {
        let origin = self.origin();
        format!(
            r#"title = "Lab installation"
kind = "jwt_bearer"

[fields]
app_id = {{ label = "App ID", type = "text", required = true, level = "app" }}
app_key = {{ label = "Private key", type = "textarea", required = true, secret = true, level = "app", normalize = "pem" }}
installation = {{ label = "Installation", type = "text", required = true, level = "connection" }}

[jwt]
alg = "RS256"
key = "{{{{field.app_key}}}}"
claims = {{ iss = "{{{{field.app_id}}}}" }}
backdate = "60s"
ttl = "9m"

[mint]
method = "POST"
url = "{origin}/installations/{{{{field.installation}}}}/tokens"
auth = "jwt"
out = {{ access_token = "token", expires_in = "expires_in" }}

[refresh]
strategy = "remint"
before = "1m"
access_ttl = "1h"
terminal_errors = ["http_404"]

[identity]
static = {{ id = "{{{{field.installation}}}}" }}

{proxy}"#,
            proxy = self.bearer_proxy()
        )
    }

    /// The definition by which a broker draws tokens as a client of its own (RFC 6749 section 4.4).
    pub fn client_credentials_definition(&self) -> String {
        let origin = self.origin();
        format!(
            r#"title = "Lab client"
kind = "oauth2"

[fields]
client_id = {{ label = "Client ID", type = "text", required = true, level = "connection", role = "client_id" }}
client_secret = {{ label = "Client secret", type = "password", required = true, secret = true, level = "connection", role = "client_secret" }}

[oauth2]
flows = ["client_credentials"]
token_url = "{origin}/token"
client_auth = "basic"
scopes = {{ default = ["posts:read"] }}

[refresh]
strategy = "remint"
before = "2m"
access_ttl = "1h"

[identity]
static = {{ id = "{{{{field.client_id}}}}" }}

{proxy}"#,
            proxy = self.bearer_proxy()
        )
    }

    /// The definition by which a broker keeps the lab's static key.
    pub fn key_definition(&self) -> String {
        let (origin, host) = (self.origin(), self.addr());
        format!(
            r#"title = "Lab key"
kind = "static"
setup_url = "{origin}/"

[fields]
api_key = {{ label = "API key", type = "password", required = true, secret = true, level = "connection", role = "token" }}
note = {{ label = "Note", type = "text", level = "connection", description = "What you call it" }}

[verify]
method = "GET"
url = "{origin}/api/key"
auth = "proxy"

[proxy]
base_url = "{origin}/api"
hosts = ["{host}"]
inject = [{{ in = "header", name = "x-api-key", value = "{{{{field.api_key}}}}" }}]
"#
        )
    }

    fn bearer_proxy(&self) -> String {
        let (origin, host) = (self.origin(), self.addr());
        format!(
            r#"[proxy]
base_url = "{origin}/api"
hosts = ["{host}"]
inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{token.access_token}}}}" }}]
credential_paths = ["/session", "/session/**", "/login", "/assertion", "/installations/**", "/token", "/lab/**"]
"#
        )
    }
}
