//! `meshctl` as a process: what it prints where, and how it exits.

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mesh_common::Reason;
use mesh_userspace::api::{
    Change,
    types::{Attach, Explanation, NetworkCreate, Problem, Status, TraceLine, Vip},
};
use tokio::{io::AsyncReadExt, process::Command};

use crate::fake::{Server, dropped, ip};

fn command(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command
        .args(arguments)
        .env_remove("NO_COLOR")
        .env("MESH_SOCKET", socket)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub(crate) async fn meshctl(server: &Server, arguments: &[&str]) -> Output {
    let output = command(&server.socket(), arguments).output();
    tokio::time::timeout(Duration::from_secs(30), output).await.unwrap().unwrap()
}

#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), error.as_ref()), (Some(0), ""));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error of a command that printed nothing else.
#[track_caller]
pub(crate) fn refused(output: &Output, code: i32) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(output.status.code(), Some(code));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn status_is_0_also_with_problems_unless_it_is_to_check() {
    let server = Server::start();
    let text = stdout(&meshctl(&server, &["status"]).await);
    assert!(text.starts_with("node      n1 (192.0.2.1)\n"), "{text}");
    assert!(text.contains("eth0         underlay_tc  tcx ingress  42\n"), "{text}");
    assert!(text.ends_with("Problems\nnone\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours into a pipe");
    assert!(meshctl(&server, &["status", "--check"]).await.status.success());
    server.fake.edit(|snapshot| {
        snapshot.problems =
            vec![Problem { subject: "node n3".to_owned(), message: "It has no route. Add one.".to_owned() }];
    });
    assert!(stdout(&meshctl(&server, &["status"]).await).ends_with("node n3: It has no route. Add one.\n"));
    let checked = meshctl(&server, &["status", "--check"]).await;
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8(checked.stdout).unwrap().ends_with("node n3: It has no route. Add one.\n"));
}

#[tokio::test]
async fn every_list_and_every_inspection_prints() {
    let server = Server::start();
    for (arguments, says) in [
        (&["nodes", "ls"][..], "n2    192.0.2.2  by eth0    4\n"),
        (&["node", "inspect", "n2"], "endpoints  agent.2, search.2, turns.2, twin\n"),
        (&["networks", "ls"], "vault  4098  10.0.10.0/24              1450  yes       1         1\n"),
        (&["network", "inspect", "blue"], "gateways   10.0.9.1, fd00:9::1\n"),
        (&["services", "ls"], "turns   rr         blue 10.0.9.3             8000→80/tcp"),
        (&["service", "inspect", "search"], "virtual IPs    blue 10.0.9.2, fd00:9::2\n"),
        (
            &["services", "ps", "turns"],
            "turns    turns.2   blue     10.0.9.22  n2    1       –      –       on its own node\n",
        ),
        (&["backends", "ls"], "db       db.1"),
        (
            &["backends", "ls", "db"],
            "db       db.1      vault    10.0.10.11  n1    1       0      –       attached\n",
        ),
        (&["endpoints", "ls"], "twin"),
        (&["endpoint", "inspect", "tool"], "host interface  mesh00000004\n"),
        (&["flows", "ls"], "This node keeps no flow"),
        (&["drops"], "No packet was dropped"),
        (&["stats"], "FLOWS  12       65,536    0.0 %  0\n"),
    ] {
        let text = stdout(&meshctl(&server, arguments).await);
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn changes_reach_the_daemon_as_they_were_typed() {
    let server = Server::start();
    let text = stdout(
        &meshctl(
            &server,
            &["networks", "create", "red", "--subnet", "10.0.11.0/24", "--vni", "77", "--internal"],
        )
        .await,
    );
    assert_eq!(text, "network red created: VNI 77, 10.0.11.0/24, gateway 10.0.11.1\n");
    let text = stdout(
        &meshctl(
            &server,
            &[
                "services",
                "create",
                "dns",
                "--network",
                "blue",
                "--publish",
                "53:5353/udp",
                "-p",
                "9000:80",
                "--scheduler",
                "rr",
                "--vip",
                "blue=10.0.9.5",
            ],
        )
        .await,
    );
    assert!(
        text.starts_with("service dns created: virtual IP blue 10.0.9.5, published 53→5353/udp, 9000→80/tcp; it has no backend"),
        "{text}"
    );
    let text = stdout(
        &meshctl(
            &server,
            &[
                "attach",
                "--network",
                "blue",
                "--netns",
                "t9",
                "--service",
                "dns",
                "--weight",
                "0",
                "--address",
                "10.0.9.77",
                "--name",
                "dns.1",
            ],
        )
        .await,
    );
    assert_eq!(text, "dns.1 attached to blue as 10.0.9.77, interface eth0 in t9, a backend of dns\n");
    assert_eq!(stdout(&meshctl(&server, &["detach", "dns.1"]).await), "endpoint dns.1 detached\n");
    assert_eq!(stdout(&meshctl(&server, &["services", "rm", "dns"]).await), "service dns removed\n");
    assert_eq!(stdout(&meshctl(&server, &["networks", "rm", "red"]).await), "network red removed\n");

    let changes = server.fake.changes.lock().unwrap();
    let network = NetworkCreate {
        name: "red".to_owned(),
        subnets: vec!["10.0.11.0/24".parse().unwrap()],
        vni: Some(77),
        internal: true,
    };
    assert_eq!(changes[0], Change::CreateNetwork(network));
    let Change::CreateService(service) = &changes[1] else { panic!("{changes:?}") };
    assert_eq!(service.vips, [Vip { network: Some("blue".to_owned()), address: ip("10.0.9.5") }]);
    let attach = Attach {
        name: Some("dns.1".to_owned()),
        network: "blue".to_owned(),
        netns: "t9".to_owned(),
        service: Some("dns".to_owned()),
        weight: Some(0),
        address: Some(ip("10.0.9.77")),
    };
    assert_eq!(changes[2], Change::Attach(attach));
    assert_eq!(changes.len(), 6);
}

#[tokio::test]
async fn a_path_to_a_namespace_is_the_caller_s() {
    let server = Server::start();
    let output = command(&server.socket(), &["attach", "--network", "blue", "--netns", "./ns/t1"])
        .current_dir("/proc")
        .output()
        .await
        .unwrap();
    stdout(&output);
    let changes = server.fake.changes.lock().unwrap();
    let Change::Attach(attach) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!(attach.netns, "/proc/ns/t1");
}

#[tokio::test]
async fn what_is_refused_does_not_keep_the_rest() {
    let server = Server::start();
    let output = meshctl(&server, &["detach", "nobody", "tool", "no one"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "endpoint tool detached\n");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "meshctl: there is no endpoint \"nobody\"; look again\nmeshctl: there is no endpoint \"no one\"; look again\n"
    );
}

#[tokio::test]
async fn refusals_are_1_and_say_the_mend() {
    let server = Server::start();
    let error = refused(&meshctl(&server, &["services", "inspect", "nope"]).await, 1);
    assert_eq!(error, "meshctl: there is no service \"nope\"; `meshctl services ls` lists them\n");
    let error = refused(&meshctl(&server, &["networks", "create", "blue"]).await, 1);
    assert_eq!(error, "meshctl: there is a network \"blue\" already; choose another name\n");
    let error =
        refused(&meshctl(&server, &["explain", "--from", "10.0.9.40:1", "--to", "10.0.9.2:80"]).await, 1);
    assert!(error.contains("say which one with --network blue"), "{error}");
}

#[tokio::test]
async fn without_a_daemon_it_is_1() {
    let output = command(Path::new("/nonexistent/meshd.sock"), &["status"]).output().await.unwrap();
    assert_eq!(
        refused(&output, 1),
        "meshctl: there is no socket /nonexistent/meshd.sock: meshd is not running, or its run_dir is elsewhere; start \
         it with `systemctl start meshd` or name the socket with --socket\n"
    );
}

#[tokio::test]
async fn the_option_goes_before_the_variable() {
    let server = Server::start();
    let socket = server.socket();
    let socket = socket.to_str().unwrap();
    let nowhere = Path::new("/nonexistent/meshd.sock");
    for arguments in [["--socket", socket, "nodes", "ls"], ["nodes", "ls", "--socket", socket]] {
        stdout(&command(nowhere, &arguments).output().await.unwrap());
    }
}

#[tokio::test]
async fn wrong_usage_is_2() {
    let server = Server::start();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["nodes"],
        &["nodes", "rm"],
        &["networks", "create", "red", "--timeout", "5s"],
        &["backends", "add", "search"],
        &["backends", "add", "search", "10.0.0.1", "--weight", "65536"],
        &["backends", "weight", "search", "search.1", "-1"],
        &["backends", "drain", "search", "search.1", "--timeout", "5s"],
        &["backends", "drain", "search", "search.1", "--wait", "--timeout", "soon"],
        &["attach", "--network", "blue", "--netns", "t9", "--weight", "3"],
        &["ipvsadm", "-L"],
        &["keys", "install"],
        &["networks", "create"],
        &["status", "--output", "xml"],
        &["services", "create", "x", "--publish", "nonsense"],
    ] {
        let error = refused(&meshctl(&server, arguments).await, 2);
        assert!(
            error.contains("Usage: meshctl") || error.contains("For more information, try '--help'"),
            "{error}"
        );
    }
    assert!(stdout(&meshctl(&server, &["--help"]).await).contains("Examples:"));
    assert_eq!(
        stdout(&meshctl(&server, &["--version"]).await),
        format!("meshctl {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn programs_get_the_fields_of_the_api() {
    let server = Server::start();
    let text = stdout(&meshctl(&server, &["status", "--output", "json"]).await);
    let status: Status = serde_json::from_str(&text).unwrap();
    assert_eq!(status.counts.services, 4);
    let text = stdout(&meshctl(&server, &["status", "-o", "yaml"]).await);
    let status: Status = serde_yaml::from_str(&text).unwrap();
    assert_eq!(status.node, "n1");
    let empty = stdout(&meshctl(&server, &["drops", "-o", "json"]).await);
    assert_eq!(empty, "[]\n");
    let text = stdout(&meshctl(&server, &["networks", "create", "red", "-o", "json"]).await);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["name"], "red");
    let text = stdout(&meshctl(&server, &["networks", "rm", "red", "-o", "json"]).await);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["name"], "red");
    let text = stdout(&meshctl(&server, &["down", "-o", "json"]).await);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["node"], "n1");
}

#[tokio::test]
async fn drops_with_and_without_those_that_never_were() {
    let server = Server::start();
    *server.fake.drops.lock().unwrap() = dropped(&[(Reason::NotAPeer, 12_345)]);
    let text = stdout(&meshctl(&server, &["drops"]).await);
    assert_eq!(
        text,
        format!("REASON      PACKETS  MEANING\nnot_a_peer  12,345   {}\n", Reason::NotAPeer.sentence())
    );
    let text = stdout(&meshctl(&server, &["drops", "--all"]).await);
    assert_eq!(text.lines().count(), Reason::ALL.len() + 1);
}

#[tokio::test]
async fn explain_prints_the_way() {
    let server = Server::start();
    let arguments = ["explain", "--from", "198.51.100.9:40000", "--to", "192.0.2.1:9200"];
    let text = stdout(&meshctl(&server, &arguments).await);
    assert!(text.starts_with("tcp 198.51.100.9:40000 → 192.0.2.1:9200: delivered to search."), "{text}");
    assert!(
        text.contains("\nservice    search, published port 9200/tcp, on every node\nscheduler  mh, slot "),
        "{text}"
    );
    let text = stdout(&meshctl(&server, &[&arguments[..], &["-o", "json"]].concat()).await);
    serde_json::from_str::<Explanation>(&text).unwrap();
}

#[tokio::test]
async fn a_trace_ends_with_its_count_and_with_its_reader() {
    let server = Server::start();
    let text = stdout(&meshctl(&server, &["trace", "--every", "7", "--count", "3"]).await);
    assert_eq!(text.lines().count(), 3);
    for line in text.lines() {
        let (time, rest) = line.split_once("Z ").unwrap();
        assert_eq!(time.len(), "22:13:20.000000".len());
        assert_eq!(
            rest,
            "underlay eth0: deliver to interface 7, tcp 198.51.100.9:40000 → 192.0.2.1:9200 [SYN], 74 bytes"
        );
    }
    let text = stdout(&meshctl(&server, &["trace", "--count", "2", "--output", "json"]).await);
    for line in text.lines() {
        serde_json::from_str::<TraceLine>(line).unwrap();
    }

    let mut endless =
        command(&server.socket(), &["trace", "--every", "9"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 200];
    endless.stdout.take().unwrap().read_exact(&mut some).await.unwrap();
    // The pipe is closed now, as `| head` closes it.
    let status = tokio::time::timeout(Duration::from_secs(10), endless.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    for _ in 0..1000 {
        if server.fake.traced.load(Ordering::SeqCst) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it still traces");
}

#[tokio::test]
async fn stats_can_be_watched() {
    let server = Server::start();
    let mut watching =
        command(&server.socket(), &["stats", "--watch", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = watching.stdout.take().unwrap();
    let twice = async {
        let mut text = String::new();
        while text.matches("FLOWS").count() < 2 {
            let mut bytes = [0; 512];
            let count = out.read(&mut bytes).await.unwrap();
            assert!(count > 0, "it ended: {text}");
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), twice).await.unwrap();
    watching.kill().await.unwrap();
}

#[tokio::test]
async fn empty_lists_name_the_command_that_makes_one() {
    let server = Server::start();
    server.fake.edit(|snapshot| {
        let table = Arc::make_mut(&mut snapshot.table);
        table.networks.clear();
        table.services.clear();
        table.endpoints.clear();
    });
    for (noun, makes) in [
        ("networks", "meshctl networks create"),
        ("services", "meshctl services create"),
        ("endpoints", "meshctl attach"),
        ("backends", "meshctl attach"),
    ] {
        let text = stdout(&meshctl(&server, &[noun, "ls"]).await);
        assert!(text.contains(makes), "{noun}: {text}");
        assert_eq!(stdout(&meshctl(&server, &[noun, "ls", "-o", "json"]).await), "[]\n");
    }
}

#[tokio::test]
async fn down_says_what_is_gone() {
    let server = Server::start();
    let text = stdout(&meshctl(&server, &["down"]).await);
    assert!(text.starts_with("the mesh is down on n1: "), "{text}");
    assert!(server.fake.is_down.load(Ordering::SeqCst));
}
