//! Signing in: what a platform says of a browser, when it is believed, and how long that lasts.

use std::{sync::LazyLock, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use provider_lab::{DefinitionOptions, Lab};
use serde_json::{Value, json};
use valetkey::{
    Code,
    db::{Db, testing},
    id::{self, PlatformKeyId, SiteId},
    on, on_each_db, person,
    platform::{self, Asserts, Minted, NewKey, Purpose, Scope},
    principal::{Actor, AuthSource},
    secret::Secret,
    session::{self, Session, SessionSecret},
    site::{self, SiteChange},
};

use crate::connect::world::{OPERATOR, PUBLIC, Stub, World};

const PAGE: &str = "https://platform.example/enter?from=valetkey";
const ORIGIN: &str = "https://platform.example";

/// A site whose people sign in, its platform, and the place where that publishes keys.
struct Signing {
    world: World,
    platform: Minted,
    published: Stub,
}

/// A key pair of a platform's own.
struct Signer {
    algorithm: Algorithm,
    encoding: EncodingKey,
    /// What is published of it, as `kid` `own`.
    jwk: Value,
    /// The public half in the ways in which it is passed around.
    public: Vec<Vec<u8>>,
}

impl Signer {
    fn new(algorithm: Algorithm, encoding: EncodingKey) -> Self {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&encoding, algorithm).unwrap()).unwrap();
        jwk["kid"] = "own".into();
        let public = vec![jwk.to_string().into_bytes()];
        Self { algorithm, encoding, jwk, public }
    }

    fn ed() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        Self::new(Algorithm::EdDSA, EncodingKey::from_ed_der(pkcs8.as_ref()))
    }

    fn ec() -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self::new(Algorithm::ES256, EncodingKey::from_ec_der(pkcs8.as_ref()))
    }

    fn set(&self) -> String {
        json!({ "keys": [self.jwk] }).to_string()
    }
}

/// One for all tests: making it takes a while.
static RSA: LazyLock<Signer> = LazyLock::new(|| {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let encoding = EncodingKey::from_rsa_pem(pem("PRIVATE", private.as_ref()).as_bytes()).unwrap();
    let mut signer = Signer::new(Algorithm::RS256, encoding);
    let modulus = signer.jwk["n"].as_str().unwrap().to_owned();
    signer.public.push(URL_SAFE_NO_PAD.decode(&modulus).unwrap());
    signer.public.push(modulus.into_bytes());
    signer.public.push(pem("PUBLIC", public.as_ref()).into_bytes());
    signer.public.push(pem("PUBLIC", public.as_ref()).trim_end().as_bytes().to_vec());
    signer.public.push(public.as_ref().to_vec());
    signer
});

fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {kind} KEY-----\n{}\n-----END {kind} KEY-----\n", lines.join("\n"))
}

impl Signing {
    async fn new(db: &Db) -> Self {
        let (published, lab) = (Stub::start("{}").await, Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap());
        let definition = lab.definition(&DefinitionOptions::default());
        let allowed = vec![lab.addr().to_string(), published.addr.to_string()];
        let world = World::around(db, lab, &definition, allowed, PUBLIC).await;
        let change = SiteChange { signin_url: Some(PAGE.to_owned()), ..SiteChange::default() };
        site::change(&world.house.base, &OPERATOR, &world.house.site, change).await.unwrap();
        let platform = minted(&world, &[Scope::Signin], Asserts::Any).await;
        Self { world, platform, published }
    }

    fn key(&self) -> &PlatformKeyId {
        &self.platform.key.id
    }

    fn advance(&self, seconds: u64) {
        self.world.house.base.clock.advance(Duration::from_secs(seconds));
    }

    /// What a platform claims of a browser of alice's.
    fn claims(&self) -> Value {
        let now = self.world.house.base.clock.now().unix_seconds();
        json!({
            "iss": self.key(), "sub": "alice", "aud": "valetkey:signin", "iat": now, "exp": now + 60,
            "jti": id::random_text::<18>().unwrap(),
        })
    }

