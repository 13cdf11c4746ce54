//! The definition that the provider lab prints is one that the loader takes.

use provider_lab::{DefinitionOptions, Lab};
use valetkey::provider::{Catalogue, Identity, Kills, RefreshStrategy, Trust};

/// Every option alone, and all that go together.
fn options() -> Vec<DefinitionOptions> {
    let usual = DefinitionOptions::default;
    vec![
        usual(),
        DefinitionOptions { exchange: true, ..usual() },
        DefinitionOptions { without_identity: true, ..usual() },
        DefinitionOptions { grace: Some("30s".to_owned()), replay_kills_family: true, ..usual() },
        DefinitionOptions { device: true, pages: true, ..usual() },
        DefinitionOptions { exchange: true, pages: true, ..usual() },
        DefinitionOptions { revoke_ends_all: true, access_ttl: Some("60s".to_owned()), ..usual() },
        DefinitionOptions { oauth1: Some("HMAC-SHA1".to_owned()), ..usual() },
        DefinitionOptions { oauth1: Some("HMAC-SHA256".to_owned()), without_identity: true, ..usual() },
    ]
}

#[tokio::test]
async fn the_lab_s_definitions_load_in_development() {
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let name = "lab".parse().unwrap();
    for options in options() {
        let text = lab.definition(&options);
        let catalogue = Catalogue::embedded().unwrap().with_text(&name, &text, Trust::Dev);
        let catalogue = catalogue.unwrap_or_else(|problems| panic!("{options:?}: {problems:#?}"));
        let definition = catalogue.get(&name).unwrap();
        definition.is_connectable().unwrap();
        let Some(oauth2) = &definition.oauth2 else {
            assert_eq!(definition.oauth1.as_ref().unwrap().signature.as_str(), options.oauth1.unwrap());
            assert_eq!(matches!(definition.identity, Identity::None { .. }), options.without_identity);
            continue;
        };
        assert_eq!(oauth2.issuer, Some(lab.origin()));
        assert_eq!(oauth2.exchange.len(), usize::from(options.exchange));
        let strategy = if options.exchange { RefreshStrategy::Extend } else { RefreshStrategy::RefreshToken };
        assert_eq!(definition.refresh.strategy, strategy);
        assert_eq!(definition.refresh.grace.is_some(), options.grace.is_some());
        assert_eq!(definition.refresh.replay_kills_family, options.replay_kills_family);
        assert_eq!(matches!(definition.identity, Identity::None { .. }), options.without_identity);
        assert_eq!(definition.revoke.as_ref().unwrap().kills == Kills::Grant, options.revoke_ends_all);

        let (proxy, host) = (definition.proxy.as_ref().unwrap(), lab.addr().to_string());
        let get = http::Method::GET;
        assert!(proxy.path_is_allowed(&get, &host, b"/api/me"));
        assert!(!proxy.path_is_allowed(&get, &host, b"/userinfo"));
        for path in ["/token", "/exchange", "/revoke", "/introspect", "/api/echo-credential", "/lab/tokens"] {
            assert!(proxy.is_credential_path(&get, &host, path.as_bytes()), "{path}");
        }
    }
}

#[tokio::test]
async fn the_lab_s_definition_does_not_load_outside_development() {
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let name = "lab".parse().unwrap();
    assert!(Catalogue::embedded().unwrap().with_text(&name, &lab.definition_toml(), Trust::Normal).is_err());
}
