//! Names: what tasks are told at their networks' gateways, by dig and by the C libraries' own resolvers.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Lab, Mesh, Web, eventually, output, remains, run};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// `blue` and `red` have the same addresses; `vault` has no way outside. `search` is on two networks, and `pool` has no
/// virtual IP.
const MESH: &str = r#"
nodes: {n1: {address: 192.0.2.1}, n2: {address: 192.0.2.2}}
networks:
  blue: {vni: 4097, subnets: [10.0.9.0/24, "fd00:9::/64"]}
  red: {vni: 4098, subnets: [10.0.9.0/24, "fd00:9::/64"]}
  vault: {vni: 4099, subnets: [10.0.11.0/24], internal: true}
services:
  search:
    networks: [blue, red]
    vip: {blue: [10.0.9.2, "fd00:9::2"], red: [10.0.9.7, "fd00:9::7"]}
    ports: ["9200:9200"]
    aliases: [elastic]
  pool: {networks: [blue], endpoint_mode: dnsrr}
endpoints:
  - {name: search.1, node: n1, service: search, network: blue, address: 10.0.9.11, netns: s1}
  - {name: search.2, node: n2, service: search, network: blue, address: 10.0.9.12, netns: s2}
  - {name: search.3, node: n2, service: search, network: red, address: 10.0.9.11, netns: s3}
  - {name: pool.1, node: n1, service: pool, network: blue, address: 10.0.9.21, netns: p1, aliases: [first]}
  - {name: pool.2, node: n2, service: pool, network: blue, address: 10.0.9.22, netns: p2}
  - {name: caller, node: n1, network: blue, address: 10.0.9.99, netns: caller}
  - {name: stranger, node: n1, network: red, address: 10.0.9.99, netns: stranger}
  - {name: inmate, node: n1, network: vault, address: 10.0.11.5, netns: inmate}
"#;

/// The gateway of `blue`, and of `red`.
const GATEWAY: [&str; 2] = ["10.0.9.1", "fd00:9::1"];

fn test(test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    Mesh::from_yaml(MESH)?.test(test)
}

/// What dig was answered.
#[derive(Debug)]
struct Answer {
    status: String,
    flags: String,
    /// Each record of the answer as `TYPE DATA`, sorted.
    records: Vec<String>,
    text: String,
}

/// Asks from a task, by dig's words.
fn dig(lab: &Lab, task: &str, words: &str) -> Result<Answer> {
    let words = format!("dig +tries=1 +time=4 +noall +comments +answer +authority {words}");
    let text = lab.host(task).namespace.exec(&words)?;
    let between = |from: &str, to: char| {
        let rest = text.split_once(from).map(|(_, rest)| rest).with_context(|| text.clone())?;
        Ok::<_, anyhow::Error>(rest.split(to).next().unwrap_or_default().trim().to_owned())
    };
    let answers = text.split_once(";; ANSWER SECTION:").map_or("", |(_, rest)| rest);
    let lines = answers.lines().skip(1).take_while(|line| !line.is_empty());
    let mut records: Vec<String> =
        lines.map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ")).collect();
    records.sort();
    Ok(Answer { status: between("status: ", ',')?, flags: between(";; flags: ", ';')?, records, text })
}

fn expect(lab: &Lab, task: &str, words: &str, status: &str, records: &[&str]) -> Result<()> {
    let answer = dig(lab, task, words)?;
    ensure!(
        answer.status == status && answer.records == records,
        "dig {words} from {task} was to find {records:?}, {status}:\n{}",
        answer.text
    );
    Ok(())
}

/// Runs a command in a task as `ip netns exec` does: with the resolv.conf that is there for it.
fn in_task(lab: &Lab, task: &str, words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.namespace_name(task)]).args(words);
    command
}