    /// Signed with the key's own secret.
    fn by_secret(&self, claims: &Value) -> Secret {
        let key = EncodingKey::from_secret(self.platform.assertion_secret.expose().as_bytes());
        signed(Algorithm::HS256, Some(self.key().as_str()), &key, claims)
    }

    /// Signed with a key of the platform's own.
    fn by(&self, signer: &Signer, claims: &Value) -> Secret {
        signed(signer.algorithm, Some("own"), &signer.encoding, claims)
    }

    async fn sign_in(&self, assertion: &Secret) -> Result<(SessionSecret, Session), Code> {
        self.sign_in_from(Some(ORIGIN), assertion).await
    }

    async fn sign_in_from(&self, origin: Option<&str>, assertion: &Secret) -> Result<(SessionSecret, Session), Code> {
        session::sign_in(&self.world.outside, origin, assertion).await.map_err(|error| error.code())
    }

    async fn alice(&self) -> (SessionSecret, Session) {
        self.sign_in(&self.by_secret(&self.claims())).await.unwrap()
    }

    #[track_caller]
    fn refused(outcome: Result<(SessionSecret, Session), Code>, what: &str) {
        assert_eq!(outcome.map(|(_, session)| session), Err(Code::Unauthenticated), "{what}");
    }

    async fn is_alive(&self, secret: &SessionSecret) -> bool {
        session::resolve(&self.world.house.base, secret).await.unwrap().is_some()
    }

    fn jwks_url(&self) -> String {
        format!("http://{}/jwks", self.published.addr)
    }

    /// Has the platform publish its keys.
    async fn publish(&self, text: &str) {
        self.published.answer(text);
        self.set_url(Some(&self.jwks_url())).await.unwrap();
    }

    async fn set_url(&self, url: Option<&str>) -> Result<(), Code> {
        let site = &self.world.house.site;
        platform::set_jwks_url(&self.world.outside, site, &OPERATOR, self.key(), url).await.map_err(|error| error.code())
    }
}

async fn minted(world: &World, scopes: &[Scope], asserts: Asserts) -> Minted {
    let new = NewKey { label: "p".into(), scopes: scopes.iter().copied().collect(), asserts, expires_at: None };
    platform::create(&world.house.base, &world.house.site, &OPERATOR, new).await.unwrap()
}

fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> Secret {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    Secret::new(jsonwebtoken::encode(&header, claims, key).unwrap())
}

