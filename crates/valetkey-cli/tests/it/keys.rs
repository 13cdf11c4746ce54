//! `valetkey keys`.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::Home;

#[test]
fn a_generated_key_goes_into_a_private_file_and_replaces_nothing() {
    let home = Home::sqlite();
    let file = home.folder().join("new.key");
    let said = home.cli(&["keys", "generate", "--file", file.to_str().unwrap()]).ok();
    assert!(said.contains("apart from the database"), "{said}");
    let line = std::fs::read_to_string(&file).unwrap();
    assert!(line.starts_with("vkroot1_") && !said.contains(line.trim()));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    home.cli(&["keys", "generate", "--file", file.to_str().unwrap()]).failed(1);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
    let printed = home.cli(&["keys", "generate"]).ok();
    assert!(printed.starts_with("vkroot1_") && printed.lines().count() == 1);
}