#[test]
fn dig_finds_each_kind_of_name() -> Result<()> {
    test(|lab| {
        let questions: [(&str, &[&str]); 13] = [
            ("search A", &["A 10.0.9.2"]),
            ("SEARCH.Blue AAAA", &["AAAA fd00:9::2"]),
            ("tasks.search A", &["A 10.0.9.11", "A 10.0.9.12"]),
            ("tasks.search AAAA", &["AAAA fd00:9::a00:90b", "AAAA fd00:9::a00:90c"]),
            ("pool A", &["A 10.0.9.21", "A 10.0.9.22"]),
            ("search.2 A", &["A 10.0.9.12"]),
            ("Elastic A", &["A 10.0.9.2"]),
            ("first.blue A", &["A 10.0.9.21"]),
            ("search.2.blue AAAA", &["AAAA fd00:9::a00:90c"]),
            ("-x 10.0.9.12", &["PTR search.2.blue."]),
            ("-x fd00:9::2", &["PTR search.blue."]),
            ("_9200._tcp.search SRV", &["SRV 0 1 9200 search.1.blue.", "SRV 0 1 9200 search.2.blue."]),
            ("search MX", &[]),
        ];
        // One asks its own node's gateway in every way.
        for gateway in GATEWAY {
            for way in ["+notcp", "+tcp", "+noedns"] {
                for (question, records) in questions {
                    let words = format!("@{gateway} {way} {question}");
                    expect(lab, "caller", &words, "NOERROR", records)?;
                    expect(lab, "s2", &words, "NOERROR", records)?;
                }
                for unknown in ["nobody", "nobody.blue", "search.9", "-x 10.0.9.77"] {
                    let answer = dig(lab, "caller", &format!("@{gateway} {way} {unknown}"))?;
                    ensure!(answer.status == "NXDOMAIN" && answer.text.contains("SOA"), "{}", answer.text);
                }
            }
        }
        let flags = dig(lab, "caller", "@10.0.9.1 search")?.flags;
        ensure!(flags == "qr aa rd ra", "{flags}");
        Ok(())
    })
}

#[test]
fn networks_with_the_same_addresses_have_their_own_names() -> Result<()> {
    test(|lab| {
        for gateway in GATEWAY {
            let of = |task: &str, question: &str, status: &str, records: &[&str]| {
                expect(lab, task, &format!("@{gateway} {question}"), status, records)
            };
            of("caller", "search A", "NOERROR", &["A 10.0.9.2"])?;
            of("stranger", "search A", "NOERROR", &["A 10.0.9.7"])?;
            of("caller", "-x 10.0.9.11", "NOERROR", &["PTR search.1.blue."])?;
            of("stranger", "-x 10.0.9.11", "NOERROR", &["PTR search.3.red."])?;
            of("stranger", "tasks.search A", "NOERROR", &["A 10.0.9.11"])?;
            for unseen in ["pool", "caller", "search.1"] {
                of("stranger", unseen, "NXDOMAIN", &[])?;
            }
        }
        expect(lab, "inmate", "@10.0.11.1 inmate.vault", "NOERROR", &["A 10.0.11.5"])?;
        expect(lab, "inmate", "@10.0.11.1 search.blue", "NXDOMAIN", &[])?;
        // What answers at a gateway is of one network alone, and no task of any.
        for gateway in GATEWAY {
            let reached =
                output(lab.host("inmate").namespace.command("ping")?.args(["-c1", "-W1", gateway]))?;
            ensure!(!reached.status.success(), "vault reaches {gateway}");
        }
        let text = lab.node("n1").meshctl("endpoints ls")?.to_string();
        ensure!(
            text.contains("caller") && !text.contains("gateway") && !text.contains("10.0.9.1\""),
            "{text}"
        );
        Ok(())
    })
}

/// What a program of the C library's resolver says, as the set of addresses in it.
fn addresses(text: &str) -> BTreeSet<IpAddr> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

const MUSL: &str = r#"
#include <netdb.h>
#include <stdio.h>
int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
        int error = getaddrinfo(names[i], 0, &hints, &list);
        if (error) { printf("%s: %s\n", names[i], gai_strerror(error)); return 1; }
        for (; list; list = list->ai_next) {
            char host[256];
            getnameinfo(list->ai_addr, list->ai_addrlen, host, sizeof host, 0, 0, NI_NUMERICHOST);
            puts(host);
        }
    }
}
"#;

