//! How the salts of a site are put together.

use serde_json::Value as Json;
use valetkey::{
    import::data_machine::{
        envelope::Key,
        salts::{CONSTANTS, Origin, Part, Salts, Sources, Why},
        wp_config::{Definition, Reason, WpConfig},
    },
    secret::SecretBytes,
};

use super::{SITES, file, json, salts_of, secret};

#[test]
fn every_configuration_of_a_real_wordpress_gives_the_salts_that_it_had() {
    let cases = json("salts/cases.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let config = WpConfig::parse(&file(&format!("salts/{}", case["config_file"].as_str().unwrap()))).unwrap();
        for constant in CONSTANTS {
            let seen = case["constants_as_php_sees_them"].get(constant).and_then(Json::as_str);
            let found = config.constant(constant).map(|definition| match definition {
                Definition::Value { value, .. } => String::from_utf8(value.to_text().expose().to_vec()).unwrap(),
                Definition::NotEvaluated { .. } => panic!("{name}: {constant}"),
            });
            assert_eq!(found.as_deref(), seen, "{name}: {constant}");
        }
        let option = |name: &str| secret(case["db_site_options"][name].as_str().unwrap());
        let (key, salt) = (option("auth_key"), option("auth_salt"));
        let sources =
            Sources { config: Some(&config), database_key: Some(&key), database_salt: Some(&salt), ..Sources::default() };
        let salts = Salts::compose(&sources).unwrap();
        assert_eq!(joined(&salts), case["wp_salt_auth"].as_str().unwrap(), "{name}");
        let opened = Key::derive(&salts).unwrap().open(case["sample_envelope"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(opened.expose(), case["sample_plaintext"].as_str().unwrap().as_bytes(), "{name}");
    }
}

#[test]
fn both_sites_have_the_salts_that_they_ran_with() {
    for (site, origins) in [
        (SITES[0], [Origin::Constant("AUTH_KEY"), Origin::Constant("AUTH_SALT")]),
        (SITES[1], [Origin::Database("auth_key"), Origin::Database("auth_salt")]),
    ] {
        let salts = salts_of(site);
        assert_eq!(joined(&salts), json(&format!("{site}/salts.json"))["wp_salt_auth"].as_str().unwrap());
        assert_eq!([salts.origin(Part::Key), salts.origin(Part::Salt)], origins);
    }
}

#[test]
fn key_and_salt_are_decided_separately() {
    let (given, database) = (secret("given"), secret("database"));
    let config = parse("define('AUTH_KEY', 'k');");
    let sources = Sources {
        given_salt: Some(&given),
        config: Some(&config),
        database_key: Some(&database),
        database_salt: Some(&database),
        ..Sources::default()
    };
    let salts = Salts::compose(&sources).unwrap();
    assert_eq!((joined(&salts).as_str(), salts.origin(Part::Salt)), ("kgiven", Origin::Given));
    assert_eq!(format!("{salts:?}").matches("[redacted]").count(), 2);
}

#[test]
fn a_constant_counts_only_if_php_holds_it_for_true_and_no_other_has_its_value() {
    let database = secret("database");
    for (source, key) in [
        ("define('AUTH_KEY', 'k');", "k"),
        ("define('AUTH_KEY', ' k ');", " k "),
        ("define('AUTH_KEY', 12345);", "12345"),
        ("define('AUTH_KEY', true);", "1"),
        ("define('AUTH_KEY', '');", "database"),
        ("define('AUTH_KEY', '0');", "database"),
        ("define('AUTH_KEY', 0);", "database"),
        ("define('AUTH_KEY', false);", "database"),
        ("define('AUTH_KEY', null);", "database"),
        ("define('AUTH_KEY', 'put your unique phrase here');", "database"),
        ("define('AUTH_KEY', 'x'); define('SECRET_SALT', 'x');", "database"),
        ("define('AUTH_KEY', '7'); define('NONCE_SALT', 7);", "database"),
        ("define('AUTH_KEY', 'x'); define('OTHER_KEY', 'x');", "x"),
        ("define('AUTH_KEY', 'x'); define('NONCE_KEY', 'x'); define('SECRET_KEY', 's');", "s"),
        ("define('SECRET_KEY', 'x'); define('NONCE_KEY', 'x');", "database"),
    ] {
        let config = parse(source);
        let sources =
            Sources { given_salt: Some(&database), config: Some(&config), database_key: Some(&database), ..Sources::default() };
        assert_eq!(text(Salts::compose(&sources).unwrap().key()), key, "{source}");
    }
}

#[test]
fn what_cannot_be_known_is_said_part_by_part_and_the_database_is_no_stopgap() {
    let database = secret("leftover");
    let because = |source: &str| {
        let config = parse(source);
        let sources =
            Sources { given_salt: Some(&database), config: Some(&config), database_key: Some(&database), ..Sources::default() };
        let mut missing = Salts::compose(&sources).unwrap_err();
        assert_eq!((missing.len(), missing[0].part), (1, Part::Key));
        missing.remove(0)
    };
    let missing = because("define('AUTH_KEY', getenv('AUTH_KEY'));");
    let reason = Reason::Call("getenv".to_owned());
    assert_eq!(missing.why, Why::NotEvaluated { constant: "AUTH_KEY", line: 2, reason });
    assert_eq!(
        missing.to_string(),
        "wp-config.php line 2: AUTH_KEY comes from a call of getenv(), and PHP is never run here; give the value of AUTH_KEY as the \
         site has it"
    );
    assert_eq!(because("require __DIR__ . '/secrets.php';\n").why, Why::Elsewhere { lines: vec![2] });
    assert_eq!(because("define('SECRET_KEY', $x);").as_str(), "not_evaluated");
}

#[test]
fn without_any_source_both_parts_are_absent() {
    let empty = SecretBytes::default();
    for database in [None, Some(&empty)] {
        let missing = Salts::compose(&Sources { database_key: database, ..Sources::default() }).unwrap_err();
        let parts: Vec<(Part, &str)> = missing.iter().map(|missing| (missing.part, missing.as_str())).collect();
        assert_eq!(parts, [(Part::Key, "absent"), (Part::Salt, "absent")]);
    }
    assert_eq!([Part::Key.option(), Part::Salt.option()], ["auth_key", "auth_salt"]);
}

fn parse(source: &str) -> WpConfig {
    WpConfig::parse(format!("<?php\n{source}").as_bytes()).unwrap()
}

fn joined(salts: &Salts) -> String {
    format!("{}{}", text(salts.key()), text(salts.salt()))
}

fn text(bytes: &SecretBytes) -> String {
    String::from_utf8(bytes.expose().to_vec()).unwrap()
}
