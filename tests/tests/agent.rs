//! The daemon comes and goes, its file changes, what it made is broken: the traffic goes on.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{Endpoint, Lab, Mesh, Transfer, Web, eventually, meshd_path, output, run, write_whole};
use serde_json::Value;

/// How long repairs and reloads may take.
const SOON: Duration = Duration::from_secs(10);

fn mesh() -> Mesh {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", "rr", &["8080:80", "9000:9000"])
        .backend("web", "web.1", "n1", "blue", "10.0.9.11")
        .task("a", "n2", "blue", "10.0.9.21")
        .task("b", "n1", "blue", "10.0.9.22")
}

/// Transfers of every kind at once: within the network, to a virtual IP, to a published port through either node,
/// from a node itself, and out to the world.
fn transfers(lab: &Lab) -> Result<Vec<(&'static str, Transfer)>> {
    let at = |text: &str, port: u16| -> Result<SocketAddr> { Ok(SocketAddr::new(text.parse()?, port)) };
    let (a, web, client) = (lab.host("a"), lab.host("web.1"), lab.host("client"));
    let mut running = Vec::new();
    let mut start = |what, from, dialled: &str, port, to, listening: &str| -> Result<()> {
        let transfer = Transfer::start(from, at(dialled, port)?, to, at(listening, port)?).context(what)?;
        running.push((what, transfer));
        Ok(())
    };
    start("task to task", a, "10.0.9.11", 7001, web, "10.0.9.11")?;
    start("task to task, IPv6", a, "fd00:9::a00:90b", 7002, web, "fd00:9::a00:90b")?;
    start("virtual IP", a, "10.0.9.2", 7003, web, "10.0.9.11")?;
    start("virtual IP, IPv6", a, "fd00:9::a00:902", 7004, web, "fd00:9::a00:90b")?;
    start("published, through the task's node", client, "192.0.2.1", 9000, web, "10.0.9.11")?;
    start("published, through the other node", client, "192.0.2.2", 9000, web, "10.0.9.11")?;
    start("published, IPv6", client, "2001:db8::2", 9000, web, "fd00:9::a00:90b")?;
    start("from the node", lab.host("n2"), "127.0.0.1", 9000, web, "10.0.9.11")?;
    start("outside", a, "192.0.2.101", 7005, client, "192.0.2.101")?;
    Ok(running)
}

fn all_go_on(when: &str, running: &[(&str, Transfer)]) -> Result<()> {
    for (what, transfer) in running {
        transfer.progress().with_context(|| format!("{what}, {when}"))?;
    }
    Ok(())
}

