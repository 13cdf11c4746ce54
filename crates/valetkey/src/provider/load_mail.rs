//! The section `mail`: where a mailbox's servers are, and who logs in there with what.

use super::{
    definition::{Mail, MailServer},
    load::{Loader, is_name},
    spanned::{Item, NodeValue, Table},
    template::Template,
    words::{Kind, MailCheck, MailMechanism},
};

impl Loader<'_> {
    pub(super) fn mail(&self, table: &Table<'_>) -> Mail {
        table.allow(&["check", "mechanisms", "imap", "smtp"]);
        let check: Vec<MailCheck> = table.list("check").iter().filter_map(Item::word).collect();
        let mechanisms: Vec<MailMechanism> = table.list("mechanisms").iter().filter_map(Item::word).collect();
        for (wanted, needed) in [(MailCheck::ImapLogin, "imap"), (MailCheck::SmtpAuth, "smtp")] {
            if check.contains(&wanted) && !table.has(needed) {
                table.wrong("check", format!("{wanted} needs [mail.{needed}]"));
            }
        }
        if !table.has("imap") && !table.has("smtp") {
            table.missing("imap", "a mailbox has [mail.imap], [mail.smtp] or both");
        }
        let takes_password = |mechanism: &MailMechanism| matches!(mechanism, MailMechanism::Plain | MailMechanism::Login);
        if !mechanisms.iter().any(|mechanism| takes_password(mechanism) == (self.kind == Kind::Mail)) {
            let which = if self.kind == Kind::Mail { "PLAIN or LOGIN" } else { "XOAUTH2 or OAUTHBEARER" };
            table.wrong("mechanisms", format!("names {which}, for this is how kind = \"{}\" logs in", self.kind));
        }
        let server = |key: &str| table.table(key).and_then(|table| self.mail_server(&table));
        Mail { check, mechanisms, imap: server("imap"), smtp: server("smtp") }
    }

    fn mail_server(&self, table: &Table<'_>) -> Option<MailServer> {
        table.allow(&["host", "port", "security", "user", "password", "operations"]);
        let (host, port, security) = (self.plain(table, "host"), self.plain(table, "port"), self.plain(table, "security"));
        let (user, password) = (self.first_of(table, "user"), self.first_of(table, "password"));
        if user.iter().any(Template::is_secret) {
            table.wrong("user", "holds a secret");
        }
        // One way in for each kind: a password that was entered, or a token that is kept fresh.
        match (self.kind, table.has("password")) {
            (Kind::Mail, false) => table.missing("password", "the field in which it is entered"),
            (Kind::Mail, true) | (_, false) => {}
            (_, true) => table.wrong("password", "belongs to kind = \"mail\"; here the access token opens the mailbox"),
        }
        if self.kind == Kind::Mail && !table.has("user") {
            table.missing("user", "the field in which it is entered");
        }
        let operations = table.texts("operations");
        if operations.is_empty() {
            table.missing("operations", "what the server is needed for, such as [\"read\"]");
        }
        for word in operations.iter().filter(|word| !is_name(word)) {
            table.wrong("operations", format!("\"{word}\" is not made of a-z, 0-9 and _"));
        }
        Some(MailServer { host: host?, port: port?, security: security?, user, password, operations })
    }

    /// A template that must be there and holds no secret.
    fn plain(&self, table: &Table<'_>, key: &str) -> Option<Template> {
        let Some(item) = table.item(key) else {
            table.missing(key, "");
            return None;
        };
        let template = self.template(&item)?;
        if template.is_secret() {
            table.wrong(key, "holds a secret");
        }
        Some(template)
    }

    /// A template, or several of which the first that is there counts.
    fn first_of(&self, table: &Table<'_>, key: &str) -> Vec<Template> {
        let Some(item) = table.item(key) else { return Vec::new() };
        let items = match item.node.value {
            NodeValue::List(_) => item.list().unwrap_or_default(),
            _ => vec![item],
        };
        items.iter().filter_map(|item| self.template(item)).collect()
    }
}
