//! What a person would enter for a definition, and what answers bring beside tokens: values that fit.

use std::collections::{BTreeMap, BTreeSet};

use provider_lab::private_key;
use serde_json::{Map, Value as Json};
use valetkey::provider::{Definition, Field, FieldType, Normalize, Parse, Role};

/// What a person would enter.
pub(super) fn value_of(definition: &Definition, field: &Field) -> Result<String, String> {
    let key_of = |text: &str| definition.jwt.as_ref().is_some_and(|jwt| jwt.key.as_str() == format!("{{{{field.{text}}}}}"));
    let algorithm = definition.jwt.as_ref().map(|jwt| jwt.alg.as_str()).unwrap_or_default();
    let key = || private_key(algorithm).map_err(|error| error.to_string());
    if let Some(default) = &field.default {
        return Ok(default.clone());
    }
    if field.parse == Some(Parse::Json) {
        let text = definition.to_json().map_err(|error| error.to_string())?.to_string();
        let mut object = Map::new();
        for rest in text.split(&format!("field.{}.", field.name)).skip(1) {
            let member: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let value = if key_of(&format!("{}.{member}", field.name)) { key()? } else { format!("{member}@lab.example") };
            object.insert(member, value.into());
        }
        return Ok(Json::Object(object).to_string());
    }
    if key_of(&field.name) {
        return key();
    }
    if let Some(pattern) = &field.pattern {
        let first = pattern.to_string();
        return Ok(first.split('|').next().unwrap_or_default().replace('*', "0123456789abcdef"));
    }
    let name = field.name.replace('_', "-");
    Ok(match (field.kind, field.normalize) {
        (_, Some(Normalize::HttpsOrigin)) => format!("https://{name}.lab.example"),
        (_, Some(Normalize::Pem)) => private_key("RS256").map_err(|error| error.to_string())?,
        (FieldType::Url, None) => format!("https://{name}.lab.example/"),
        (FieldType::Number, _) => "1".to_owned(),
        (FieldType::Select, _) => field.options.first().cloned().unwrap_or_default(),
        _ if field.role == Some(Role::Username) => "alice".to_owned(),
        _ => format!("lab-{name}-0123456789abcdef"),
    })
}

/// A value for everything that an answer brings beside tokens: an address where it is used as one.
pub(super) fn extras_of(definition: &Definition) -> Result<BTreeMap<String, String>, String> {
    fn collect(at: &Json, names: &mut BTreeSet<String>) {
        match at {
            Json::Object(members) => {
                for (name, member) in members {
                    if name == "out"
                        && let Json::Object(outputs) = member
                    {
                        names.extend(outputs.keys().filter_map(|out| out.strip_prefix("extra.")).map(str::to_owned));
                    }
                    collect(member, names);
                }
            }
            Json::Array(items) => items.iter().for_each(|item| collect(item, names)),
            _ => {}
        }
    }
    let whole = definition.to_json().map_err(|error| error.message().to_owned())?;
    let text = whole.to_string();
    let mut names = BTreeSet::new();
    collect(&whole, &mut names);
    let is_origin = |name: &str| {
        let (alone, before) = (format!("{{{{extra.{name}}}}}"), format!("\"{{{{extra.{name}}}}}/"));
        let is_base = whole.pointer("/proxy/base_url").and_then(Json::as_str) == Some(alone.as_str());
        is_base || text.contains(&before) || text.contains(&format!("{{{{extra.{name}|host}}}}"))
    };
    let value = |name: &String| match is_origin(name) {
        true => format!("https://{}.lab.example", name.replace('_', "-")),
        false => format!("extra-{name}"),
    };
    Ok(names.iter().map(|name| (name.clone(), value(name))).collect())
}