fn all_finish(running: Vec<(&'static str, Transfer)>) -> Result<()> {
    for (what, transfer) in running {
        let summary = transfer.finish().context(what)?;
        ensure!(summary.longest_stall < Duration::from_secs(1), "{what} stood still: {summary:?}");
    }
    Ok(())
}

#[test]
fn transfers_go_on_while_the_daemon_is_killed_started_and_reloaded() -> Result<()> {
    mesh().test(|lab| {
        let running = transfers(lab)?;
        for node in ["n1", "n2"] {
            lab.node_mut(node).kill()?;
        }
        all_go_on("without any daemon", &running)?;
        for node in ["n1", "n2"] {
            lab.node_mut(node).start()?;
        }
        all_go_on("after the restart", &running)?;
        for node in ["n1", "n2"] {
            lab.node_mut(node).reload()?;
        }
        all_go_on("after SIGHUP", &running)?;
        for node in ["n1", "n2"] {
            lab.node_mut(node).stop()?;
        }
        all_go_on("after SIGTERM", &running)?;
        for node in ["n1", "n2"] {
            lab.node_mut(node).start()?;
        }
        all_go_on("after the second restart", &running)?;
        all_finish(running)
    })
}

#[test]
fn a_faulty_file_changes_nothing_that_runs() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        let running = transfers(lab)?;
        let revision = lab.node("n1").meshctl("status")?["revision"].clone();
        let services = lab.node("n1").meshctl("services ls")?;
        for fault in [
            "networks: [",
            "networks: {blue: {vni: 99999999, subnets: [10.0.9.0/24]}}",
            "networks: {}\nendpoints: [{name: web.1, node: n9, network: none, address: 10.0.9.11, netns: x}]",
            "",
        ] {
            for node in ["n1", "n2"] {
                let log = lab.node(node).log_text()?.len();
                write_whole(&lab.configuration(node), fault)?;
                lab.node_mut(node).reload()?;
                eventually("the fault is told", SOON, || {
                    let log = lab.node(node).log_text()?.split_off(log);
                    ensure!(log.contains("mesh.yaml"), "{node} says nothing of {fault:?}: {log}");
                    Ok(())
                })?;
            }
            all_go_on("after a faulty reload", &running)?;
            let answer = lab.host("client").curl("http://192.0.2.2:8080/")?;
            ensure!(answer.starts_with("web.1 sees "), "{answer}");
        }
        let node = lab.node("n1");
        ensure!(node.meshctl("services ls")? == services, "the services changed");
        ensure!(node.meshctl("status")?["revision"] == revision, "the revision changed");
        // A good file is taken again.
        lab.reconfigure(|mesh| {
            for service in &mut mesh.services {
                service.ports.push(Value::from("8090:80"));
            }
        })?;
        eventually("the new port answers", SOON, || lab.host("client").curl("http://192.0.2.2:8090/"))?;
        all_go_on("after a good reload", &running)?;
        all_finish(running)
    })
}

#[test]
fn a_changed_file_is_applied_by_itself() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        let running = transfers(lab)?;
        lab.add_host("web.2")?;
        lab.reconfigure(|mesh| {
            mesh.endpoints.push(Endpoint {
                name: "web.2".to_owned(),
                node: "n2".to_owned(),
                service: Some("web".to_owned()),
                network: "blue".to_owned(),
                address: "10.0.9.12".to_owned(),
                task: Some("web.2".to_owned()),
                weight: None,
            });
        })?;
        lab.host("web.2").interface_of("10.0.9.12".parse()?)?;
        lab.host("web.2").serve_http(&Web::on(80))?;
        for node in ["192.0.2.1", "192.0.2.2"] {
            eventually("the new replica answers", SOON, || {
                let answer = lab.host("client").curl(&format!("http://{node}:8080/"))?;
                ensure!(answer.starts_with("web.2 "), "{node}: {answer}");
                Ok(())
            })?;
        }
        all_go_on("with a new replica", &running)?;
        lab.reconfigure(|mesh| mesh.endpoints.retain(|endpoint| endpoint.name != "web.2"))?;
        eventually("the replica is detached", SOON, || {
            let links = lab.host("web.2").namespace.ip("-o link show")?;
            ensure!(links.lines().count() == 1, "{links}");
            Ok(())
        })?;
        for node in ["192.0.2.1", "192.0.2.2"] {
            eventually("the old replica answers alone", SOON, || {
                for _ in 0..3 {
                    let answer = lab.host("client").curl(&format!("http://{node}:8080/"))?;
                    ensure!(answer.starts_with("web.1 "), "{node}: {answer}");
                }
                Ok(())
            })?;
        }
        all_go_on("without the new replica", &running)?;
        all_finish(running)
    })
}

fn pinned(words: &[&str], pin: &Path) -> Result<Value> {
    let text = run(Command::new("bpftool").arg("-j").args(words).arg("pinned").arg(pin))?;
    if text.trim().is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
}

