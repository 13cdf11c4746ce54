//! The example runs, and what it says is so.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_says_what_it_shows() {
    let data = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    embedded::run(data.path(), &mut said).await.unwrap();
    let said = String::from_utf8(said).unwrap();
    let expected = "\
ada has an account: true; the site has one: false
a call of ada uses the account of user:ada
a call of bob uses the account of user:bob
a call of nobody uses the account of nobody
the provider says that this is \"bob\"
deleting ada's account: conflict
";
    assert!(said.starts_with(expected), "{said}");
    for noted in ["connected: user:bob at lab, ", "account resolved: user:ada from table", "revoked: user:bob"] {
        assert!(said.contains(&format!("noted: {noted}")), "{noted}: {said}");
    }
    assert!(!said.contains("lab_at_") && !said.contains("from the table\""), "{said}");
}