#[test]
fn the_c_libraries_find_names_by_themselves() -> Result<()> {
    test(|lab| {
        for task in ["s1", "s2"] {
            lab.host(task).serve_http(&Web::on(9200))?;
        }
        let source = lab.directory().join("resolve.c");
        let musl = lab.directory().join("resolve").display().to_string();
        fs::write(&source, MUSL)?;
        run(Command::new("musl-gcc")
            .args(["-static", "-include", "sys/socket.h", "-o", &musl])
            .arg(&source))?;
        let both = |name: &str| -> Result<[BTreeSet<IpAddr>; 2]> {
            let glibc = run(&mut in_task(lab, "caller", &["getent", "ahosts", name]))?;
            let musl = run(&mut in_task(lab, "caller", &[&musl, name]))?;
            Ok([addresses(&glibc), addresses(&musl)])
        };
        for (name, expected) in [
            ("search", "10.0.9.2 fd00:9::2"),
            ("elastic.blue", "10.0.9.2 fd00:9::2"),
            ("Search.1", "10.0.9.11 fd00:9::a00:90b"),
            ("tasks.search", "10.0.9.11 10.0.9.12 fd00:9::a00:90b fd00:9::a00:90c"),
            ("pool", "10.0.9.21 10.0.9.22 fd00:9::a00:915 fd00:9::a00:916"),
        ] {
            for found in both(name)? {
                ensure!(found == addresses(expected), "{name}: {found:?}");
            }
        }
        // A name that is not there is so at once.
        let start = Instant::now();
        for words in [&["getent", "ahosts", "nobody"][..], &[&musl, "nobody"]] {
            ensure!(!output(&mut in_task(lab, "caller", words))?.status.success(), "{words:?}");
        }
        ensure!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());

        let curl = ["curl", "-sS", "--max-time", "5"];
        for url in ["http://search:9200/", "http://search.2:9200/", "http://tasks.search.blue:9200/"] {
            let answer = run(&mut in_task(lab, "caller", &[&curl[..], &[url]].concat()))?;
            ensure!(answer.starts_with('s') && answer.contains(" sees "), "{url}: {answer}");
        }
        let name = run(&mut in_task(lab, "caller", &["getent", "hosts", "10.0.9.12"]))?;
        ensure!(name.contains("search.2.blue"), "{name}");
        Ok(())
    })
}

/// Has the client's host be the resolver of a node's host: a real one, with an answer too long for a datagram.
fn serve_upstream(lab: &Lab, node: &str, address: &str) -> Result<()> {
    let long = format!("--txt-record=long.example.org{}", format!(",{}", "x".repeat(250)).repeat(9));
    let listen = format!("--listen-address={address}");
    lab.host("client").serve(
        "dnsmasq",
        &[
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file=",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local=/example.org/",
            "--address=/www.example.org/198.51.100.80",
            "--address=/www.example.org/2001:db8:80::80",
            "--ptr-record=80.100.51.198.in-addr.arpa,www.example.org",
            &listen,
            &long,
        ],
    )?;
    resolve_by(lab, node, &[address])?;
    eventually("the resolver answers", Duration::from_secs(5), || {
        let text =
            lab.host(node).namespace.exec(&format!("dig +short +tries=1 @{address} www.example.org"))?;
        ensure!(text.trim() == "198.51.100.80", "{text}");
        Ok(())
    })
}

/// Names the resolvers of a node's host.
fn resolve_by(lab: &Lab, node: &str, addresses: &[&str]) -> Result<()> {
    let lines: Vec<String> = addresses.iter().map(|address| format!("nameserver {address}\n")).collect();
    let file = lab.configuration(node).with_file_name("resolv.conf");
    fs::write(&file, lines.concat()).with_context(|| format!("cannot write {}", file.display()))
}