/// Deletes every entry of a hash map behind the daemon's back and tells how many there were.
fn empty_map(pin: &Path) -> Result<usize> {
    let dump = pinned(&["map", "dump"], pin)?;
    let entries = dump.as_array().context("bpftool gave no list")?;
    for entry in entries {
        let key = entry["key"].as_array().context("an entry without a key")?;
        let mut delete = Command::new("bpftool");
        delete.args(["map", "delete", "pinned"]).arg(pin).args(["key", "hex"]);
        for byte in key {
            let byte =
                byte.as_str().and_then(|text| text.strip_prefix("0x")).context("no hexadecimal byte")?;
            delete.arg(byte);
        }
        run(&mut delete)?;
    }
    Ok(entries.len())
}

/// Everything that the mesh should do between the hosts of this file, in short.
fn all_is_well(lab: &Lab) -> Result<()> {
    for address in ["10.0.9.11", "fd00:9::a00:90b", "10.0.9.22", "10.0.9.2", "192.0.2.101"] {
        ensure!(lab.host("a").pings(address.parse()?)?, "a does not reach {address}");
    }
    for (host, url) in [
        ("client", "http://192.0.2.1:8080/"),
        ("client", "http://192.0.2.2:8080/"),
        ("client", "http://[2001:db8::2]:8080/"),
        ("n2", "http://127.0.0.1:8080/"),
        ("n2", "http://[::1]:8080/"),
    ] {
        let answer = lab.host(host).curl(url)?;
        ensure!(answer.starts_with("web.1 sees "), "{url}: {answer}");
    }
    Ok(())
}

fn healed(lab: &Lab, what: &str) -> Result<()> {
    eventually(&format!("the mesh heals after {what}"), SOON, || all_is_well(lab))
}

#[test]
fn emptied_maps_are_filled_again() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        let mut emptied = Vec::new();
        for map in
            ["SERVICES", "ENDPOINTS", "STATIONS", "ATTACHMENTS", "NETWORKS", "PEERS", "LOCALS", "UPLINKS"]
        {
            for node in ["n1", "n2"] {
                let pin = lab.node(node).map_pin(map)?;
                let entries = empty_map(&pin)?;
                ensure!(entries > 0, "{map} of {node} was empty");
                emptied.push((pin, entries));
            }
        }
        for (pin, entries) in emptied {
            eventually(&format!("{} is filled again", pin.display()), SOON, || {
                let dump = pinned(&["map", "dump"], &pin)?;
                let now = dump.as_array().map_or(0, Vec::len);
                ensure!(now == entries, "{now} of {entries} entries");
                Ok(())
            })?;
        }
        healed(lab, "the maps were emptied")
    })
}

#[test]
fn deleted_links_are_made_again() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        let address: IpAddr = "10.0.9.11".parse()?;
        let host_side = lab.host_side("web.1", address, "n1")?;
        lab.host("n1").namespace.ip(&format!("link delete {host_side}"))?;
        healed(lab, "a task's link was deleted")?;
        lab.host("n2").namespace.ip("link delete mesh0")?;
        healed(lab, "the node's own link was deleted")?;
        Ok(())
    })
}

#[test]
fn a_tasks_settings_are_mended() -> Result<()> {
    mesh().test(|lab| {
        let web = lab.host("web.1");
        web.serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        let interface = web.interface_of("10.0.9.11".parse()?)?;
        web.namespace.ip(&format!("address flush dev {interface}"))?;
        healed(lab, "a task's addresses were flushed")?;
        web.namespace.ip("route delete default")?;
        healed(lab, "a task's default route was deleted")?;
        web.namespace.ip(&format!("link set {interface} down"))?;
        healed(lab, "a task's interface was set down")?;
        web.namespace.ip(&format!("link set {interface} address 02:00:00:00:00:99"))?;
        healed(lab, "a task's MAC address was changed")?;
        web.namespace.ip(&format!("link set {interface} mtu 1280"))?;
        eventually("the MTU is right again", SOON, || {
            let link = web.namespace.ip(&format!("link show {interface}"))?;
            ensure!(link.contains("mtu 1450"), "{link}");
            Ok(())
        })
    })
}

