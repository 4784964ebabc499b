//! The cluster's keys, by the API and by `meshctl`.

use std::process::Stdio;

use mesh_userspace::api::{
    Refusal, RefusalKind,
    client::ClientError,
    types::{ClusterKey, KeyText},
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    fake::{Server, key},
    meshctl::{meshctl, refused, stdout},
};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

#[tokio::test]
async fn keys_are_listed_installed_used_and_removed() {
    let server = Server::start();
    let client = server.client();
    assert_eq!(client.keys().await.unwrap(), [key("0011223344556677", true)]);
    let installed = client.install_key(KeyText(KEY.to_owned())).await.unwrap();
    assert_eq!(installed, key("8899aabbccddeeff", false));
    let used: ClusterKey = client.use_key("8899aabbccddeeff").await.unwrap();
    assert!(used.in_use);
    assert_eq!(client.remove_key("0011223344556677").await.unwrap().name, "0011223344556677");
    assert_eq!(client.keys().await.unwrap(), [key("8899aabbccddeeff", true)]);
    *server.fake.refuse.lock().unwrap() = Some(Refusal::new(
        RefusalKind::Conflict,
        "the key 8899aabbccddeeff is in use on this node",
        "use another",
    ));
    let Err(ClientError::Refused { status, body }) = client.remove_key("8899aabbccddeeff").await else {
        panic!("it was removed");
    };
    assert_eq!((status.as_u16(), body.mend.as_str()), (409, "use another"));
}

#[tokio::test]
async fn meshctl_says_what_became_of_keys() {
    let server = Server::start();
    let text = stdout(&meshctl(&server, &["keys", "install", KEY]).await);
    assert_eq!(
        text,
        "key 8899aabbccddeeff installed; `meshctl keys use 8899aabbccddeeff` has every node seal with it\n"
    );
    assert_eq!(
        stdout(&meshctl(&server, &["key", "use", "8899aabbccddeeff"]).await),
        "key 8899aabbccddeeff is in use\n"
    );
    let text = stdout(&meshctl(&server, &["keys", "rm", "0011223344556677"]).await);
    assert_eq!(text, "key 0011223344556677 removed\n");
    let text = stdout(&meshctl(&server, &["keys", "ls"]).await);
    assert_eq!(text, "ID                IN USE  NODES\n8899aabbccddeeff  yes     2\n");
}

#[tokio::test]
async fn what_is_generated_can_be_installed_without_being_seen() {
    let server = Server::start();
    // Nobody answers there, and nobody is asked.
    let made = |arguments: &'static [&'static str]| {
        Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .args(arguments)
            .env("MESH_SOCKET", "/nonexistent/meshd.sock")
            .output()
    };
    let keyring = stdout(&made(&["keys", "generate"]).await.unwrap());
    let another = stdout(&made(&["keys", "generate"]).await.unwrap());
    assert_ne!(keyring, another);
    let fresh: Value =
        serde_json::from_str(&stdout(&made(&["keys", "generate", "-o", "json"]).await.unwrap())).unwrap();
    assert_eq!(fresh["id"].as_str().map(str::len), Some(16), "{fresh}");

    let install = async |keyring: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .args(["keys", "install", "-"])
            .env("MESH_SOCKET", server.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(keyring.as_bytes()).await.unwrap();
        child.wait_with_output().await.unwrap()
    };
    assert!(stdout(&install(&keyring).await).contains("installed"));
    let installed = server.fake.installed.lock().unwrap().clone();
    assert_eq!(installed.len(), 1);
    assert!(keyring.contains(&installed[0]));
    let told = refused(&install(&format!("{keyring}{another}")).await, 1);
    assert!(told.contains("the keyring on standard input has 2 keys; give one at a time"), "{told}");
    let told = refused(&install("hunter2!\n").await, 1);
    assert!(told.contains("standard input:1:1: The line is no key") && !told.contains("hunter2"), "{told}");
}
