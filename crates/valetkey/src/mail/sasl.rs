//! What is said in a login (SASL, RFC 4422), the same in both protocols.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{Credential, Server};
use crate::{
    error::{Code, Error},
    provider::MailMechanism,
};

/// What we say, one message for each time that the server asks. All in Base64.
pub(super) struct Exchange {
    pub(super) mechanism: MailMechanism,
    pub(super) responses: VecDeque<Zeroizing<String>>,
    /// Whether the first may go with the command itself.
    pub(super) starts: bool,
}

/// The first mechanism that fits the credential and is offered.
pub(super) fn choose(mechanisms: &[MailMechanism], server: &Server, offered: impl Fn(&str) -> bool) -> Option<Exchange> {
    mechanisms.iter().filter(|mechanism| offered(mechanism.as_str())).find_map(|mechanism| exchange(*mechanism, server))
}

fn exchange(mechanism: MailMechanism, server: &Server) -> Option<Exchange> {
    let encoded = |text: String| Zeroizing::new(STANDARD.encode(Zeroizing::new(text).as_bytes()));
    let user = &server.user;
    let (starts, responses) = match (mechanism, &server.credential) {
        (MailMechanism::Plain, Credential::Password(password)) => {
            (true, vec![encoded(format!("\0{user}\0{}", password.expose()))])
        }
        (MailMechanism::Login, Credential::Password(password)) => {
            (false, vec![encoded(user.clone()), encoded(password.expose().to_owned())])
        }
        // A refusal comes as one more question, which says why; the empty answer ends it.
        (MailMechanism::XOAuth2, Credential::Token(token)) => {
            (true, vec![encoded(format!("user={user}\x01auth=Bearer {}\x01\x01", token.expose())), Zeroizing::new(String::new())])
        }
        // RFC 7628 section 3.1; sections 3.2.3 and 4.3 for the answer to a refusal. The name is escaped as RFC 5801
        // section 4 says.
        (MailMechanism::OAuthBearer, Credential::Token(token)) => {
            let name = user.replace('=', "=3D").replace(',', "=2C");
            let Server { host, port, .. } = server;
            let text = format!("n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {}\x01\x01", token.expose());
            (true, vec![encoded(text), encoded("\x01".to_owned())])
        }
        _ => return None,
    };
    Some(Exchange { mechanism, responses: responses.into(), starts })
}

/// The server knows us, and says no.
pub(super) fn refused(server: &Server) -> Error {
    let message = match server.credential {
        Credential::Password(_) => {
            "the user name or the password is not right; many providers want an app password here, not the account's own"
        }
        Credential::Token(_) => "the access token was refused; connect again, allow mail, and check that the user name fits",
    };
    Error::new(Code::LoginRefused, message)
}

/// The server has no login that could be tried.
pub(super) fn not_offered(server: &Server) -> Error {
    let message = match server.credential {
        Credential::Password(_) => "the server offers no login by password; it may have to be allowed there first",
        Credential::Token(_) => "the server offers no login by access token; it may have to be allowed there first",
    };
    Error::new(Code::LoginRefused, message)
}

/// The server cannot tell now.
pub(super) fn not_now() -> Error {
    Error::new(Code::UpstreamUnreachable, "the server turns logins away now; try again later")
}

/// The server asked for more than there is to say, or did not understand.
pub(super) fn confused() -> Error {
    Error::new(Code::UpstreamInvalid, "the server did not follow its own protocol in the login")
}
