//! The daemon's socket: who may speak to it, and one living daemon for each.

use std::{
    fs::{self, File},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
};

use mesh_userspace::api::{BindError, bind};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Group,
};

use crate::fake::Directory;

#[tokio::test]
async fn only_owner_and_group_may_speak_and_nothing_else_is_left() {
    let directory = Directory::new();
    let path = directory.path().join("run/meshd.sock");
    let _listener = bind(&path).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let group = Group::from_name("mesh").unwrap().map_or(nix::unistd::getegid(), |group| group.gid);
    assert_eq!(metadata.gid(), group.as_raw());
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["meshd.sock"]);
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = Directory::new();
    let path = directory.path().join("meshd.sock");
    let first = bind(&path).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, BindError::Live(_)), "{error}");
    assert!(error.to_string().contains("stop that one, or"), "{error}");
    drop(first);
    assert!(path.exists(), "a dead daemon leaves its socket");
    let _second = bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn what_is_no_socket_stays() {
    let directory = Directory::new();
    let path = directory.path().join("meshd.sock");
    fs::write(&path, "mine").unwrap();
    assert!(matches!(bind(&path), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn a_daemon_that_is_just_starting_is_not_overtaken() {
    let directory = Directory::new();
    let held = Flock::lock(File::open(directory.path()).unwrap(), FlockArg::LockExclusive).unwrap();
    let path = directory.path().join("meshd.sock");
    assert!(matches!(bind(&path), Err(BindError::Starting(_))));
    drop(held);
    bind(&path).unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told() {
    let directory = Directory::new();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = bind(&file.join("meshd.sock")).unwrap_err().to_string();
    assert!(error.starts_with("cannot make the directory"), "{error}");
    assert!(error.contains("run_dir"), "{error}");
}
