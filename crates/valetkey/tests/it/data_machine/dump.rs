//! Dumps, of real sites and hostile ones.

use std::io::{Read, Write as _};

use valetkey::import::data_machine::{
    dump::{Choice, Dump, Error, MAX_KEPT, read},
    option,
};

use super::{SITES, dump_of, file};

#[test]
fn both_kinds_of_dump_of_a_site_have_the_same_rows() {
    for site in SITES {
        let (one, two) = (dump_of(site), parse(&file(&format!("{site}/dump.rows.sql"))));
        assert_eq!((one.agents.as_ref(), one.tokens.as_ref()), (two.agents.as_ref(), two.tokens.as_ref()), "{site}");
        assert_eq!((&one.access, &one.principal_access, &one.users), (&two.access, &two.principal_access, &two.users), "{site}");
        assert_eq!((&one.siteurl, &one.home, one.network), (&two.siteurl, &two.home, two.network), "{site}");
        for (one, two) in [
            (&one.auth_data, &two.auth_data),
            (&one.external_tokens, &two.external_tokens),
            (&one.auth_key, &two.auth_key),
            (&one.auth_salt, &two.auth_salt),
        ] {
            assert_eq!(one.as_ref().map(|value| value.expose()), two.as_ref().map(|value| value.expose()), "{site}");
        }
    }
}