#[test]
fn a_recreated_namespace_is_attached_again() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        lab.host("web.1").stop_servers()?;
        let web = lab.recreate_host("web.1")?;
        web.serve_http(&Web::on(80))?;
        healed(lab, "a task's namespace was made anew")
    })
}

/// The daemon looks at everything every five seconds; for a task that has just been started that would be long.
#[test]
fn a_namespace_that_comes_later_is_attached_at_once() -> Result<()> {
    mesh().test(|lab| {
        let late = [("late.1", "10.0.9.31"), ("late.2", "10.0.9.32"), ("late.3", "10.0.9.33")];
        lab.reconfigure(|mesh| {
            for (name, address) in late {
                mesh.endpoints.push(Endpoint {
                    name: name.to_owned(),
                    node: "n1".to_owned(),
                    service: None,
                    network: "blue".to_owned(),
                    address: address.to_owned(),
                    task: Some(name.to_owned()),
                    weight: None,
                });
            }
        })?;
        for (name, address) in late {
            eventually("the daemon waits for the namespace", SOON, || {
                let endpoint = lab.node("n1").meshctl(&format!("endpoints inspect {name}"))?;
                ensure!(endpoint["state"]["is"] == "waiting", "{endpoint}");
                Ok(())
            })?;
            // Until the rounds that the last one caused are over.
            std::thread::sleep(Duration::from_millis(2500));
            let host = lab.add_host(name)?;
            eventually("the task is attached", Duration::from_millis(1500), || {
                let addresses = host.namespace.ip("-o address show")?;
                ensure!(addresses.contains(address), "{addresses}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn an_underlay_interface_gone_and_back_is_used_again() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        for node in ["n1", "n2"] {
            lab.unplug(node)?;
            ensure!(!lab.host("a").pings("10.0.9.11".parse()?)?, "the cable of {node} is not needed");
            lab.replug(node)?;
            healed(lab, &format!("the cable of {node} was pulled"))?;
        }
        Ok(())
    })
}

#[test]
fn tasks_join_and_leave_by_command() -> Result<()> {
    mesh().test(|lab| {
        lab.add_host("late")?;
        let namespace = lab.namespace_name("late");
        let node = lab.node("n2");
        // Where nothing could ever be attached, nothing waits.
        let own = lab.namespace_name("n2");
        for (netns, says) in [
            (own.as_str(), "is the node's own network namespace; give the task one of its own"),
            ("/proc/version", "/proc/version is no network namespace; name one that `ip netns add` made"),
            (
                "nowhere",
                "there is no network namespace /run/netns/nowhere; make it with `ip netns add nowhere`",
            ),
        ] {
            let output = node.meshctl_output(&format!("attach --network blue --netns {netns}"))?;
            let told = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(1) && told.contains(says), "{netns}: {told}");
        }
        let told = node.meshctl_text(&format!(
            "attach --network blue --netns {namespace} --address 10.0.9.77 --name late"
        ))?;
        let late = lab.host("late");
        let interface = late.interface_of("10.0.9.77".parse()?)?;
        ensure!(told.contains(&format!(", interface {interface} in /run/netns/{namespace}")), "{told}");
        let inspected = node.meshctl("endpoints inspect late")?;
        ensure!(inspected["interface"] == interface.as_str(), "{inspected}");
        let elsewhere = lab.node("n1").meshctl("endpoints inspect web.1")?;
        ensure!(elsewhere["interface"].is_string(), "{elsewhere}");
        late.ping("10.0.9.21".parse()?, 1, 56)?;
        node.meshctl_text("detach late")?;
        let links = late.namespace.ip("-o link show")?;
        ensure!(links.lines().count() == 1, "detached, and yet: {links}");
        Ok(())
    })
}

/// The number of a pinned object, by what bpftool calls its kind.
fn id_of(kind: &str, pin: &Path) -> Option<u64> {
    pinned(&[kind, "show"], pin).ok()?["id"].as_u64()
}

fn links_of(lab: &Lab, host: &str) -> Result<Vec<String>> {
    let text = lab.host(host).namespace.ip("-json link show")?;
    let list: Value = serde_json::from_str(&text)?;
    let names = list.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

#[test]
fn nothing_is_left_after_down() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        // What the kernel holds of the data plane, by its own numbers: nobody else's count.
        let mut objects = Vec::new();
        for node in ["n1", "n2"] {
            for pin in lab.node(node).pins()? {
                let found =
                    ["map", "link", "prog"].into_iter().find_map(|kind| Some((kind, id_of(kind, &pin)?)));
                objects
                    .push(found.with_context(|| format!("{} is nothing that bpftool knows", pin.display()))?);
            }
        }
        for kind in ["map", "link"] {
            ensure!(objects.iter().any(|(found, _)| *found == kind), "no {kind} is pinned: {objects:?}");
        }
        for node in ["n1", "n2"] {
            lab.node(node).meshctl_text("down")?;
            lab.node_mut(node).wait_for_end()?;
        }
        for node in ["n1", "n2"] {
            ensure!(links_of(lab, node)? == ["eth0", "lo"], "links on {node}: {:?}", links_of(lab, node)?);
            let directory = lab.node(node).run_directory();
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            ensure!(
                !mounts.contains(&directory.display().to_string()),
                "something is mounted in {node}'s run_dir"
            );
            let mut files = Vec::new();
            for entry in fs::read_dir(&directory).into_iter().flatten() {
                files.push(entry?.file_name().to_string_lossy().into_owned());
            }
            // A lock's file stays: were it taken away, the next two daemons might each lock one of their own. An empty
            // directory to mount on is nothing either.
            files.retain(|name| {
                let holds_something = directory.join(name).read_dir().is_ok_and(|mut d| d.next().is_some());
                name != "meshd.lock" && (name != "bpf" || holds_something)
            });
            ensure!(files.is_empty(), "left in {node}'s run_dir: {files:?}");
            let attached = lab.host(node).namespace.exec("bpftool -j net show")?;
            let attached: Value = serde_json::from_str(&attached)?;
            for hook in ["xdp", "tc"] {
                let list = attached[0][hook].as_array().map_or(0, Vec::len);
                ensure!(list == 0, "{hook} programs are attached on {node}: {attached}");
            }
            ensure!(
                lab.node(node).meshctl_output("status")?.status.code() == Some(1),
                "somebody answers on {node}"
            );
        }
        for task in ["web.1", "a", "b"] {
            ensure!(links_of(lab, task)? == ["lo"], "links of {task}: {:?}", links_of(lab, task)?);
        }
        eventually("the kernel lets go of every object", SOON, || {
            for (kind, id) in &objects {
                let shown = Command::new("bpftool").args([kind, "show", "id", &id.to_string()]).output()?;
                if shown.status.success() {
                    bail!("{kind} {id} is there: {}", String::from_utf8_lossy(&shown.stdout));
                }
            }
            Ok(())
        })?;
        // And it all comes back.
        for node in ["n1", "n2"] {
            lab.node_mut(node).start()?;
        }
        healed(lab, "down and up")
    })
}

