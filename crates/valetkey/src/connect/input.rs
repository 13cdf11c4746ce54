//! What comes in with a new session, checked: scopes, and the fields that are entered for a connection.

use serde_json::{Map, Value};

use crate::{
    base::Outside,
    error::{Code, Error, Result},
    provider::{Definition, Field, FieldLevel, Normalize, Parse},
    secret::SecretMap,
};

/// The most scopes of one session.
const MAX_SCOPES: usize = 100;
/// The longest scope, in bytes.
const MAX_SCOPE: usize = 256;

/// The scopes to ask for: those named or the definition's, and those that bring a refresh token.
pub(super) fn wanted_scopes(definition: &Definition, named: Option<Vec<String>>) -> Result<Vec<String>> {
    let Some(mut scopes) = named else { return Ok(definition.needed_scopes()) };
    let oauth2 = definition.oauth2.as_ref();
    if oauth2.is_none() && definition.jwt.is_none() && !scopes.is_empty() {
        return Err(Error::new(Code::InvalidRequest, format!("{} knows no scopes; leave them out", definition.title)));
    }
    let separator = oauth2.map_or(" ", |oauth2| oauth2.scope_separator.as_str()).trim();
    for scope in &scopes {
        // The characters of RFC 6749 section 3.3. A separator inside would smuggle in a second scope.
        let plain = scope.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        let one = separator.is_empty() || !scope.contains(separator);
        if scope.is_empty() || scope.len() > MAX_SCOPE || !plain || !one {
            return Err(Error::new(Code::InvalidRequest, "a scope is one word of printable ASCII, without quotes and commas"));
        }
    }
    if scopes.len() > MAX_SCOPES {
        return Err(Error::new(Code::InvalidRequest, format!("a session asks for at most {MAX_SCOPES} scopes")));
    }
    for scope in oauth2.map(|oauth2| oauth2.scopes.offline.as_slice()).unwrap_or_default() {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    scopes.retain(|scope| seen.insert(scope.clone()));
    Ok(scopes)
}

/// Checks what was entered for the connection. An address is checked by the guard: it decides where secrets go.
pub(super) fn accept_fields(
    outside: &Outside,
    definition: &Definition,
    given: &Map<String, Value>,
) -> Result<Map<String, Value>> {
    known_and_plain(definition, given)?;
    let fields = definition.fields_of(FieldLevel::Connection).filter(|field| !field.secret);
    accept_each(outside, fields, given)
}

/// The same for an account that is entered later: only what is given is checked. The person is shown it and cannot change it.
pub(super) fn accept_given(outside: &Outside, definition: &Definition, given: &Map<String, Value>) -> Result<Map<String, Value>> {
    known_and_plain(definition, given)?;
    let fields =
        definition.fields_of(FieldLevel::Connection).filter(|field| given.get(&field.name).is_some_and(|v| !v.is_null()));
    accept_each(outside, fields, given)
}

/// Checks all that was entered for a connection, secrets among it.
pub(super) fn accept_entered(outside: &Outside, definition: &Definition, given: &SecretMap) -> Result<SecretMap> {
    let fields = definition.fields_of(FieldLevel::Connection);
    accept_each(outside, fields, given.expose()).map(SecretMap::new)
}

fn known_and_plain(definition: &Definition, given: &Map<String, Value>) -> Result<()> {
    let refuse = |why: String| Err(Error::new(Code::InvalidRequest, why));
    for name in given.keys() {
        match definition.fields_of(FieldLevel::Connection).find(|field| &field.name == name) {
            Some(field) if field.secret => {
                return refuse(format!("{name} is a secret and is not taken with a link; store it by the account routes"));
            }
            Some(_) => {}
            None => return refuse(format!("{} has no connection field `{name}`", definition.title)),
        }
    }
    Ok(())
}

fn accept_each<'d>(
    outside: &Outside,
    fields: impl Iterator<Item = &'d Field>,
    given: &Map<String, Value>,
) -> Result<Map<String, Value>> {
    let mut accepted_fields = Map::new();
    for field in fields {
        let entered = match given.get(&field.name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            // A key file may be given as what it is.
            Some(Value::Object(object)) if field.parse == Some(Parse::Json) => {
                serde_json::to_string(object).map_err(Error::internal)?
            }
            Some(_) => return Err(Error::new(Code::InvalidRequest, format!("{}: it is a text", field.name))),
        };
        let Some(accepted) = field.accept(&entered)? else { continue };
        if field.normalize == Some(Normalize::HttpsOrigin) {
            let url = url::Url::parse(&accepted).map_err(Error::internal)?;
            outside.upstream.guard().check_url(&url)?;
        }
        accepted_fields.insert(field.name.clone(), Value::String(accepted));
    }
    Ok(accepted_fields)
}
