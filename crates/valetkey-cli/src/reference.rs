//! `docs/cli.md`, written from the command line itself, so that the two cannot differ.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::{cli::Cli, failure::EXIT_CODES};

/// The page.
fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut page = String::from("# The command line\n\nWritten from `valetkey --help`; a test keeps it true.\n");
    let about = root.get_long_about().or_else(|| root.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n{about}\n\n## Options of every command\n\n");
    root.get_arguments().filter(|arg| arg.is_global_set()).for_each(|arg| option(&mut page, arg));
    let _ = write!(page, "\n## Exit codes\n\n");
    for line in EXIT_CODES.lines().skip(1) {
        match line.trim().split_once("  ") {
            Some((number, meaning)) => {
                let _ = writeln!(page, "- `{number}` {meaning}");
            }
            None => {
                let _ = writeln!(page, "{line}");
            }
        }
    }
    commands(&mut page, &root, "valetkey");
    page
}

fn commands(page: &mut String, command: &Command, path: &str) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        let about = sub.get_long_about().or_else(|| sub.get_about()).map(ToString::to_string).unwrap_or_default();
        let is_noun = sub.get_subcommands().any(|sub| sub.get_name() != "help");
        let _ = write!(page, "\n{} `{path}`\n\n{about}\n", if is_noun { "##" } else { "###" });
        if !is_noun {
            let own: Vec<&Arg> = sub.get_arguments().filter(|arg| is_own(arg)).collect();
            let _ = write!(page, "\n```sh\n{}\n```\n", usage(&path, &own));
            if !own.is_empty() {
                page.push('\n');
                own.iter().for_each(|arg| option(page, arg));
            }
        }
        commands(page, sub, &path);
    }
}

fn is_own(arg: &Arg) -> bool {
    !arg.is_global_set() && !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn usage(path: &str, own: &[&Arg]) -> String {
    let mut words = vec![path.to_owned()];
    for arg in own.iter().filter(|arg| arg.is_required_set() && !arg.is_positional()) {
        words.push(name(arg));
    }
    if own.iter().any(|arg| !arg.is_required_set() && !arg.is_positional()) {
        words.push("[OPTIONS]".to_owned());
    }
    words.extend(own.iter().filter(|arg| arg.is_positional()).map(|arg| name(arg)));
    words.join(" ")
}

fn name(arg: &Arg) -> String {
    let values: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let many = arg.get_num_args().is_some_and(|range| range.max_values() > 1);
    let (open, close) = if arg.is_required_set() { ("<", ">") } else { ("[", "]") };
    match arg.get_long() {
        None => format!("{open}{}{close}{}", values.join(" "), if many { "..." } else { "" }),
        Some(long) if matches!(arg.get_action(), ArgAction::SetTrue) => format!("--{long}"),
        Some(long) => format!("--{long} <{}>", values.join(" ")),
    }
}

fn option(page: &mut String, arg: &Arg) {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut line = format!("- `{}` {}", name(arg), help.replace('\n', " "));
    let words: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !words.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue) {
        let _ = write!(line, " [one of: {}]", words.join(", "));
    }
    let defaults: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .filter(|value| !value.is_empty())
        .collect();
    if !defaults.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue) {
        let _ = write!(line, " [default: {}]", defaults.join(", "));
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(line, " [env: {}]", variable.to_string_lossy());
    }
    let _ = writeln!(page, "{line}");
}

#[test]
fn what_may_be_left_out_stands_in_square_brackets() {
    let command = Command::new("show")
        .arg(Arg::new("id").required(true).value_name("ID"))
        .arg(Arg::new("names").action(ArgAction::Append).num_args(1..).value_name("NAME"))
        .arg(Arg::new("as").long("as").value_name("WHAT"));
    let mut root = Command::new("valetkey").subcommand(command);
    root.build();
    let show = root.find_subcommand("show").unwrap();
    let own: Vec<&Arg> = show.get_arguments().filter(|arg| is_own(arg)).collect();
    assert_eq!(usage("valetkey show", &own), "valetkey show [OPTIONS] <ID> [NAME]...");
}

/// `UPDATE_GOLDEN=1 cargo test -p valetkey-cli reference` writes the page anew.
#[test]
fn docs_cli_md_says_what_help_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = reference();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/cli.md is out of date: UPDATE_GOLDEN=1 cargo test -p valetkey-cli reference");
}
