//! What comes in with a new session, checked: scopes, and the fields that are entered for a connection.

use serde_json::{Map, Value};

use crate::{
    base::Outside,
    error::{Code, Error, Result},
    provider::{Definition, FieldLevel, Normalize},
};

/// The most scopes of one session.
const MAX_SCOPES: usize = 100;
/// The longest scope, in bytes.
const MAX_SCOPE: usize = 256;

/// The scopes to ask for: those named or the definition's, and those that bring a refresh token.
pub(super) fn wanted_scopes(definition: &Definition, named: Option<Vec<String>>) -> Result<Vec<String>> {
    let Some(mut scopes) = named else { return Ok(definition.needed_scopes()) };
    let Some(oauth2) = &definition.oauth2 else {
        return if scopes.is_empty() {
            Ok(scopes)
        } else {
            Err(Error::new(Code::InvalidRequest, format!("{} knows no scopes; leave them out", definition.title)))
        };
    };
    let separator = oauth2.scope_separator.trim();
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
    for scope in &oauth2.scopes.offline {
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
    let mut fields = Map::new();
    for field in definition.fields_of(FieldLevel::Connection).filter(|field| !field.secret) {
        let entered = match given.get(&field.name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return refuse(format!("{}: it is a text", field.name)),
        };
        let Some(accepted) = field.accept(&entered)? else { continue };
        if field.normalize == Some(Normalize::HttpsOrigin) {
            let url = url::Url::parse(&accepted).map_err(Error::internal)?;
            outside.upstream.guard().check_url(&url)?;
        }
        fields.insert(field.name.clone(), Value::String(accepted));
    }
    Ok(fields)
}
