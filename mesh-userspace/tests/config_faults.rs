//! Each file of tests/faulty gives exactly the faults that stand beside it, each with its place.
//!
//! With MESH_BLESS=1 the expectations are written anew, to be read before they are committed.

use std::{fs, path::Path};

use mesh_userspace::{
    config,
    spec::{Faults, resolve},
};

fn check(name: &str, text: &[u8]) -> Result<(), Faults> {
    let loaded = config::parse(name, text)?;
    resolve(&loaded.spec).map(drop)
}

#[test]
fn every_faulty_file_is_told_all_of_its_faults() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty");
    let mut names: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 40, "only {} faulty files", names.len());
    let bless = std::env::var_os("MESH_BLESS").is_some();
    let mut wrong = Vec::new();
    for name in &names {
        let text = fs::read(directory.join(name)).unwrap();
        let found = match check(name, &text) {
            Ok(()) => "no fault at all\n".to_owned(),
            Err(faults) => format!("{faults}\n"),
        };
        let expected_path = directory.join(name).with_extension("expected");
        if bless {
            fs::write(&expected_path, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{name}\nfound:\n{found}expected:\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
