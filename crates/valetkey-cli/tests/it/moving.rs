//! `valetkey import` and `valetkey export`: a whole move, as an operator does it, and back.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{
    on_each_home,
    support::{Home, command},
};

const SITE: &str = "single-wpconfig";

on_each_home! {
    async fn a_site_moves_in_by_dry_run_and_import_once_while_the_server_runs(home: Home) {
        let _server = home.serve().await;
        let (dump, config) = (file("dump.extended.sql"), file("wp-config.php"));
        let words = ["import", "data-machine", "--sql-dump", &dump, "--wp-config", &config];
        let would = home.json(&[&words[..], &["--dry-run"]].concat());
        assert_eq!((&would["written"], &would["report"]["dry_run"]), (&json!(false), &json!(true)));
        let account = ["account", "get", "reddit", "--site-account", "--reveal"];
        home.cli(&account).failed(3);

        let done = home.json(&words);
        assert_eq!(done["report"]["counts"], would["report"]["counts"]);
        assert_eq!(done["written"], json!(true));
        assert_eq!(home.json(&account)["account"]["username"], "snoo");
        assert!(done["salts"]["AUTH_KEY"].as_str().unwrap().contains("wp-config.php"), "{done}");

        let again = home.json(&words);
        assert!(again["report"]["counts"].as_object().unwrap().values().all(|counts| counts["created"] == 0), "{again}");
    }

    async fn without_a_server_the_option_comes_through_a_pipe_as_json(home: Home) {
        drop(home.serve().await);
        let option = std::fs::read_to_string(file("auth_data.stored.json")).unwrap();
        let config = file("wp-config.php");
        let words = ["import", "data-machine", "--auth-data", "-", "--wp-config", &config, "--json"];
        let done = home.cli_with_input(&words, &option).json();
        assert_eq!(done["report"]["counts"]["account"]["skipped"], 0, "{done}");
        assert_eq!(home.json(&["account", "get", "mixed", "--site-account", "--reveal"])["account"]["refresh_token"], "mixed-plain-refresh");
    }

    /// As a shell hands over `--wp-config <(ssh site cat wp-config.php)`: what was read from a pipe is gone.
    async fn beside_a_dump_the_configuration_may_come_through_a_pipe(home: Home) {
        drop(home.serve().await);
        let config = std::fs::read_to_string(file("wp-config.php")).unwrap();
        let dump = file("dump.extended.sql");
        let words = ["import", "data-machine", "--dry-run", "--sql-dump", &dump, "--wp-config", "/dev/stdin", "--json"];
        let done = home.cli_with_input(&words, &config).json();
        assert!(done["salts"]["AUTH_KEY"].is_string(), "{done}");
        assert_eq!(done["source"]["unreadable"], json!([]), "{done}");
    }

    async fn what_cannot_be_opened_stops_the_import_unless_that_is_allowed(home: Home) {
        drop(home.serve().await);
        let wrong = home.folder().join("wrong");
        std::fs::write(&wrong, "not the salt").unwrap();
        let (option, wrong) = (file("auth_data.serialized"), wrong.display().to_string());
        let words = ["import", "data-machine", "--auth-data", &option, "--auth-key-file", &wrong, "--auth-salt-file", &wrong];
        let refused = home.cli(&words);
        assert!(refused.stdout.contains("does_not_open") && refused.stdout.contains("client_secret"), "{refused:?}");
        assert!(refused.failed(1).contains("--allow-unreadable"));
        home.cli(&["account", "get", "tumblr", "--site-account", "--reveal"]).failed(3);

        let done = home.json(&[&words[..], &["--allow-unreadable"]].concat());
        assert_eq!(done["written"], json!(true));
        assert_eq!(home.json(&["account", "get", "tumblr", "--site-account", "--reveal"])["account"]["access_token"], "tumblr-LEGACY-plain");
    }

    async fn without_salts_the_import_says_how_to_give_them(home: Home) {
        drop(home.serve().await);
        let option = file("auth_data.serialized");
        let said = home.cli(&["import", "data-machine", "--auth-data", &option]).failed(1);
        assert!(said.contains("--auth-key-file"), "{said}");
    }

    async fn a_source_that_is_cut_off_brings_nothing(home: Home) {
        drop(home.serve().await);
        let cut = home.folder().join("cut");
        let option = std::fs::read(file("auth_data.serialized")).unwrap();
        std::fs::write(&cut, &option[..option.len() / 2]).unwrap();
        let (cut, config) = (cut.display().to_string(), file("wp-config.php"));
        home.cli(&["import", "data-machine", "--auth-data", &cut, "--wp-config", &config]).failed(1);
        assert_eq!(home.json(&["connection", "list"])["connections"], json!([]));
    }

    async fn accounts_of_providers_and_agents_that_are_not_known_here_are_shown_and_deleted(home: Home) {
        drop(home.serve().await);
        let option = home.folder().join("auth_data.json");
        let (account, agents) = (json!({ "access_token": "t" }), json!({ "agent:987654": { "account": { "access_token": "a" } } }));
        let app = json!({ "client_id": "c" });
        let all = json!({
            "newsletter": { "account": account }, "reddit": { "principals": agents }, "gazette": { "account": account, "config": app },
            "almanac": { "config": app },
        });
        std::fs::write(&option, all.to_string()).unwrap();
        home.json(&["import", "data-machine", "--auth-data", option.to_str().unwrap()]);

        let status = home.json(&["auth", "status"]);
        let there = status["accounts"].as_array().unwrap().iter().find(|account| account["provider"] == "newsletter").unwrap();
        assert_eq!((&there["connected"], &there["configured"]), (&json!(true), &json!(false)));
        assert_eq!(home.json(&["auth", "status", "newsletter"])["accounts"][0]["connected"], true);
        // Nobody can say what an app there needs: what was configured there is configured here.
        let there = status["accounts"].as_array().unwrap().iter().find(|account| account["provider"] == "gazette").unwrap();
        assert_eq!((&there["connected"], &there["configured"]), (&json!(true), &json!(true)));
        for (provider, connected) in [("gazette", true), ("almanac", false)] {
            let alone = home.json(&["auth", "status", provider]);
            assert_eq!((&alone["configured"], &alone["accounts"][0]["connected"]), (&json!(true), &json!(connected)));
        }
        home.cli(&["auth", "status", "newsletters"]).failed(3);

        for (owner, token) in [(&["newsletter", "--site-account"][..], "t"), (&["reddit", "--agent", "987654"][..], "a")] {
            let get = [&["account", "get"][..], owner, &["--reveal"]].concat();
            assert_eq!(home.json(&get)["account"]["access_token"], token);
            home.json(&[&["account", "delete"][..], owner].concat());
            home.cli(&get).failed(3);
        }
        home.cli(&["account", "get", "reddit", "--agent", "987655"]).failed(3);
    }

    async fn who_gave_a_dump_is_not_told_to_give_one(home: Home) {
        drop(home.serve().await);
        let option = home.folder().join("auth_data.json");
        let account = json!({ "account": { "access_token": "t" } });
        std::fs::write(&option, json!({ "reddit": { "principals": { "agent:987654": account } } }).to_string()).unwrap();
        let words = ["import", "data-machine", "--dry-run", "--auth-data", option.to_str().unwrap()];
        let said = home.cli(&words).ok();
        assert!(said.contains("987654") && said.contains("import the SQL dump too"), "{said}");
        let (dump, config) = (file("dump.extended.sql"), file("wp-config.php"));
        let said = home.cli(&[&words[..], &["--sql-dump", &dump, "--wp-config", &config]].concat()).ok();
        assert!(said.contains("987654") && !said.contains("import the SQL dump too"), "{said}");
    }

    async fn what_changed_at_its_source_is_refused_left_or_replaced_as_is_said(home: Home) {
        drop(home.serve().await);
        let option = home.folder().join("option.json");
        let write = |token: &str| {
            let all = json!({ "reddit": { "account": { "access_token": token } } });
            std::fs::write(&option, all.to_string()).unwrap();
        };
        let words = ["import", "data-machine", "--auth-data", option.to_str().unwrap()];
        let token = || home.json(&["account", "get", "reddit", "--site-account", "--reveal"])["account"]["access_token"].clone();
        write("one");
        home.json(&words);
        write("two");
        for more in [&["--dry-run"][..], &[], &["--on-conflict", "fail"]] {
            home.cli(&[&words[..], more].concat()).failed(4);
            assert_eq!(token(), "one", "{more:?}");
        }
        let left = home.json(&[&words[..], &["--on-conflict", "skip"]].concat());
        assert_eq!((&left["report"]["conflicts"]["count"], token()), (&json!(1), json!("one")));
        let replaced = home.json(&[&words[..], &["--on-conflict", "replace"]].concat());
        assert_eq!((&replaced["report"]["counts"]["account"]["replaced"], token()), (&json!(1), json!("two")));
        assert_eq!(home.json(&words)["report"]["counts"]["account"]["unchanged"], 1);
    }

    async fn whose_an_account_is_waits_for_a_word_unless_the_operator_vouches(home: Home) {
        drop(home.serve().await);
        let option = home.folder().join("option.json");
        let cases: [(&str, &[&str], &str, u64); 2] =
            [("user:1", &[], "unverified", 1), ("user:2", &["--trust-identities"], "owner", 0)];
        for (user, vouch, identity, waiting) in cases {
            let people = json!({ user: { "account": { "access_token": "t" } } });
            std::fs::write(&option, json!({ "reddit": { "principals": people } }).to_string()).unwrap();
            let words = ["import", "data-machine", "--auth-data", option.to_str().unwrap()];
            let done = home.json(&[&words[..], vouch].concat());
            assert_eq!(done["report"]["unverified"], waiting);
            assert_eq!(home.json(&["connection", "list", "--owner", user])["connections"][0]["identity"], identity);
        }
    }

    async fn what_a_dump_has_of_other_sites_is_said(home: Home) {
        drop(home.serve().await);
        let both = home.folder().join("both.sql");
        let other = "INSERT INTO `shop_options` (`option_name`, `option_value`) VALUES ('datamachine_auth_data', 'a:0:{}');\n";
        std::fs::write(&both, std::fs::read_to_string(file("dump.extended.sql")).unwrap() + other).unwrap();
        let words = ["import", "data-machine", "--dry-run", "--sql-dump", both.to_str().unwrap()];
        let said = home.cli(&words).failed(1);
        assert!(said.contains("shop_") && said.contains("wp_"), "{said}");
        // The configuration says which is its own.
        let would = home.json(&[&words[..], &["--wp-config", &file("wp-config.php")]].concat());
        assert!(would["report"]["counts"]["account"]["created"].as_u64().unwrap() > 10, "{would}");
        let skipped = would["source"]["skipped"].as_array().unwrap();
        assert!(skipped.iter().any(|one| one["path"] == "datamachine_auth_data in shop_options"), "{would}");
        let other = home.json(&[&words[..], &["--table-prefix", "shop_"]].concat());
        assert_eq!(other["report"]["counts"], json!({}), "{other}");
    }

    async fn an_option_that_json_cannot_hold_moves_out_as_php_only(home: Home) {
        drop(home.serve().await);
        let option = home.folder().join("option");
        let begin = b"a:1:{s:6:\"reddit\";a:1:{s:7:\"account\";a:2:{s:12:\"access_token\";s:1:\"t\";s:3:\"raw\";s:2:\"";
        let bytes = [&begin[..], b"\xff\xfe", b"\";}}}"].concat();
        std::fs::write(&option, &bytes).unwrap();
        home.json(&["import", "data-machine", "--auth-data", option.to_str().unwrap()]);
        let (out, sql) = (home.folder().join("out"), home.folder().join("out.sql"));
        let words = ["export", "data-machine", "--plain", "--auth-data", out.to_str().unwrap(), "--sql", sql.to_str().unwrap()];
        let said = home.cli(&[&words[..], &["--format", "json"]].concat()).failed(1);
        assert!(said.contains("--format php"), "{said}");
        assert!(!out.exists() && !sql.exists());
        home.json(&words);
        assert_eq!(std::fs::read(&out).unwrap(), bytes);
    }

    async fn moving_out_gives_back_what_moved_in(home: Home) {
        drop(home.serve().await);
        let (dump, config) = (file("dump.extended.sql"), file("wp-config.php"));
        home.json(&["import", "data-machine", "--sql-dump", &dump, "--wp-config", &config]);
        let (option, sql) = (home.folder().join("option"), home.folder().join("agents.sql"));
        let words = ["export", "data-machine", "--auth-data", option.to_str().unwrap(), "--sql", sql.to_str().unwrap()];
        let told = home.cli(&[&words[..], &["--wp-config", &config, "--json"]].concat());
        let losses = serde_json::from_str::<Value>(&told.stdout).unwrap();
        // Four tokens have ceilings that nobody can read: they are written so that they allow nothing.
        assert_eq!((told.code, losses["losses"].as_array().unwrap().len()), (Some(1), 4), "{losses}");
        let written = std::fs::read_to_string(sql).unwrap();
        assert!(written.contains("efe0ab0ac565973f6546b45e6fac608e92c5d8107c41519e4dc518b9a73ac730"), "a token's hash");

        // Into another broker, and the same comes out of it.
        let other = Home::sqlite();
        drop(other.serve().await);
        let done = other.json(&["import", "data-machine", "--auth-data", option.to_str().unwrap(), "--wp-config", &config]);
        assert_eq!(done["source"]["unreadable"], json!([]));
        for provider in ["twitter", "mixed", "acme"] {
            let account = |home: &Home| home.json(&["account", "get", provider, "--site-account", "--reveal"])["account"].clone();
            assert_eq!(account(&home), account(&other), "{provider}");
        }
    }
}