#[test]
fn a_dump_has_what_its_site_has() {
    for (site, network, owner) in [(SITES[0], None, 6), (SITES[1], Some(1), 5)] {
        let dump = dump_of(site);
        assert_eq!(dump.auth_data.as_ref().unwrap().expose(), file(&format!("{site}/auth_data.serialized")), "{site}");
        assert!(option::read(dump.external_tokens.as_ref().unwrap().expose()).is_ok());
        assert_eq!((&*dump.table_prefix, dump.network, dump.auth_key.is_some()), ("wp_", network, network.is_some()));
        let agents = dump.agents.as_ref().unwrap();
        assert_eq!(agents.iter().map(|agent| agent.agent_id).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 7, 8]);
        assert_eq!(agents[0].agent_name.as_ref().unwrap().as_str(), Some("Main Bot 🤖 — Größe \"L\""));
        assert!(agents[0].agent_config.as_ref().unwrap().as_str().unwrap().contains(r#""emoji":"\ud83d\udd27""#));
        assert_eq!((agents[1].site_scope, agents[0].site_scope, agents[3].owner_id), (Some(1), None, owner));
        let tokens = dump.tokens.as_ref().unwrap();
        let token = |id| tokens.iter().find(|token| token.token_id == id).unwrap();
        assert_eq!(tokens.len(), 25);
        assert_eq!(token(1).capabilities, None);
        assert_eq!(token(24).capabilities.as_ref().unwrap().as_str(), Some(""));
        assert_eq!(token(26).expires_at.as_ref().unwrap().as_str(), Some("0000-00-00 00:00:00"));
        assert_eq!(token(2).label.as_ref().unwrap().as_str(), Some("étiquette 🔑 \"quoted\" tag"));
        assert_eq!(dump.access.as_ref().unwrap()[5].role.as_str(), Some("operator"));
        assert_eq!(dump.principal_access.as_ref().unwrap()[2].principal_type.as_str(), Some("service"));
        assert_eq!(dump.users.as_ref().unwrap().iter().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(dump.unused.is_empty());
        assert!(!format!("{dump:?}").contains("dm:enc"));
    }
}

#[test]
fn a_packed_dump_is_told_by_its_first_bytes() {
    let plain = file(&format!("{}/dump.extended.sql", SITES[0]));
    let whole = parse(&plain);
    // Two members and two frames are one file.
    let (one, two) = plain.split_at(30_000);
    // And some tools put frames between them that hold none of it.
    let skipped = |bytes: &[u8]| [&b"\x5e\x2a\x4d\x18"[..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let frames = [skipped(b"an index"), zstd(one), skipped(b""), skipped(&[0; 300]), zstd(two)].concat();
    for packed in [gzip(&plain), [gzip(one), gzip(two)].concat(), zstd(&plain), [zstd(one), zstd(two)].concat(), frames] {
        let dump = parse(&packed);
        assert_eq!(dump.tokens, whole.tokens);
        assert_eq!(dump.auth_data.unwrap().expose(), whole.auth_data.as_ref().unwrap().expose());
        for length in (1..packed.len()).step_by(97) {
            assert!(read(&packed[..length], &Choice::default()).is_err(), "{length} of {}", packed.len());
        }
    }
    for (bytes, code) in
        [(&b"\xfd7zXZ\0"[..], "packed"), (b"BZh91", "packed"), (b"PK\x03\x04xx", "packed"), (b"\xff\xfe-\0-\0", "utf16")]
    {
        assert_eq!(read(bytes, &Choice::default()).unwrap_err().as_str(), code);
    }
}

#[test]
fn a_dump_cut_off_anywhere_but_between_two_statements_is_refused() {
    let plain = file(&format!("{}/dump.rows.sql", SITES[0]));
    // The long option's row would make this slow; the rest is cut at every byte.
    let begin = plain.windows(11).position(|window| window == b"CREATE TABL").unwrap();
    let option = plain.windows(23).position(|window| window == b"'datamachine_auth_data'").unwrap();
    let end = option + plain[option..].iter().position(|byte| *byte == b'\n').unwrap();
    let head = [&plain[..option], b"'datamachine_auth_data','a:0:{}','off');", &plain[end..end + 7_000]].concat();
    for length in begin + 1..head.len() {
        let cut = &head[..length];
        match read(cut, &Choice::default()) {
            Ok(_) | Err(Error::Nothing { .. } | Error::NoSql) => {
                let cut = cut.trim_ascii_end();
                assert!(cut.ends_with(b";") || cut.ends_with(b"*/"), "{length}");
            }
            Err(error) => assert!(matches!(error, Error::Ended), "{length}: {error}"),
        }
    }
}

#[test]
fn a_dump_that_says_where_it_begins_has_to_say_where_it_ends() {
    let statements = String::from_utf8(file(&format!("{}/dump.rows.sql", SITES[0]))).unwrap();
    for head in ["-- MySQL dump 10.13  Distrib 8.0.36", "-- MariaDB dump 10.19-11.4"] {
        let cut = format!("{head}\n{statements}");
        assert_eq!(read(cut.as_bytes(), &Choice::default()).unwrap_err().as_str(), "ended");
        assert!(parse(format!("{cut}\n-- Dump completed on 2026-11-22\n").as_bytes()).tokens.is_some());
    }
    // Without comments, each table does.
    let locked = format!("LOCK TABLES `wp_options` WRITE;\n{}", options("wp_", AUTH));
    assert_eq!(fault(&locked), "ended");
    assert!(parse(format!("{locked}UNLOCK TABLES;\n").as_bytes()).auth_data.is_some());
}

#[test]
fn values_of_every_form_are_read_as_the_server_reads_them() {
    let cases: [(&str, &[u8]); 14] = [
        (r"'a\0\'\`\b\n\r\t\Z\\\%\_\x'", b"a\0'`\x08\n\r\t\x1a\\\\%\\_x"),
        ("'it''s \"q\"'", b"it's \"q\""),
        ("\"it's \"\"q\"\"\"", b"it's \"q\""),
        (
            "'INSERT INTO `wp_options` VALUES (1,''x'',''y''); -- /* ` \" ;'",
            b"INSERT INTO `wp_options` VALUES (1,'x','y'); -- /* ` \" ;",
        ),
        ("_binary 'a\\0b'", b"a\0b"),
        ("_utf8mb4'\u{1f511}'", "\u{1f511}".as_bytes()),
        ("_binary 0x4142", b"AB"),
        ("0x61623A", b"ab:"),
        ("X'4142'", b"AB"),
        ("N'a'", b"a"),
        ("-12.5e3", b"-12.5e3"),
        ("TRUE", b"1"),
        ("NULL", b""),
        (" /* c */ 'a' -- c\n ", b"a"),
    ];
    for (value, expected) in cases {
        let sql = format!("{OPTIONS}INSERT INTO `wp_options` VALUES (1,'datamachine_auth_data',{value},'no');");
        assert_eq!(parse(sql.as_bytes()).auth_data.unwrap().expose(), expected, "{value}");
    }
    let invalid = [OPTIONS.as_bytes(), b"INSERT INTO `wp_options` VALUES (1,'datamachine_auth_data','\xff\xfe','no');"].concat();
    assert_eq!(parse(&invalid).auth_data.unwrap().expose(), b"\xff\xfe");
}

#[test]
fn columns_stand_in_the_order_that_the_statement_or_the_table_says() {
    for sql in [
        "INSERT INTO wp_options (option_value, autoload, option_name) VALUES ('v', 'x', 'datamachine_auth_data');",
        "CREATE TABLE `wp_options` (`autoload` enum('a','b,)') DEFAULT 'a' COMMENT 'x, ) `', `option_value` longtext,\n\
         `option_name` varchar(191) NOT NULL DEFAULT '', PRIMARY KEY (`option_name`), KEY `a` (`autoload`(3),`option_name`));\n\
         INSERT INTO `wp_options` VALUES ('a','no','siteurl'),\n('b','v','datamachine_auth_data');",
        "CREATE TABLE IF NOT EXISTS \"site\".\"wp_options\" (\"option_name\" text, \"option_value\" text);\r\n\
         INSERT IGNORE INTO \"site\".\"wp_options\" VALUES (\"datamachine_auth_data\", \"v\");\r\n",
    ] {
        assert_eq!(parse(sql.as_bytes()).auth_data.unwrap().expose(), b"v", "{sql}");
    }
    let none = "INSERT INTO wp_options VALUES (1,'datamachine_auth_data','v','no');";
    assert_eq!(fault(none), "no_columns");
}

#[test]
fn statements_of_other_kinds_hide_nothing_and_are_not_taken_for_rows() {
    let row = "INSERT INTO `wp_options` VALUES (1,'datamachine_auth_data','v','no');";
    for noise in [
        "LOCK TABLES `wp_options` WRITE;\n/*!40000 ALTER TABLE `wp_options` DISABLE KEYS */;\nUNLOCK TABLES;\n",
        "/*!40101 SET NAMES utf8mb4 */;\n/*!50503 SET character_set_client = utf8mb4 */;\n",
        "/*M!999999\\- enable the sandbox mode */ \n",
        "/* a ; ' comment */ -- it's ; one\n# it's another\n--\n",
        "CREATE TABLE `wp_x` (`a` text COMMENT 'it''s; (') ENGINE=InnoDB;\nINSERT INTO `wp_x` VALUES ('); -- '),(\"';\");\n",
        "DELIMITER ;;\nCREATE TRIGGER t AFTER INSERT ON wp_posts FOR EACH ROW BEGIN\n\
         INSERT INTO `wp_options` VALUES (9,'datamachine_auth_data','evil','no');\nEND ;;\nDELIMITER ;\n",
        "DELIMITER //\n/* it's // no end */ CREATE PROCEDURE p() BEGIN SELECT 4/2; /* ' */ END //\nDELIMITER ;\n",
        "/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 VIEW `v` AS SELECT 'a;b' */;\n",
        "BEGIN;\nSET SQL_MODE = \"NO_AUTO_VALUE_ON_ZERO\";\nSTART TRANSACTION;\n",
        "DROP TABLE IF EXISTS `wp_options_old`; TRUNCATE TABLE wp_links;\n",
    ] {
        for sql in [format!("{OPTIONS}{noise}{row}"), format!("{noise}{OPTIONS}{row}"), format!("{OPTIONS}{row}{noise}")] {
            assert_eq!(parse(sql.as_bytes()).auth_data.unwrap().expose(), b"v", "{sql}");
        }
    }
}

#[test]
fn a_table_that_is_made_again_begins_anew_and_a_row_that_is_there_is_kept_replaced_or_refused() {
    let row = |verb: &str, value: &str| format!("{verb} INTO `wp_options` VALUES (1,'datamachine_auth_data','{value}','no');\n");
    let first = format!("{OPTIONS}{}", row("INSERT", "old"));
    assert_eq!(
        parse(format!("{first}DROP TABLE `wp_options`;\n{OPTIONS}{}", row("INSERT", "new")).as_bytes())
            .auth_data
            .unwrap()
            .expose(),
        b"new"
    );
    assert_eq!(parse(format!("{first}{}", row("REPLACE", "new")).as_bytes()).auth_data.unwrap().expose(), b"new");
    assert_eq!(parse(format!("{first}{}", row("INSERT IGNORE", "new")).as_bytes()).auth_data.unwrap().expose(), b"old");
    assert_eq!(fault(&format!("{first}{}", row("INSERT", "new"))), "duplicate");
}

#[test]
fn of_several_installations_the_one_with_data_machine_is_meant() {
    let other = options("other_", "'siteurl','http://x'");
    assert_eq!(parse(format!("{other}{}", options("wp_", AUTH)).as_bytes()).table_prefix, "wp_");
    let both = format!("{}{}", options("a_", AUTH), options("b_", AUTH));
    match read(both.as_bytes(), &Choice::default()).unwrap_err() {
        Error::Ambiguous { prefixes } => assert_eq!(prefixes, ["a_", "b_"]),
        error => panic!("{error}"),
    }
    let dump = read(both.as_bytes(), &prefix("b_")).unwrap();
    assert_eq!((&*dump.table_prefix, &*dump.unused), ("b_", &["datamachine_auth_data in a_options".to_owned()][..]));
    // What a configuration says decides, and forces nothing.
    let likely = |name: &str| Choice { likely_prefix: Some(name.to_owned()), ..Choice::default() };
    assert_eq!(read(both.as_bytes(), &likely("a_")).unwrap().table_prefix, "a_");
    assert_eq!(read(both.as_bytes(), &likely("c_")).unwrap_err().as_str(), "ambiguous");
    assert_eq!(read(options("a_", AUTH).as_bytes(), &likely("c_")).unwrap().table_prefix, "a_");
    match read(both.as_bytes(), &prefix("c_")).unwrap_err() {
        Error::NoSuchPrefix { prefixes } => assert_eq!(prefixes, ["a_", "b_"]),
        error => panic!("{error}"),
    }
    assert_eq!(fault(&other), "nothing");
}

#[test]
fn of_a_network_the_main_site_is_meant_and_what_blogs_have_is_said() {
    let meta = "CREATE TABLE `wp_sitemeta` (`meta_id` int, `site_id` int, `meta_key` text, `meta_value` longtext);\n\
                INSERT INTO `wp_sitemeta` VALUES (9,1,'datamachine_auth_data','later'),(4,1,'datamachine_auth_data','v'),(5,1,'auth_key','k');\n";
    let blogs = format!("{}{}", options("wp_2_", "'datamachine_external_tokens','a:0:{}'"), options("wp_10_", "'home','x'"));
    let dump = parse(format!("{}{blogs}{meta}", options("wp_", "'datamachine_auth_data','leftover'")).as_bytes());
    assert_eq!((&*dump.table_prefix, dump.network), ("wp_", Some(1)));
    assert_eq!(dump.auth_data.unwrap().expose(), b"v", "WordPress takes the row with the lower number");
    assert_eq!(dump.auth_key.unwrap().expose(), b"k");
    assert!(dump.external_tokens.is_none());
    assert_eq!(dump.unused.len(), 2, "{:?}", dump.unused);
}

#[test]
fn of_several_networks_one_has_to_be_named() {
    let sql = "CREATE TABLE `wp_sitemeta` (`meta_id` int, `site_id` int, `meta_key` text, `meta_value` longtext);\n\
               INSERT INTO `wp_sitemeta` VALUES (1,1,'datamachine_auth_data','one'),(2,3,'datamachine_auth_data','three');\n";
    match read(sql.as_bytes(), &Choice::default()).unwrap_err() {
        Error::Networks { networks } => assert_eq!(networks, [1, 3]),
        error => panic!("{error}"),
    }
    let dump = read(sql.as_bytes(), &Choice { network: Some(3), ..Choice::default() }).unwrap();
    assert_eq!(dump.auth_data.unwrap().expose(), b"three");
    let single = options("wp_", AUTH);
    for (sql, known) in [(sql, vec![1, 3]), (single.as_str(), Vec::new())] {
        match read(sql.as_bytes(), &Choice { network: Some(2), ..Choice::default() }).unwrap_err() {
            Error::NoSuchNetwork { networks } => assert_eq!(networks, known),
            error => panic!("{error}"),
        }
    }
}

#[test]
fn any_prefix_will_do_also_one_that_looks_like_a_blog_or_like_a_table() {
    for name in ["wp_", "x9_", "wp_2_", "datamachine_", "my_options_", "Ünï_", ""] {
        assert_eq!(parse(options(name, AUTH).as_bytes()).table_prefix, name);
    }
    // A plugin's table that only ends like one of WordPress's.
    let plugin = "CREATE TABLE `wp_shop_options` (`id` int, `v` text);\nINSERT INTO `wp_shop_options` VALUES (1,'x');\n";
    assert_eq!(parse(format!("{plugin}{}", options("wp_", AUTH)).as_bytes()).table_prefix, "wp_");
}

#[test]
fn of_several_databases_the_one_with_data_machine_is_meant() {
    let shop = format!(
        "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;\n\nUSE `shop`;\n{OPTIONS}\
         INSERT INTO `wp_options` VALUES (1,'siteurl','http://shop','no');\n"
    );
    let press = |name: &str| {
        format!("USE `{name}`;\n{OPTIONS}INSERT INTO `wp_options` VALUES (1,'datamachine_auth_data','{name}','no');\n")
    };
    // Whichever comes first, with the same prefix.
    for sql in [format!("{shop}{}", press("press")), format!("{}{shop}", press("press"))] {
        let dump = parse(sql.as_bytes());
        assert_eq!(dump.auth_data.unwrap().expose(), b"press");
        assert!(dump.siteurl.is_none() && dump.unused.is_empty());
    }
    match read(format!("{}{}{shop}", press("a"), press("b")).as_bytes(), &Choice::default()).unwrap_err() {
        Error::Databases { names } => assert_eq!(names, ["a", "b"]),
        error => panic!("{error}"),
    }
    let other = format!("{}USE `b`;\n{}", press("a"), options("b_", AUTH));
    assert_eq!(fault(&other), "databases");
    let dump = read(other.as_bytes(), &prefix("b_")).unwrap();
    assert_eq!(dump.table_prefix, "b_");
    assert_eq!(dump.unused, ["datamachine_auth_data in wp_options of the database a"]);
    match read(format!("{shop}USE x;\n{}", options("x_", "'home','x'")).as_bytes(), &Choice::default()).unwrap_err() {
        Error::Nothing { prefixes } => assert_eq!(prefixes, ["wp_", "x_"]),
        error => panic!("{error}"),
    }
}

#[test]
fn beside_a_single_site_a_prefix_with_a_number_is_a_site_of_its_own() {
    let sql = format!("{}{}", options("wp_", "'siteurl','http://x'"), options("wp_2_", AUTH));
    assert_eq!(parse(sql.as_bytes()).table_prefix, "wp_2_");
}

#[test]
fn a_plugins_table_that_only_ends_like_that_of_the_users_is_none() {
    let users = "INSERT INTO `wp_users` (`ID`, `user_login`) VALUES (3,'amy'),(4,'bo');\n";
    for plugin in [
        "CREATE TABLE `wp_club_users` (`user_id` int, `mail` text);\nINSERT INTO `wp_club_users` VALUES (1,'x'),(1,'y');\n",
        "INSERT INTO `wp_club_users` (`id`, `mail`) VALUES ('5f1c-b2','x'),('5f1c-b2','y');\n",
        "INSERT INTO `wp_club_users` (`mail`) VALUES ('x');\n",
    ] {
        let dump = parse(format!("{plugin}{users}{}{plugin}", options("wp_", AUTH)).as_bytes());
        assert_eq!(dump.users, Some([3, 4].into()), "{plugin}");
    }
}

#[test]
fn a_dump_with_other_line_ends_or_verbs_has_the_same_rows() {
    let plain = String::from_utf8(file(&format!("{}/dump.rows.sql", SITES[0]))).unwrap();
    let whole = parse(plain.as_bytes());
    for changed in [
        plain.replace('\n', "\r\n"),
        format!("\u{feff}{plain}"),
        plain.replace("INSERT INTO", "REPLACE  INTO"),
        plain.replace("INSERT INTO", "insert /*! ignore */ into"),
        plain.replace(") VALUES (", ")\n  values\n  ("),
    ] {
        let dump = parse(changed.as_bytes());
        assert_eq!((&dump.agents, &dump.tokens, &dump.users), (&whole.agents, &whole.tokens, &whole.users));
        assert_eq!(dump.auth_data.unwrap().expose(), whole.auth_data.as_ref().unwrap().expose());
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_what_it_is() {
    let agents = "INSERT INTO wp_datamachine_agents (agent_id, agent_slug, owner_id) VALUES";
    for (sql, code) in [
        ("".to_owned(), "no_sql"),
        ("hello world;".to_owned(), "no_sql"),
        ("SET NAMES latin1;".to_owned(), "charset"),
        ("INSERT INTO wp_options SELECT * FROM x;".to_owned(), "unsupported"),
        (format!("{agents} (1,'a',NOW());"), "unsupported"),
        (format!("{agents} (1,'a','x');"), "value"),
        (format!("{agents} (1,NULL,2);"), "value"),
        (format!("{agents} (1,'a');"), "syntax"),
        (format!("{agents} (1,'a',2,3);"), "syntax"),
        (format!("{agents} (1,'a',2) (2,'b',2);"), "syntax"),
        ("INSERT INTO wp_datamachine_agents (agent_id, agent_slug) VALUES (1,'a');".to_owned(), "value"),
        (format!("INSERT INTO wp_options ({}) VALUES (1);", "x".repeat(300)), "syntax"),
    ] {
        assert_eq!(fault(&sql), code, "{sql}");
    }
}

#[test]
fn a_gigabyte_that_is_not_needed_is_passed_over_and_nothing_of_it_is_kept() {
    let site = file(&format!("{}/dump.rows.sql", SITES[0]));
    let text = format!("it''s (\\'a\\'); {} -- /* `", "lorem ipsum dolor ".repeat(7000));
    let posts = format!("INSERT INTO `wp_posts` VALUES (1,'{text}',NULL),(2,\"{text}\",0x00);\n");
    let transients = format!("INSERT INTO `wp_options` VALUES (7,'_transient_x','{text}','no');\n");
    let block = [posts, transients].concat().into_bytes();
    let times = (1 << 30) / block.len() as u64 + 1;
    // The site first, so that its tables are known, then the gigabyte.
    let source = (&*site).chain(Repeat { block: &block, at: 0, left: times });
    let dump = read(source, &Choice::default()).unwrap();
    assert_eq!(dump.tokens, parse(&site).tokens);
    assert_eq!(dump.auth_data.unwrap().expose().len(), 42045);
}

#[test]
fn what_would_have_to_be_kept_has_a_limit_packed_or_not() {
    // One value without end; the reader stops asking at the limit.
    let begin = format!("{OPTIONS}INSERT INTO `wp_options` VALUES (1,'datamachine_auth_data','");
    let block = vec![b'a'; 1 << 20];
    let mut source = Counted { source: begin.as_bytes().chain(Repeat { block: &block, at: 0, left: 1 << 20 }), bytes: 0 };
    assert_eq!(read(&mut source, &Choice::default()).unwrap_err().as_str(), "too_much");
    assert!(source.bytes < MAX_KEPT as u64 + (2 << 20), "{}", source.bytes);
    // A few kilobytes that unpack to gigabytes: without end in a row that is not needed, they are only passed over.
    let bomb = [gzip(b"INSERT INTO `wp_posts` VALUES ('"), (0..64).flat_map(|_| gzip(&block)).collect()].concat();
    assert!(bomb.len() < block.len());
    assert_eq!(read(&*bomb, &Choice::default()).unwrap_err().as_str(), "ended");
}

const OPTIONS: &str = "CREATE TABLE `wp_options` (`option_id` bigint, `option_name` varchar(191), `option_value` longtext,\n\
                       `autoload` varchar(20), PRIMARY KEY (`option_id`), UNIQUE KEY `option_name` (`option_name`));\n";
const AUTH: &str = "'datamachine_auth_data','a:0:{}'";

fn options(prefix: &str, row: &str) -> String {
    format!("INSERT INTO `{prefix}options` (`option_name`, `option_value`) VALUES ({row});\n")
}

fn prefix(name: &str) -> Choice {
    Choice { table_prefix: Some(name.to_owned()), ..Choice::default() }
}

fn parse(bytes: &[u8]) -> Dump {
    read(bytes, &Choice::default()).unwrap_or_else(|error| panic!("{error}: {}", bytes[..bytes.len().min(400)].escape_ascii()))
}

fn fault(sql: &str) -> &'static str {
    read(sql.as_bytes(), &Choice::default()).unwrap_err().as_str()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A block, over and over.
struct Repeat<'b> {
    block: &'b [u8],
    at: usize,
    left: u64,
}

impl Read for Repeat<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let length = buffer.len().min(self.block.len() - self.at);
        buffer[..length].copy_from_slice(&self.block[self.at..self.at + length]);
        self.at += length;
        if self.at == self.block.len() {
            (self.at, self.left) = (0, self.left - 1);
        }
        Ok(length)
    }
}

struct Counted<R> {
    source: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.bytes += length as u64;
        Ok(length)
    }
}