/// What a second daemon says when it is started on a node.
fn second_daemon(lab: &Lab, node: &str, configuration: &Path) -> Result<String> {
    let mut command = lab.host(node).namespace.command(meshd_path()?)?;
    command.arg("--config").arg(configuration).args(["--node", node]);
    let said = output(&mut command)?;
    ensure!(said.status.code() == Some(1), "a second daemon ended with {}", said.status);
    Ok(String::from_utf8_lossy(&said.stderr).into_owned())
}

#[test]
fn a_second_daemon_is_turned_away() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        let running = transfers(lab)?;
        let said = second_daemon(lab, "n1", &lab.configuration("n1"))?;
        ensure!(said.contains("Another meshd, process ") && said.contains("Stop that one"), "{said}");
        // With a directory of its own it would still be the same node.
        let other = lab.directory().join("other.yaml");
        let text = fs::read_to_string(lab.configuration("n1"))?;
        let own = lab.node("n1").run_directory().display().to_string();
        ensure!(text.contains(&own), "{text}");
        fs::write(&other, text.replace(&own, &lab.directory().join("other").display().to_string()))?;
        let said = second_daemon(lab, "n1", &other)?;
        ensure!(said.contains("Another meshd serves this network namespace already."), "{said}");
        all_go_on("with a second daemon", &running)?;
        all_is_well(lab)?;
        all_finish(running)
    })
}