/// A claim set with some of its members changed; null takes one away.
fn with(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

on_each_db! {
    async fn a_person_signs_in_by_what_their_platform_signed(db: Db) {
        let signing = Signing::new(&db).await;
        let (secret, session) = signing.alice().await;
        assert_eq!((&session.site, session.user.as_str()), (&signing.world.house.site, "alice"));
        assert_eq!(session.platform_key.as_ref(), Some(signing.key()));
        let found = session::resolve(&signing.world.house.base, &secret).await.unwrap();
        assert_eq!(found, Some(session.clone()));
        let opened = json!({ "session": session.id, "user": "alice" });
        assert_eq!(signing.world.audited("session.open").await, [("ok".to_owned(), opened)]);
        let rows: Vec<(String, String)> =
            on!(&db, |c| sqlx::query_as("SELECT id, secret_hash FROM sessions").fetch_all(c).await.unwrap());
        assert_eq!(rows, [(session.id.to_string(), id::sha256_hex(secret.expose().as_bytes()))], "only a hash is stored");
    }

    /// Every fault gives one and the same answer, and takes nothing from whoever comes with the right one.
    async fn an_assertion_that_is_not_exactly_right_signs_nobody_in(db: Db) {
        let signing = Signing::new(&db).await;
        let now = signing.world.house.base.clock.now().unix_seconds();
        for changes in [
            json!({ "aud": "valetkey:connect" }),
            json!({ "aud": "https://keys.example" }),
            json!({ "aud": ["valetkey:signin", "others"] }),
            json!({ "aud": [] }),
            json!({ "aud": null }),
            json!({ "exp": now + 61 }),
            json!({ "exp": now }),
            json!({ "exp": null }),
            json!({ "iat": now - 120, "exp": now - 60 }),
            json!({ "iat": now + 30 }),
            json!({ "iat": i64::MIN, "exp": i64::MAX }),
            json!({ "nbf": now + 30 }),
            json!({ "jti": "short" }),
            json!({ "jti": null }),
            json!({ "sub": "" }),
            json!({ "sub": "0" }),
            json!({ "sub": 42 }),
            json!({ "sub": "a b" }),
            json!({ "sub": null }),
        ] {
            let assertion = signing.by_secret(&with(signing.claims(), changes.clone()));
            Signing::refused(signing.sign_in(&assertion).await, &changes.to_string());
        }
        assert!(signing.world.audited("session.open").await.iter().all(|(outcome, _)| outcome == "denied"));
        signing.alice().await;
    }

    /// RFC 8725 section 3.1: the key says which algorithm, and nothing that the assertion says of itself changes that.
    async fn no_algorithm_but_the_keys_own_is_verified(db: Db) {
        let signing = Signing::new(&db).await;
        let (claims, kid) = (signing.claims(), signing.key().as_str());
        let key = EncodingKey::from_secret(signing.platform.assertion_secret.expose().as_bytes());
        let mut wrong = vec![
            ("HS384", signed(Algorithm::HS384, Some(kid), &key, &claims)),
            ("HS512", signed(Algorithm::HS512, Some(kid), &key, &claims)),
            ("another secret", signed(Algorithm::HS256, Some(kid), &EncodingKey::from_secret(b"another secret"), &claims)),
            ("an unknown key", signed(Algorithm::HS256, Some(PlatformKeyId::new().as_str()), &key, &claims)),
            ("no key", signed(Algorithm::HS256, None, &key, &with(claims.clone(), json!({ "iss": null })))),
            ("a key pair of one's own", signed(Algorithm::EdDSA, Some(kid), &Signer::ed().encoding, &claims)),
        ];
        for alg in ["none", "None", "NONE", "", "HS256x"] {
            let header = json!({ "alg": alg, "typ": "JWT", "kid": kid });
            for signature in ["", "AAAA"] {
                wrong.push((alg, Secret::new(format!("{}.{}.{signature}", part(&header), part(&claims)))));
            }
        }
        let right = signing.by_secret(&claims);
        let (head, signature) = right.expose().rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        wrong.push(("without a signature", Secret::new(format!("{head}."))));
        let bob = part(&with(claims.clone(), json!({ "sub": "bob" })));
        wrong.push(("another person's", Secret::new(format!("{header}.{bob}.{signature}"))));
        wrong.push(("two parts", Secret::new(head)));
        wrong.push(("four parts", Secret::new(format!("{}.x", right.expose()))));
        wrong.push(("too long", Secret::new(format!("{}{}", right.expose(), "A".repeat(4096)))));
        wrong.push(("nothing", Secret::new("")));
        // What must be understood and is not (RFC 7515 section 4.1.11).
        let mut critical = Header::new(Algorithm::HS256);
        critical.kid = Some(kid.to_owned());
        critical.crit = Some(vec!["exp".to_owned()]);
        wrong.push(("crit", Secret::new(jsonwebtoken::encode(&critical, &claims, &key).unwrap())));
        for (what, assertion) in wrong {
            Signing::refused(signing.sign_in(&assertion).await, what);
        }
        // Nothing of this was really signed: nobody can fill the audit with it.
        assert!(signing.world.audited("session.open").await.is_empty());
        signing.sign_in(&right).await.unwrap();
    }

    async fn an_assertion_signs_in_once_and_of_two_at_once_one(db: Db) {
        let signing = Signing::new(&db).await;
        let assertion = signing.by_secret(&signing.claims());
        let (a, b) = tokio::join!(signing.sign_in(&assertion), signing.sign_in(&assertion));
        assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
        Signing::refused(signing.sign_in(&assertion).await, "replayed");
        let rows = signing.world.audited("session.open").await;
        assert_eq!(rows.iter().filter(|(_, facts)| facts["why"] == "used before").count(), 2, "{rows:?}");
        let (base, site) = (&signing.world.house.base, &signing.world.house.site);
        assert_eq!(session::of_person(base, site, &"alice".parse().unwrap()).await.unwrap().len(), 1);
    }

    /// A connect key makes links; to sign people in is a right of its own, for the people that the key may speak for.
    async fn a_key_signs_in_whom_it_may_speak_for_where_it_may_sign_in_at_all(db: Db) {
        let signing = Signing::new(&db).await;
        let now = signing.world.house.base.clock.now();
        for (scopes, asserts, user, fine) in [
            (vec![Scope::Signin], Asserts::Any, "alice", true),
            (vec![Scope::Signin], Asserts::People(["alice".parse().unwrap()].into()), "alice", true),
            (vec![Scope::Signin], Asserts::People(["alice".parse().unwrap()].into()), "bob", false),
            (vec![Scope::Signin], Asserts::None, "alice", false),
            (vec![Scope::Connect, Scope::Admin, Scope::AccountsReveal], Asserts::Any, "alice", false),
        ] {
            let key = minted(&signing.world, &scopes, asserts).await;
            let user = user.parse().unwrap();
            let assertion = platform::sign_for(&key.key.id, &key.assertion_secret, &user, Purpose::SignIn, now).unwrap();
            assert_eq!(signing.sign_in(&assertion).await.is_ok(), fine, "{scopes:?} {user}");
        }
    }

    /// Login CSRF: a page of somebody's own could have a browser carry an assertion that is about them.
    async fn only_the_sites_own_page_signs_people_in(db: Db) {
        let signing = Signing::new(&db).await;
        for origin in [
            None,
            Some("null"),
            Some(""),
            Some("https://evil.example"),
            Some("https://platform.example.evil.example"),
            Some("http://platform.example"),
            Some("https://platform.example:8443"),
            Some("https://PLATFORM.example"),
            Some(PAGE),
        ] {
            let assertion = signing.by_secret(&signing.claims());
            assert_eq!(signing.sign_in_from(origin, &assertion).await.map(|_| ()), Err(Code::Forbidden), "{origin:?}");
        }
        assert_eq!(signing.world.audited("session.open").await.len(), 9);
        let change = SiteChange { signin_url: Some(String::new()), ..SiteChange::default() };
        site::change(&signing.world.house.base, &OPERATOR, &signing.world.house.site, change).await.unwrap();
        let assertion = signing.by_secret(&signing.claims());
        assert_eq!(signing.sign_in(&assertion).await.map(|_| ()), Err(Code::Forbidden), "nobody signs in where there is no page");
    }

    async fn a_session_ends_with_its_person_its_key_and_its_site(db: Db) {
        let signing = Signing::new(&db).await;
        let (base, site) = (&signing.world.house.base, &signing.world.house.site);
        let (secret, _) = signing.alice().await;
        assert!(signing.is_alive(&secret).await);
        person::set_disabled(base, site, &OPERATOR, &"alice".parse().unwrap(), true).await.unwrap();
        assert!(!signing.is_alive(&secret).await, "the person is disabled");
        assert_eq!(signing.sign_in(&signing.by_secret(&signing.claims())).await.map(|_| ()), Err(Code::Forbidden));
        person::set_disabled(base, site, &OPERATOR, &"alice".parse().unwrap(), false).await.unwrap();
        assert!(!signing.is_alive(&secret).await, "the person signs in anew");
        let (secret, _) = signing.alice().await;
        // As where a sign-in was under way when the person was disabled: its session is opened after the others ended.
        testing::execute(&db, "UPDATE people SET disabled_at = 1").await;
        assert!(!signing.is_alive(&secret).await, "the person is disabled");
        person::set_disabled(base, site, &OPERATOR, &"alice".parse().unwrap(), false).await.unwrap();
        assert!(!signing.is_alive(&secret).await, "nor does a session come back that was opened in that moment");
        let (secret, _) = signing.alice().await;

        testing::execute(&db, "UPDATE sites SET disabled_at = 1").await;
        assert!(!signing.is_alive(&secret).await, "the site is disabled");
        Signing::refused(signing.sign_in(&signing.by_secret(&signing.claims())).await, "the site is disabled");
        testing::execute(&db, "UPDATE sites SET disabled_at = NULL").await;
        assert!(signing.is_alive(&secret).await);

        platform::revoke(base, site, &OPERATOR, signing.key()).await.unwrap();
        assert!(!signing.is_alive(&secret).await, "the key that vouched is revoked");
        Signing::refused(signing.sign_in(&signing.by_secret(&signing.claims())).await, "a revoked key");
    }

    async fn a_session_lasts_eight_hours(db: Db) {
        let signing = Signing::new(&db).await;
        let (secret, _) = signing.alice().await;
        signing.advance(8 * 60 * 60 - 1);
        assert!(signing.is_alive(&secret).await);
        let now = || signing.world.house.base.clock.now();
        assert_eq!(session::sweep(&db, now()).await.unwrap(), 0);
        signing.advance(1);
        assert!(!signing.is_alive(&secret).await);
        assert_eq!(session::sweep(&db, now()).await.unwrap(), 1);
    }

    async fn signing_out_ends_one_session_and_signing_out_everywhere_ends_a_persons(db: Db) {
        let signing = Signing::new(&db).await;
        let (base, site) = (&signing.world.house.base, &signing.world.house.site);
        let ((first, session), (second, _), (third, _)) = (signing.alice().await, signing.alice().await, signing.alice().await);
        let bob = with(signing.claims(), json!({ "sub": "bob" }));
        let (bobs, _) = signing.sign_in(&signing.by_secret(&bob)).await.unwrap();
        session::close(base, &session).await.unwrap();
        session::close(base, &session).await.unwrap();
        assert!(!signing.is_alive(&first).await && signing.is_alive(&second).await);
        assert_eq!(session::close_all(base, site, &OPERATOR, &"alice".parse().unwrap()).await.unwrap(), 2);
        assert!(!signing.is_alive(&second).await && !signing.is_alive(&third).await);
        assert!(signing.is_alive(&bobs).await, "somebody else's stays");
        assert_eq!(session::close_all(base, site, &OPERATOR, &"alice".parse().unwrap()).await.unwrap(), 0);
        assert_eq!(signing.world.audited("session.close").await.len(), 2, "what changes nothing is not recorded");
    }

    async fn erasing_a_person_ends_their_sessions(db: Db) {
        let signing = Signing::new(&db).await;
        let (secret, _) = signing.alice().await;
        let (world, alice) = (&signing.world, "alice".parse().unwrap());
        person::erase(&world.outside, &world.house.site, &OPERATOR, &alice).await.unwrap();
        assert!(!signing.is_alive(&secret).await);
        assert!(session::of_person(&world.house.base, &world.house.site, &alice).await.unwrap().is_empty());
        assert_eq!(world.audited("session.close").await.len(), 1);

        // As where a sign-in was under way at that moment.
        testing::execute(&db, "UPDATE people SET disabled_at = NULL").await;
        session::open(&world.house.base, &world.house.site, &alice, signing.key()).await.unwrap();
        testing::execute(&db, "UPDATE people SET disabled_at = erased_at").await;
        person::go_on(&world.outside).await.unwrap();
        assert!(session::of_person(&world.house.base, &world.house.site, &alice).await.unwrap().is_empty());
    }

    /// T-067, T-107, T-216.
    async fn what_is_done_in_a_session_is_done_by_its_person(db: Db) {
        let signing = Signing::new(&db).await;
        let (_, session) = signing.alice().await;
        let (base, principal) = (&signing.world.house.base, session.principal());
        assert_eq!((principal.source, &principal.user, &principal.calling_user), (AuthSource::Session, &Some(session.user.clone()), &Some(session.user.clone())));
        assert_eq!((principal.agent.as_ref(), principal.token.as_ref(), principal.has_ceiling()), (None, None, false));
        session::close(base, &session).await.unwrap();
        let rows = valetkey::audit::list(&base.db, &session.site, None, 100).await.unwrap();
        let closed = rows.iter().find(|row| row.action == "session.close").unwrap();
        assert_eq!((&closed.actor, closed.actor.as_str()), (&principal.actor().to_string(), "user:alice"));
    }

    async fn a_person_has_twenty_sessions_at_the_most(db: Db) {
        let signing = Signing::new(&db).await;
        let mut secrets = Vec::new();
        for _ in 0..21 {
            signing.advance(1);
            secrets.push(signing.alice().await.0);
        }
        assert!(!signing.is_alive(&secrets[0]).await, "the oldest makes room");
        for secret in &secrets[1..] {
            assert!(signing.is_alive(secret).await);
        }
    }

    async fn keys_that_a_platform_publishes_verify_what_it_signs(db: Db) {
        let signing = Signing::new(&db).await;
        for signer in [&Signer::ed(), &Signer::ec(), &*RSA] {
            signing.publish(&signer.set()).await;
            let (_, session) = signing.sign_in(&signing.by(signer, &signing.claims())).await.unwrap();
            assert_eq!(session.user.as_str(), "alice", "{:?}", signer.algorithm);
            let other = signing.by(&Signer::ed(), &signing.claims());
            Signing::refused(signing.sign_in(&other).await, "another key of that name");
            let tampered = signing.by(signer, &signing.claims());
            let (head, signature) = tampered.expose().rsplit_once('.').unwrap();
            let (header, _) = head.split_once('.').unwrap();
            let bob = part(&with(signing.claims(), json!({ "sub": "bob" })));
            Signing::refused(signing.sign_in(&Secret::new(format!("{header}.{bob}.{signature}"))).await, "another person's");
        }
    }

    /// Algorithm confusion: everybody has the public key, so it must never serve as the secret of HS256.
    async fn a_public_key_is_no_secret(db: Db) {
        let signing = Signing::new(&db).await;
        for signer in [&*RSA, &Signer::ed(), &Signer::ec()] {
            signing.publish(&signer.set()).await;
            for public in &signer.public {
                for kid in ["own", signing.key().as_str()] {
                    let forged = signed(Algorithm::HS256, Some(kid), &EncodingKey::from_secret(public), &signing.claims());
                    Signing::refused(signing.sign_in(&forged).await, "HS256 by a public key");
                }
            }
        }
        // The same key pair under the name of another algorithm of its family.
        signing.publish(&RSA.set()).await;
        for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
            let assertion = signed(algorithm, Some("own"), &RSA.encoding, &signing.claims());
            Signing::refused(signing.sign_in(&assertion).await, "another algorithm than the key's");
        }
        let header = json!({ "alg": "none", "kid": "own" });
        let unsigned = Secret::new(format!("{}.{}.", part(&header), part(&signing.claims())));
        Signing::refused(signing.sign_in(&unsigned).await, "none");
        signing.sign_in(&signing.by(&RSA, &signing.claims())).await.unwrap();
    }

    async fn with_published_keys_the_secret_counts_no_more_until_they_are_taken_away(db: Db) {
        let signing = Signing::new(&db).await;
        let signer = Signer::ed();
        signing.publish(&signer.set()).await;
        Signing::refused(signing.sign_in(&signing.by_secret(&signing.claims())).await, "by the secret");
        signing.sign_in(&signing.by(&signer, &signing.claims())).await.unwrap();
        signing.set_url(None).await.unwrap();
        Signing::refused(signing.sign_in(&signing.by(&signer, &signing.claims())).await, "by a key that is published no more");
        signing.alice().await;
        assert_eq!(signing.world.audited("key.change").await.len(), 2);
    }

    async fn what_another_sites_platform_signs_is_its_own(db: Db) {
        let signing = Signing::new(&db).await;
        let (base, other): (_, SiteId) = (&signing.world.house.base, "other".parse().unwrap());
        site::create(base, &OPERATOR, &other, "Other").await.unwrap();
        let new = NewKey { label: "p".into(), scopes: [Scope::Signin].into(), asserts: Asserts::Any, expires_at: None };
        let key = platform::create(base, &other, &OPERATOR, new).await.unwrap();
        let claims = with(signing.claims(), json!({ "iss": key.key.id }));
        let by_other = signed(
            Algorithm::HS256,
            Some(key.key.id.as_str()),
            &EncodingKey::from_secret(key.assertion_secret.expose().as_bytes()),
            &claims,
        );
        // It would sign in at its own site, where there is no page for that; never at the one whose page posts it.
        assert_eq!(signing.sign_in(&by_other).await.map(|_| ()), Err(Code::Forbidden));
        let change = SiteChange { signin_url: Some(PAGE.to_owned()), ..SiteChange::default() };
        site::change(base, &Actor::Operator, &other, change).await.unwrap();
        let again = with(claims, json!({ "jti": id::random_text::<18>().unwrap() }));
        let by_other = signed(
            Algorithm::HS256,
            Some(key.key.id.as_str()),
            &EncodingKey::from_secret(key.assertion_secret.expose().as_bytes()),
            &again,
        );
        assert_eq!(signing.sign_in(&by_other).await.unwrap().1.site, other);
    }

    /// Nobody who invents names of keys has us call the platform, and a new key is known within a minute.
    async fn an_unknown_name_of_a_key_is_looked_up_once_a_minute(db: Db) {
        let signing = Signing::new(&db).await;
        let (old, new) = (Signer::ed(), Signer::ec());
        signing.publish(&old.set()).await;
        assert_eq!(signing.published.seen().len(), 1);
        let mut named = new.jwk.clone();
        named["kid"] = "new".into();
        signing.published.answer(&json!({ "keys": [named] }).to_string());
        let by_new = || signed(new.algorithm, Some("new"), &new.encoding, &signing.claims());
        for _ in 0..5 {
            Signing::refused(signing.sign_in(&by_new()).await, "not looked up yet");
        }
        assert_eq!(signing.published.seen().len(), 1);
        signing.advance(61);
        signing.sign_in(&by_new()).await.unwrap();
        assert_eq!(signing.published.seen().len(), 2);
        Signing::refused(signing.sign_in(&signing.by(&old, &signing.claims())).await, "it was taken away");
        assert_eq!(signing.published.seen().len(), 2);
        // Without any new name they are read anew after ten minutes.
        signing.advance(11 * 60);
        signing.sign_in(&by_new()).await.unwrap();
        assert_eq!(signing.published.seen().len(), 3);
    }

    async fn published_keys_serve_for_a_day_while_they_cannot_be_read(db: Db) {
        let signing = Signing::new(&db).await;
        let signer = Signer::ed();
        signing.publish(&signer.set()).await;
        signing.published.answer("<html>out of order</html>");
        for hours in [1, 22] {
            signing.advance(hours * 60 * 60);
            signing.sign_in(&signing.by(&signer, &signing.claims())).await.unwrap();
        }
        signing.advance(2 * 60 * 60);
        let outcome = signing.sign_in(&signing.by(&signer, &signing.claims())).await;
        assert_eq!(outcome.map(|_| ()), Err(Code::UpstreamInvalid));
        Signing::refused(signing.sign_in(&signing.by(&signer, &signing.claims())).await, "a day is over");
        signing.published.answer(&signer.set());
        signing.advance(61);
        signing.sign_in(&signing.by(&signer, &signing.claims())).await.unwrap();
    }

    /// A place for keys is somebody's word, and leads nowhere but to a public one with keys in it.
    async fn a_url_of_keys_that_leads_inward_or_to_none_is_refused(db: Db) {
        let signing = Signing::new(&db).await;
        for url in [
            "https://127.0.0.1/jwks",
            "https://localhost/jwks",
            "https://[::1]/jwks",
            "https://10.0.0.1/jwks",
            "https://192.168.1.1:8443/jwks",
            "https://169.254.169.254/latest/meta-data/",
            "https://[fd00::1]/jwks",
            "https://0x7f000001/jwks",
            "http://example.com/jwks",
            "http://127.0.0.1:1/jwks",
        ] {
            assert_eq!(signing.set_url(Some(url)).await, Err(Code::AddressRefused), "{url}");
        }
        for url in [
            "jwks",
            "//example.com",
            "ftp://example.com/",
            "https://u:p@example.com/",
            "https://example.com/#x",
            "https://e\n.com/",
        ] {
            assert_eq!(signing.set_url(Some(url)).await, Err(Code::InvalidRequest), "{url}");
        }
        let large = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(64 * 1024));
        for text in ["", "[]", "{}", "<html>", r#"{"keys":{}}"#, large.as_str()] {
            signing.published.answer(text);
            assert_eq!(signing.set_url(Some(&signing.jwks_url())).await, Err(Code::UpstreamInvalid), "{text:.20}");
        }
        let symmetric = json!({ "kty": "oct", "kid": "own", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0" });
        let symmetric = json!({ "keys": [symmetric] }).to_string();
        for text in [r#"{"keys":[]}"#, symmetric.as_str()] {
            signing.published.answer(text);
            assert_eq!(signing.set_url(Some(&signing.jwks_url())).await, Err(Code::InvalidRequest), "{text}");
        }
        // Whatever was refused left the key as it was.
        let key = platform::get(&db, &signing.world.house.site, signing.key()).await.unwrap().unwrap();
        assert_eq!(key.jwks_url, None);
        signing.alice().await;
    }

    /// What docs/platforms.md shows can be copied.
    async fn the_python_of_the_documentation_signs_a_person_in(db: Db) {
        let signing = Signing::new(&db).await;
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/platforms.md")).unwrap();
        let code = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
        let secret = format!("\"{}\"", signing.platform.assertion_secret.expose());
        let code = code.replace("pkey_...", signing.key().as_str()).replace("\"...\"", &secret);
        let now = signing.world.house.base.clock.now().unix_seconds();
        let script = format!("{code}\ntime.time = lambda: {now}\nprint(assertion('alice'), page('alice', '/\"'))");
        let output = std::process::Command::new("python3").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let (assertion, page) = said.split_once(' ').unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let (_, session) = signing.sign_in(&Secret::new(assertion)).await.unwrap();
        assert_eq!(session.user.as_str(), "alice");
        assert!(page.contains("/signin") && page.contains("name=\"return_to\" value=\"/&quot;\""), "{page}");
    }

    /// Decisions 6: a link's assertion signs nobody in, and one for signing in opens no link.
    async fn an_assertion_is_for_one_thing(db: Db) {
        let signing = Signing::new(&db).await;
        let world = &signing.world;
        let key = minted(world, &[Scope::Signin, Scope::Connect], Asserts::Any).await;
        let link = world.link(crate::connect::world::alices()).await;
        let (alice, now) = ("alice".parse().unwrap(), world.house.base.clock.now());
        let for_link = platform::sign(&key.key.id, &key.assertion_secret, &alice, &link.id, now).unwrap();
        Signing::refused(signing.sign_in(&for_link).await, "a link's");
        let for_signin = platform::sign_for(&key.key.id, &key.assertion_secret, &alice, Purpose::SignIn, now).unwrap();
        let refused = valetkey::connect::session::prove(&world.outside, &link.link, &for_signin).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        valetkey::connect::session::prove(&world.outside, &link.link, &for_link).await.unwrap();
        signing.sign_in(&for_signin).await.unwrap();
    }
}
