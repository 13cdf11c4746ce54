//! `valetkey auth config`: an app at a provider. Secrets come in by a file, standard input or the keyboard, and never out.

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use valetkey::{app_config::MASK, principal::Owner};

use super::provider_path;
use crate::{
    client::Client,
    commands::{
        Session,
        owner::Whose,
        provider::{Form, app_path, pair},
    },
    failure::{Failure, Result},
    output::{cell, facts, items, table},
    secrets,
};

/// An app at a provider. With nothing to change it is shown.
#[derive(Args, Debug)]
pub(crate) struct Config {
    /// The provider, as `valetkey provider list` names it
    provider: String,
    #[command(flatten)]
    whose: Whose,
    /// Set a value that is no secret; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    field: Vec<(String, String)>,
    /// Set a secret value from a file; - is standard input; may be repeated
    #[arg(long, value_name = "KEY=FILE", value_parser = pair)]
    secret_file: Vec<(String, String)>,
    /// Take a value out; may be repeated
    #[arg(long, value_name = "KEY")]
    clear: Vec<String>,
    /// Ask for every value that is not given; nothing typed keeps what is stored
    #[arg(long)]
    ask: bool,
    /// Have the provider's flows return to this address of yours, which sends the browser on to the broker's own callback
    /// with its whole query
    #[arg(long, value_name = "URL", conflicts_with_all = ["user", "agent"])]
    callback: Option<String>,
    /// Have the provider's flows return to the broker's own callback again
    #[arg(long, conflicts_with_all = ["callback", "user", "agent"])]
    own_callback: bool,
}

impl Config {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        if self.ask && !secrets::can_ask() {
            return Err(Failure::usage("--ask: nobody can be asked here; use --field and --secret-file"));
        }
        let answer = session
            .with(async |client| {
                let provider = client.call(Method::GET, &provider_path(&self.provider)?, None).await?;
                let owner = self.whose.owner(client).await?;
                let values = self.values(&provider)?;
                if !values.is_empty() {
                    client.call(Method::PATCH, &app_path(&self.provider, &owner)?, Some(&json!({ "values": values }))).await?;
                }
                let callback = format!("{}/callback", provider_path(&self.provider)?);
                if let Some(url) = &self.callback {
                    client.call(Method::PUT, &callback, Some(&json!({ "url": url }))).await?;
                } else if self.own_callback {
                    client.call(Method::DELETE, &callback, None).await?;
                }
                look(client, &self.provider, &owner).await
            })
            .await?;
        session.out.show(&answer, show)
    }

    fn values(&self, provider: &Value) -> Result<Map<String, Value>> {
        let form = Form { provider, level: "app", set: &self.field, files: &self.secret_file };
        let mut values = form.values(self.ask)?;
        for key in &self.clear {
            if values.insert(key.clone(), Value::Null).is_some_and(|before| !before.is_null()) {
                return Err(Failure::usage(format!("{key} is set and cleared at once")));
            }
        }
        Ok(values)
    }
}

/// The app as it is now, with the fields that it could have.
async fn look(client: &Client, name: &str, owner: &Owner) -> Result<Value> {
    let provider = client.call(Method::GET, &provider_path(name)?, None).await?;
    let app = match client.call(Method::GET, &app_path(name, owner)?, None).await {
        Err(failure) if failure.code() == "not_found" => Value::Null,
        found => found?,
    };
    let fields: Vec<Value> = items(&provider, "fields")
        .iter()
        .filter(|field| cell(field, "/level") == "app")
        .map(|field| {
            let mut shown = json!({ "value": app.pointer("/values").and_then(|values| values.get(cell(field, "/name"))) });
            for member in ["name", "label", "type", "required", "secret", "description"] {
                shown[member] = field.get(member).cloned().unwrap_or_default();
            }
            shown
        })
        .collect();
    Ok(json!({
        "provider": name,
        "owner": owner,
        "configured": app.get("configured").and_then(Value::as_bool).unwrap_or(false),
        "setup_url": provider.get("setup_url"),
        "callback_url": provider.get("callback_url"),
        "callback_overridden": provider.get("callback_overridden"),
        "updated_at": app.get("updated_at"),
        "fields": fields,
    }))
}

fn show(answer: &Value) -> String {
    let about = facts(&[
        ("provider", cell(answer, "/provider")),
        ("whose", cell(answer, "/owner")),
        ("configured", cell(answer, "/configured")),
        ("your app is made at", cell(answer, "/setup_url")),
        ("callback to register", cell(answer, "/callback_url")),
        ("last changed", cell(answer, "/updated_at")),
    ]);
    let row = |field: &Value| {
        let value = match cell(field, "/value").as_str() {
            "" => "(not set)".to_owned(),
            MASK => "(secret, stored)".to_owned(),
            value => value.to_owned(),
        };
        vec![cell(field, "/name"), cell(field, "/label"), cell(field, "/required"), value, cell(field, "/description")]
    };
    let rows = items(answer, "fields").iter().map(row).collect();
    format!("{about}\n\n{}", table(&["field", "label", "required", "value", "about"], rows, "it needs no app of yours"))
}