/// What an operator does to a host's network while the mesh runs on it.
#[test]
fn a_nodes_address_may_move_to_another_interface() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        for (node, last) in [("n1", 1), ("n2", 2)] {
            let namespace = &lab.host(node).namespace;
            namespace.ip("link add br0 type bridge stp_state 0 forward_delay 0")?;
            for (from, to) in [("eth0", "br0"), ("br0", "eth0")] {
                namespace.ip(&format!("address flush dev {from}"))?;
                namespace.ip(if to == "br0" {
                    "link set eth0 master br0"
                } else {
                    "link set eth0 nomaster"
                })?;
                namespace.ip(&format!("link set {to} up"))?;
                namespace.ip(&format!("address add 192.0.2.{last}/24 dev {to}"))?;
                namespace.ip(&format!("address add 2001:db8::{last}/64 dev {to} nodad"))?;
                healed(lab, &format!("the addresses of {node} moved from {from} to {to}"))?;
                eventually("its daemon has nothing to say against it", SOON, || {
                    let status = lab.node(node).meshctl("status")?;
                    ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status}");
                    Ok(())
                })?;
                // Tunnels may be open before that: their packets still pass the interface that has its program.
                eventually("its program is there", SOON, || {
                    let status = lab.node(node).meshctl("status")?;
                    let targets = status["programs"].as_array().context("no programs")?;
                    let is_there = targets.iter().any(|p| p["name"] == "underlay_tc" && p["target"] == *to);
                    ensure!(is_there, "no program on {to} of {node}: {targets:?}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    })
}

#[test]
fn networks_follow_the_mtu_of_the_underlay() -> Result<()> {
    mesh().test(|lab| {
        lab.host("web.1").serve_http(&Web::on(80))?;
        all_is_well(lab)?;
        let web = lab.host("web.1");
        let interface = web.interface_of("10.0.9.11".parse()?)?;
        let host_side = lab.host_side("web.1", "10.0.9.11".parse()?, "n1")?;
        for mtu in [1400, 1500] {
            for node in ["n1", "n2"] {
                lab.host(node).namespace.ip(&format!("link set eth0 mtu {mtu}"))?;
            }
            eventually("the links follow", Duration::from_secs(3), || {
                for (host, link, expected) in [
                    ("web.1", interface.as_str(), mtu - 50),
                    ("n1", host_side.as_str(), mtu - 50),
                    ("n1", "mesh0", mtu),
                    ("n1", "mesh0-gate", mtu),
                ] {
                    let text = lab.host(host).namespace.ip(&format!("link show {link}"))?;
                    ensure!(text.contains(&format!("mtu {expected} ")), "{text}");
                }
                let network = lab.node("n1").meshctl("networks inspect blue")?;
                ensure!(network["mtu"] == mtu - 50, "{network}");
                Ok(())
            })?;
            for address in ["10.0.9.11", "fd00:9::a00:90b"] {
                let address: IpAddr = address.parse()?;
                let headers = if address.is_ipv4() { 28 } else { 48 };
                let fits = usize::try_from(mtu - 50)? - headers;
                lab.host("a").ping(address, 1, fits)?;
                ensure!(lab.host("a").ping(address, 1, fits + 1).is_err(), "more than {fits} bytes arrived");
            }
            all_is_well(lab)?;
        }
        Ok(())
    })
}