#[test]
fn other_names_are_asked_of_the_hosts_resolvers() -> Result<()> {
    test(|lab| {
        // The host has no resolver yet.
        expect(lab, "caller", "@10.0.9.1 www.example.org", "SERVFAIL", &[])?;
        serve_upstream(lab, "n1", "192.0.2.101")?;
        eventually("the host's resolvers are read again", Duration::from_secs(5), || {
            expect(lab, "caller", "@10.0.9.1 www.example.org", "NOERROR", &["A 198.51.100.80"])
        })?;
        for gateway in GATEWAY {
            for way in ["+notcp", "+tcp"] {
                let of = |question: &str, status: &str, records: &[&str]| {
                    expect(lab, "caller", &format!("@{gateway} {way} {question}"), status, records)
                };
                of("www.example.org AAAA", "NOERROR", &["AAAA 2001:db8:80::80"])?;
                of("none.example.org", "NXDOMAIN", &[])?;
                of("-x 198.51.100.80", "NOERROR", &["PTR www.example.org."])?;
                // Ours is never asked of others.
                of("search", "NOERROR", &["A 10.0.9.2"])?;
            }
        }
        // Too long for a datagram: dig asks again by TCP, as the C libraries do.
        let long = dig(lab, "caller", "@10.0.9.1 long.example.org TXT")?;
        ensure!(long.records.len() == 1 && long.text.contains("retrying in TCP mode"), "{}", long.text);
        let found = run(&mut in_task(lab, "caller", &["getent", "ahosts", "www.example.org"]))?;
        ensure!(addresses(&found) == addresses("198.51.100.80 2001:db8:80::80"), "{found}");

        // From an internal network, there is no way out, for names neither.
        expect(lab, "inmate", "@10.0.11.1 www.example.org", "NXDOMAIN", &[])?;
        // The first of the resolvers refuses everything, the second is silent, the third knows.
        resolve_by(lab, "n1", &["192.0.2.1", "192.0.2.250", "192.0.2.101"])?;
        eventually("the third resolver answers", Duration::from_secs(20), || {
            expect(lab, "caller", "@10.0.9.1 www.example.org", "NOERROR", &["A 198.51.100.80"])
        })?;
        // One that is a task's file leads back here.
        let ours = fs::read_to_string(resolv_conf(lab, "caller"))?;
        fs::write(lab.configuration("n1").with_file_name("resolv.conf"), ours)?;
        eventually("nobody is asked", Duration::from_secs(20), || {
            expect(lab, "caller", "@10.0.9.1 www.example.org", "SERVFAIL", &[])
        })
    })
}

#[test]
fn answers_follow_a_change() -> Result<()> {
    test(|lab| {
        lab.add_host("late")?;
        let late = lab.namespace_name("late");
        let n1 = lab.node("n1");
        n1.meshctl(&format!(
            "attach --network blue --netns {late} --service pool --address 10.0.9.30 --name pool.9"
        ))?;
        // What a command has answered to, is so.
        expect(lab, "caller", "@10.0.9.1 pool.9", "NOERROR", &["A 10.0.9.30"])?;
        expect(lab, "caller", "@10.0.9.1 pool", "NOERROR", &["A 10.0.9.21", "A 10.0.9.22", "A 10.0.9.30"])?;
        expect(lab, "late", "@10.0.9.1 search", "NOERROR", &["A 10.0.9.2"])?;
        ensure!(resolv_conf(lab, "late").exists());
        n1.meshctl("backends weight pool pool.1 0")?;
        expect(lab, "caller", "@10.0.9.1 pool", "NOERROR", &["A 10.0.9.22", "A 10.0.9.30"])?;
        expect(lab, "caller", "@10.0.9.1 pool.1", "NOERROR", &["A 10.0.9.21"])?;
        n1.meshctl("detach pool.9")?;
        expect(lab, "caller", "@10.0.9.1 pool.9", "NXDOMAIN", &[])?;
        ensure!(!resolv_conf(lab, "late").exists());
        n1.meshctl("services create fresh --network blue --vip 10.0.9.40")?;
        expect(lab, "caller", "@fd00:9::1 fresh", "NOERROR", &["A 10.0.9.40"])?;
        n1.meshctl("services rm fresh")?;
        expect(lab, "caller", "@fd00:9::1 fresh", "NXDOMAIN", &[])
    })
}

/// The file that `ip netns exec` shows in a task.
fn resolv_conf(lab: &Lab, task: &str) -> PathBuf {
    Path::new("/etc/netns").join(lab.namespace_name(task)).join("resolv.conf")
}

