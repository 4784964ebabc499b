//! The `meshd` command.

fn main() {}
