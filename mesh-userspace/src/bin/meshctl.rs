//! The `meshctl` command.

fn main() {}
