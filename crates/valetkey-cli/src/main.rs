//! The binary `valetkey`.
fn main() {}
