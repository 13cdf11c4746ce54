//! What a command ends with when it fails: the problem document, and the exit code that belongs to it.

use std::{fmt, process::ExitCode};

use serde_json::{Value, json};
use valetkey::{Code, Error};

/// Exit codes; a script may rely on them. `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Refused or failed.
    Failed = 1,
    /// The command line or a setting is wrong; clap uses the same number.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// It exists already, changed meanwhile, or the name fits more than one.
    Conflict = 4,
    /// The server or the database cannot be reached or opened.
    Unreachable = 5,
}

/// The text about exit codes at the end of `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed
  2  the command line or a setting is wrong
  3  what was named does not exist
  4  it exists already, changed meanwhile, or the name fits more than one
  5  the server or the database cannot be reached or opened

Errors go to stderr as a sentence with a stable code; with --json as the problem document (RFC 9457).";

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    document: Value,
    /// For the log of whoever runs the command: what the machine said.
    detail: Option<String>,
}

/// What commands return.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A mistake on the command line or in a setting.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::of(Exit::Usage, Code::InvalidRequest.as_str(), message)
    }

    /// What was named does not exist.
    pub(crate) fn not_found(message: impl fmt::Display) -> Self {
        Self::of(Exit::NotFound, Code::NotFound.as_str(), message)
    }

    /// The server or the database cannot be reached or opened.
    pub(crate) fn unreachable(message: impl fmt::Display) -> Self {
        Self::of(Exit::Unreachable, Code::Unavailable.as_str(), message)
    }

    /// Something that was tried and did not work.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::of(Exit::Failed, "failed", message)
    }

    /// The command did its work, and its result is a no: `provider check` with mistakes, a denied `explain`. What there
    /// is to say was said.
    pub(crate) fn silent() -> Self {
        Self { exit: Exit::Failed, document: Value::Null, detail: None }
    }

    /// An error on the way to an open database: whatever its code, there was nobody to ask.
    pub(crate) fn opening(error: &Error) -> Self {
        Self { exit: Exit::Unreachable, ..Self::from_error(error) }
    }

    /// A problem document that a server answered with.
    pub(crate) fn problem(status: http::StatusCode, document: Value) -> Self {
        let code = document.get("code").and_then(Value::as_str);
        let exit = code.map_or_else(|| exit_of_status(status), |code| exit_of(code).unwrap_or(Exit::Failed));
        let document = match document {
            Value::Object(_) => document,
            _ => json!({ "status": status.as_u16(), "code": "failed", "detail": format!("the server answered {status}") }),
        };
        Self { exit, document, detail: None }
    }

    /// The same failure with what the machine said.
    pub(crate) fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &str {
        self.document.get("code").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether there was nobody to ask.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.exit == Exit::Unreachable
    }

    /// The number to exit with.
    #[cfg(test)]
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Says on stderr what went wrong, as a sentence or as the document.
    pub(crate) fn tell(&self, json: bool) -> ExitCode {
        use std::io::Write as _;
        let mut err = std::io::stderr().lock();
        // Nobody reads stderr: nothing is left to say it to.
        let _ = match (&self.document, json) {
            (Value::Null, _) => Ok(()),
            (document, true) => writeln!(err, "{document:#}"),
            (_, false) => write!(err, "{self}"),
        };
        ExitCode::from(self.exit as u8)
    }

    fn of(exit: Exit, code: &str, message: impl fmt::Display) -> Self {
        Self { exit, document: json!({ "code": code, "detail": message.to_string() }), detail: None }
    }

    fn from_error(error: &Error) -> Self {
        let code = error.code().as_str();
        let mut document = json!({ "code": code, "detail": error.message() });
        if let (Some(document), Some(Value::Object(extra))) = (document.as_object_mut(), error.extra()) {
            document.extend(extra.clone());
        }
        Self { exit: exit_of(code).unwrap_or(Exit::Failed), document, detail: error.detail().map(str::to_owned) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.document.get("detail").and_then(Value::as_str).unwrap_or("it failed");
        // What stands in its further lines is told one by one below.
        let detail = match self.document.get("problems") {
            Some(_) => detail.lines().next().unwrap_or_default().trim_end_matches(':'),
            None => detail,
        };
        writeln!(f, "error: {} [{}]", crate::output::plain(detail), self.code())?;
        if let Some(choices) = self.document.get("choices").and_then(Value::as_array) {
            for choice in choices {
                let text = choice.as_str().map_or_else(|| choice.to_string(), str::to_owned);
                writeln!(f, "  {}", crate::output::plain(&text))?;
            }
        }
        for problem in self.document.get("problems").and_then(Value::as_array).into_iter().flatten() {
            writeln!(f, "  {}", place_of(problem))?;
        }
        match &self.detail {
            Some(detail) => writeln!(f, "  ({})", crate::output::plain(detail)),
            None => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from_error(&error)
    }
}

impl From<std::io::Error> for Failure {
    /// Only writing to stdout ends here; whoever closed the pipe has read enough.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::silent(),
            _ => Self::failed("the output could not be written").with_detail(error),
        }
    }
}

