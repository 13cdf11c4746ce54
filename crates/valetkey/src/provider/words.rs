//! The closed word lists of the definition files, each an enum that knows its words.

/// An enum whose members are words of the definition files.
pub(super) trait Word: Copy + 'static {
    /// Every member, in the order in which errors list them.
    const ALL: &'static [Self];

    /// The word in the file.
    fn word(self) -> &'static str;

    /// The member with this word.
    fn read(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|member| member.word() == word)
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$member_doc])* $member,)* }

        impl $name {
            /// The word, as it stands in a definition file.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$member => $word,)* }
            }
        }

        impl Word for $name {
            const ALL: &'static [Self] = &[$($name::$member,)*];

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    )*};
}

words! {
    /// How an account at this provider comes to be; chooses the engine.
    Kind {
        /// RFC 6749, by redirect or by client credentials.
        OAuth2 = "oauth2",
        /// RFC 5849, three-legged.
        OAuth1 = "oauth1",
        /// A signed assertion is exchanged for a short-lived token (RFC 7523 and GitHub Apps).
        JwtBearer = "jwt_bearer",
        /// A login with a name and an app password gives a session token.
        Session = "session",
        /// A key that the person pastes and that we only store and inject.
        Static = "static",
        /// A mailbox; not HTTP.
        Mail = "mail",
    }

    /// How a mailbox is checked before it is stored.
    MailCheck {
        /// By logging in to IMAP.
        ImapLogin = "imap_login",
        /// By `AUTH` at the SMTP server; no mail is sent.
        SmtpAuth = "smtp_auth",
    }

    /// How one proves to a mail server who one is (SASL, RFC 4422).
    MailMechanism {
        /// User name and password in one message (RFC 4616).
        Plain = "PLAIN",
        /// User name and password one after the other; never standardized, and all that some servers know.
        Login = "LOGIN",
        /// An OAuth 2.0 access token, as Google and Microsoft have it.
        XOAuth2 = "XOAUTH2",
        /// An OAuth 2.0 access token (RFC 7628).
        OAuthBearer = "OAUTHBEARER",
    }

    /// How a form shows a field.
    FieldType {
        /// One line.
        Text = "text",
        /// One hidden line; always secret.
        Password = "password",
        /// Several lines.
        Textarea = "textarea",
        /// A URL.
        Url = "url",
        /// A whole number.
        Number = "number",
        /// One of `options`.
        Select = "select",
    }

    /// Whether a field belongs to the site's app at the provider or to one connection.
    FieldLevel {
        /// Part of the app configuration.
        App = "app",
        /// Entered for each connection.
        Connection = "connection",
    }

    /// What a field is for, where an engine must know.
    Role {
        /// The OAuth client identifier, whatever the provider calls it.
        ClientId = "client_id",
        /// The OAuth client secret.
        ClientSecret = "client_secret",
        /// The credential itself, pasted.
        Token = "token",
        /// A login name.
        Username = "username",
        /// A login password or app password.
        Password = "password",
    }

    /// How an entered value is brought into one form before it is stored.
    Normalize {
        /// `https://host[:port]`: the scheme is added, a trailing slash cut, a path refused.
        HttpsOrigin = "https_origin",
        /// A PEM text: line ends made `\n`, a literal `\n` read as one.
        Pem = "pem",
    }

    /// How templates look into a field's value.
    Parse {
        /// A JSON object; `field.NAME.MEMBER` names a member.
        Json = "json",
    }

    /// How the client authenticates at the token endpoint (RFC 6749 section 2.3).
    ClientAuth {
        /// Not at all; `client_id` goes into the body.
        None = "none",
        /// Id and secret in the body.
        Body = "body",
        /// HTTP Basic.
        Basic = "basic",
        /// HTTP Basic, and the client id in the body too.
        BasicAndClientId = "basic+client_id",
    }

    /// Whether a PKCE challenge is sent (RFC 7636; always S256).
    Pkce {
        /// The provider insists; sent.
        Required = "required",
        /// The provider takes it; sent.
        Optional = "optional",
        /// The provider fails when it is sent, or does not document it; not sent.
        Off = "off",
    }

    /// How the S256 digest is written.
    PkceEncoding {
        /// Unpadded base64url, as RFC 7636 has it.
        Base64Url = "base64url",
        /// Hexadecimal, for one provider.
        Hex = "hex",
    }

    /// Which redirect URIs the provider takes.
    RedirectRule {
        /// Whatever was registered.
        Any = "any",
        /// Https only.
        Https = "https",
        /// Https, or http to a loopback IP address (not to `localhost`).
        HttpsOrLoopbackIp = "https_or_loopback_ip",
    }

    /// The ways to a token. The implicit grant is not among them: it puts a token into a URL (RFC 9700 section 2.1.2).
    Flow {
        /// The authorization code grant.
        Code = "code",
        /// The client credentials grant; no person is involved.
        ClientCredentials = "client_credentials",
        /// The device grant (RFC 8628): the person signs in on a device of their own, with a code.
        Device = "device",
    }

    /// How a refresh works.
    RefreshStrategy {
        /// There is none: the token lives until it is revoked.
        None = "none",
        /// A refresh token buys a new access token (RFC 6749 section 6, or the like).
        RefreshToken = "refresh_token",
        /// The access token itself is exchanged for a longer-lived one.
        Extend = "extend",
        /// A new token is made from what is stored: an assertion, a login, client credentials.
        Remint = "remint",
    }

    /// Whether a refresh answers with a new refresh token.
    Rotation {
        /// It never does; the old one is kept.
        Never = "never",
        /// It may; a new one replaces the old one.
        Maybe = "maybe",
        /// It always does, and the old one is dead (but see `grace`).
        Always = "always",
    }

    /// What dies with an upstream revocation.
    Kills {
        /// The one token that was named.
        Token = "token",
        /// The refresh token and the access tokens that came from it.
        Family = "family",
        /// Every token of that user for that client, those of our other connections too.
        Grant = "grant",
    }

    /// How a step authenticates.
    Auth {
        /// Not at all.
        None = "none",
        /// As the client, the way `oauth2.client_auth` says.
        Client = "client",
        /// As the client, by HTTP Basic, whatever `oauth2.client_auth` says.
        ClientBasic = "client_basic",
        /// With the access token.
        Bearer = "bearer",
        /// With the refresh token as bearer.
        BearerRefresh = "bearer_refresh",
        /// With the freshly signed assertion as bearer.
        Jwt = "jwt",
        /// With an OAuth 1.0a signature, by the app's key and, where there is one, the token.
        Signed = "signed",
        /// The way proxied calls are authenticated: by `proxy.inject`.
        Proxy = "proxy",
    }

    /// How an answer is written.
    BodyFormat {
        /// JSON.
        Json = "json",
        /// `application/x-www-form-urlencoded`, as OAuth 1.0a answers.
        Form = "form",
    }

    /// How `expires_at` is written in an answer.
    ExpiresAtFormat {
        /// Seconds since the Unix epoch.
        Seconds = "seconds",
        /// RFC 3339.
        Rfc3339 = "rfc3339",
        /// Milliseconds since the Unix epoch.
        Ms = "ms",
    }

    /// Where a lifetime is read when no member of the answer says it.
    ExpiresFrom {
        /// The `exp` claim inside the token. The signature is not checked: we asked the provider over TLS, and the
        /// claim only says when to refresh.
        JwtExp = "jwt_exp",
    }

    /// Which entries of a resource list are taken. Never the first one: nobody would have chosen it.
    Select {
        /// The person chooses.
        User = "user",
        /// All of them.
        All = "all",
    }

    /// How an assertion is signed.
    JwtAlg {
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
    }

    /// The OAuth 1.0a signature method.
    OAuth1Signature {
        /// HMAC-SHA1, as RFC 5849 has it.
        HmacSha1 = "HMAC-SHA1",
        /// The same with SHA-256.
        HmacSha256 = "HMAC-SHA256",
    }
}
