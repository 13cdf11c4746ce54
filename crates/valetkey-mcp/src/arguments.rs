//! What the tools take. The schemas that clients read are made of these types, so that the two cannot differ.

use std::collections::BTreeMap;

use rmcp::{model::JsonObject, schemars::JsonSchema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::tools::Refused;

/// `list`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(crate) struct List {
    /// Only the connections that come after this one: the `next` of the page before.
    pub(crate) after: Option<String>,
    /// How many connections are looked at for a page.
    #[serde(default = "page")]
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) limit: u16,
    /// Ask without the person that your token acts for, as in work that nobody started.
    #[serde(default)]
    pub(crate) unattended: bool,
}

/// How many connections `list` looks at where nobody says how many: what a model reads at once without losing its way.
fn page() -> u16 {
    100
}

/// `connect`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(crate) struct Connect {
    /// At which provider, by its short name, such as `github`.
    pub(crate) provider: String,
    /// Why, for the person who decides.
    pub(crate) reason: String,
    /// For whom you would use the account: `owner`, `unattended`, `operators`, or a list of people. May be left out where your
    /// token acts for the person who is asked.
    pub(crate) for_whom: Option<Whom>,
    /// Ask without the person that your token acts for.
    #[serde(default)]
    pub(crate) unattended: bool,
}

/// `request`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(crate) struct Request {
    /// Which connection: one that `list` names. Leave it out to ask for any account at the provider.
    pub(crate) connection: Option<String>,
    /// At which provider; may be left out where a connection is named.
    pub(crate) provider: Option<String>,
    /// Only these operations: patterns such as `POST /api/posts`, or names that the provider's definition has, such as
    /// `issue.create`. All that the broker lets through, when left out; who is asked for less says yes sooner.
    pub(crate) operations: Option<Vec<String>>,
    /// How: `proxy` (the broker makes the calls, as `call` does; so when left out) or `reveal` (the account's token itself, which
    /// no tool here hands out).
    #[serde(default)]
    pub(crate) delivery: Vec<String>,
    /// For whom: `owner`, `unattended`, `operators`, or a list of people. May be left out where your token acts for the person
    /// who is asked.
    pub(crate) for_whom: Option<Whom>,
    /// Why, for the person who decides.
    pub(crate) reason: String,
    /// Ask without the person that your token acts for.
    #[serde(default)]
    pub(crate) unattended: bool,
}

/// For whom an account is used.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(crate = "rmcp::schemars")]
pub(crate) enum Whom {
    /// `owner`, `unattended` or `operators`.
    Word(String),
    /// The ids of people.
    People(Vec<String>),
}

/// `call`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(crate) struct Call {
    /// A connection's id as `list` names it; or a provider's name, where you can use exactly one connection there.
    pub(crate) connection: String,
    /// The method, such as `GET`.
    pub(crate) method: String,
    /// The path below the provider's base URL, from its first `/`, with the query: `/user/repos?per_page=5`. Percent-encoded as it
    /// is to be sent.
    pub(crate) path: String,
    /// Another of the connection's `hosts` than the base URL's.
    pub(crate) host: Option<String>,
    /// Headers for the provider. The broker adds the credential; there is no `Authorization` here.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body, as text. It is said to be `application/json` where the headers name no `Content-Type`.
    pub(crate) body: Option<String>,
    /// The body as base64, where it is no text.
    pub(crate) body_base64: Option<String>,
    /// Which of the connection's tokens, where `list` names resources with tokens of their own, such as `page/1234`.
    pub(crate) slot: Option<String>,
    /// The approval that carries this call: its id, once somebody said yes. Everything else must be what it was.
    pub(crate) approval: Option<String>,
    /// Call without the person that your token acts for.
    #[serde(default)]
    pub(crate) unattended: bool,
}

/// `status`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(crate) struct Status {
    /// The id of an approval (`apr_...`) or of a proposal (`pro_...`).
    pub(crate) id: String,
    /// Wait so many seconds for an answer, 30 at most, where there is none yet. Approvals only.
    #[serde(default)]
    #[schemars(range(max = 30))]
    pub(crate) wait: u8,
    /// Ask without the person that your token acts for.
    #[serde(default)]
    pub(crate) unattended: bool,
}

/// `revoke`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(crate) struct Revoke {
    /// The id of your own token, which `list` tells (`tok_...`).
    pub(crate) token: String,
}

/// Takes a tool's arguments apart.
///
/// # Errors
/// `invalid_request`, without the values that were sent.
pub(crate) fn read<T: DeserializeOwned>(arguments: JsonObject) -> Result<T, Refused> {
    serde_json::from_value(Value::Object(arguments)).map_err(|why| {
        let text = why.to_string();
        // serde quotes what it did not expect.
        let plain = ["missing field", "unknown field"].iter().any(|kind| text.starts_with(kind));
        let why = if plain { text } else { "one of them is of another type than the tool's schema says".to_owned() };
        Refused::invalid(&format!("the arguments cannot be read: {why}"))
    })
}

/// The members of a wish that are there.
pub(crate) fn wish(members: [(&str, Option<Value>); 6]) -> Value {
    let present = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}