#[test]
fn a_gateway_answers_ping_and_for_names_and_nothing_else() -> Result<()> {
    test(|lab| {
        let caller = lab.host("caller");
        for gateway in GATEWAY {
            let gateway: IpAddr = gateway.parse()?;
            caller.ping(gateway, 3, 56)?;
            let start = Instant::now();
            let dialled = caller.namespace.inside(|| {
                std::net::TcpStream::connect_timeout(&SocketAddr::new(gateway, 80), Duration::from_secs(3))
            })?;
            let error = dialled.err().context("somebody listens at the gateway's port 80")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
            ensure!(start.elapsed() < Duration::from_secs(1), "it was refused after {:?}", start.elapsed());
        }
        let n1 = lab.node("n1");
        let forged = n1.dropped("source_forged")?;
        let told =
            n1.meshctl("explain --from 10.0.9.99:4000 --to 10.0.9.1:53 --protocol udp --network blue")?;
        ensure!(told["verdict"] == "answered", "{told}");
        expect(lab, "caller", "@10.0.9.1 search", "NOERROR", &["A 10.0.9.2"])?;
        ensure!(n1.dropped("source_forged")? == forged, "what the gateway sends is taken for forged");
        Ok(())
    })
}

#[test]
fn names_come_back_with_the_daemon_and_go_with_the_mesh() -> Result<()> {
    test(|lab| {
        let kept = lab.node("n1").run_directory().join("netns");
        let namespace = fs::metadata(kept.join("blue"))?;
        let is_mounted =
            |name: &str| statfs(&kept.join(name)).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC);
        for crash in [false, true] {
            let node = lab.node_mut("n1");
            if crash {
                node.kill()?;
            } else {
                node.stop()?;
            }
            // The gateway is still there, and refuses.
            lab.host("caller").ping("10.0.9.1".parse()?, 1, 56)?;
            lab.host("caller").ping("fd00:9::1".parse()?, 1, 56)?;
            lab.node_mut("n1").start()?;
            expect(lab, "caller", "@10.0.9.1 search", "NOERROR", &["A 10.0.9.2"])?;
            expect(lab, "caller", "@fd00:9::1 +tcp search", "NOERROR", &["A 10.0.9.2"])?;
        }
        ensure!(fs::metadata(kept.join("blue"))?.ino() == namespace.ino(), "the gateway moved");
        ensure!(is_mounted("blue") && is_mounted("red") && is_mounted("vault"));

        // A network without tasks here needs no gateway here.
        lab.node("n1").meshctl("networks create short --subnet 10.0.12.0/24")?;
        lab.add_host("guest")?;
        let guest = lab.namespace_name("guest");
        let n1 = lab.node("n1");
        n1.meshctl(&format!("attach --network short --netns {guest} --address 10.0.12.5 --name guest"))?;
        expect(lab, "guest", "@10.0.12.1 guest.short", "NOERROR", &["A 10.0.12.5"])?;
        ensure!(is_mounted("short"));
        n1.meshctl("detach guest")?;
        ensure!(!kept.join("short").exists());

        ensure!(resolv_conf(lab, "caller").exists());
        n1.meshctl("down")?;
        ensure!(!kept.exists() && !lab.node("n1").run_directory().join("resolv").exists());
        ensure!(!resolv_conf(lab, "caller").exists() && resolv_conf(lab, "s2").exists());
        lab.node_mut("n1").wait_for_end()?;
        let links = lab.host("n1").namespace.ip("-br link")?;
        ensure!(!links.contains("mesh"), "{links}");
        Ok(())
    })
}

#[test]
fn they_can_be_done_without() -> Result<()> {
    let mesh = Mesh::new(1).option("dns", false.into()).network("blue", 4097, &["10.0.9.0/24"]).task(
        "solo",
        "n1",
        "blue",
        "10.0.9.11",
    );
    let mut prefix = String::new();
    mesh.test(|lab| {
        lab.prefix().clone_into(&mut prefix);
        let solo = lab.host("solo");
        solo.ping("10.0.9.1".parse()?, 1, 56)?;
        let before = lab.node("n1").dropped("gateway")?;
        ensure!(solo.namespace.exec("dig +tries=1 +time=1 @10.0.9.1 solo").is_err(), "it was answered");
        ensure!(lab.node("n1").dropped("gateway")? > before);
        ensure!(!resolv_conf(lab, "solo").exists() && !lab.node("n1").run_directory().join("netns").exists());
        // And again with.
        lab.reconfigure(|mesh| mesh.options.clear())?;
        eventually("the gateway answers", Duration::from_secs(5), || {
            expect(lab, "solo", "@10.0.9.1 solo", "NOERROR", &["A 10.0.9.11"])
        })
    })?;
    // Though its daemon was not told to go.
    let left = remains(&prefix)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