/// What a dump holds besides is passed over, and memory does not grow with it. Nothing of this asks the database.
#[tokio::test]
async fn half_a_gigabyte_of_posts_comes_through_a_pipe_in_little_memory() {
    let home = Home::sqlite();
    drop(home.serve().await);
    let config = file("wp-config.php");
    let words = ["import", "data-machine", "--dry-run", "--json", "--sql-dump", "-", "--wp-config", &config];
    let mut command = command(home.variables(), &words);
    let mut import = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = import.stdin.take().unwrap();
    pipe.write_all(&std::fs::read(file("dump.extended.sql")).unwrap()).unwrap();
    let posts = format!("(1,'{}'),", "lorem; -- (ipsum), ".repeat(3_400)).repeat(16);
    let posts = format!("INSERT INTO `wp_posts` VALUES {posts}(2,'');\n");
    for _ in 0..(512 << 20) / posts.len() {
        pipe.write_all(posts.as_bytes()).unwrap();
    }
    // All of it but what the pipe holds was read.
    let status = std::fs::read_to_string(format!("/proc/{}/status", import.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    drop(pipe);
    let output = import.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["report"]["counts"]["account"]["created"].as_u64().unwrap() > 10, "{said}");
    assert!(peak < 128 << 10, "{peak} KiB");
}

fn file(name: &str) -> String {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../valetkey/tests/fixtures/data-machine").join(SITE);
    folder.join(name).canonicalize().unwrap().display().to_string()
}