/// A mistake in a file, as compilers write it.
fn place_of(problem: &Value) -> String {
    let text = |name: &str| crate::output::plain(&crate::output::cell(problem, name));
    let mut line = text("/file");
    if problem.get("line").and_then(Value::as_u64).is_some_and(|line| line > 0) {
        line.push_str(&format!(":{}:{}", text("/line"), text("/column")));
    }
    for part in ["/key", "/message"].map(text).into_iter().filter(|part| !part.is_empty()) {
        line.push_str(": ");
        line.push_str(&part);
    }
    line
}

fn exit_of(code: &str) -> Option<Exit> {
    Some(match code {
        "not_found" | "no_credentials" | "no_per_user_credentials" => Exit::NotFound,
        "conflict" | "ambiguous" | "precondition_failed" | "precondition_required" => Exit::Conflict,
        "invalid_config" => Exit::Usage,
        "unavailable" | "storage_failed" | "audit_unavailable" => Exit::Unreachable,
        _ => return None,
    })
}

fn exit_of_status(status: http::StatusCode) -> Exit {
    match status.as_u16() {
        404 => Exit::NotFound,
        409 | 412 | 428 => Exit::Conflict,
        502..=504 => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_refusal_has_its_exit_code() {
        let exit = |code| Failure::from(Error::new(code, "no")).exit();
        assert_eq!(exit(Code::NotFound), Exit::NotFound);
        assert_eq!(exit(Code::Ambiguous), Exit::Conflict);
        assert_eq!(exit(Code::Conflict), Exit::Conflict);
        assert_eq!(exit(Code::Forbidden), Exit::Failed);
        assert_eq!(exit(Code::InvalidConfig), Exit::Usage);
        assert_eq!(Failure::opening(&Error::new(Code::InvalidConfig, "no")).exit(), Exit::Unreachable);
    }

    #[test]
    fn each_mistake_of_a_definition_is_told_once_on_a_line_of_its_own() {
        let document = json!({
            "code": "invalid_definition",
            "detail": "a provider definition is wrong:\nx.toml: title: is needed",
            "problems": [{ "file": "x.toml", "key": "title", "message": "is needed" }],
        });
        let text = Failure::problem(http::StatusCode::INTERNAL_SERVER_ERROR, document).to_string();
        assert_eq!(text, "error: a provider definition is wrong [invalid_definition]\n  x.toml: title: is needed\n");
    }

    #[test]
    fn a_control_character_in_an_answer_does_not_reach_the_terminal() {
        let document = json!({ "code": "conflict", "detail": "a\u{1b}[2Jb", "choices": ["x\u{7}"] });
        let text = Failure::problem(http::StatusCode::CONFLICT, document).to_string();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
    }
}
