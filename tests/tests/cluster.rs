//! Five nodes that find one another: what one is told, all do; they part and agree again, and whoever dies is missed by nobody.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{Call, Greeter, Lab, Mesh, Prober, UdpEcho, eventually};
use serde_json::Value;

const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
/// How long nodes that have just started take to find one another and say what their files say, at most.
const TOGETHER: Duration = Duration::from_secs(20);

/// A task of `web` on each node, published as port 9200, and one beside it that is of no service.
fn mesh() -> Mesh {
    let mut mesh = Mesh::new(5)
        .cluster()
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", "mh", &["9200:80"])
        .service("late", "blue", "10.0.9.3", "mh", &["9300:81/udp"]);
    for (number, node) in (1..).zip(NODES) {
        mesh = mesh
            .backend("web", &format!("web.{number}"), node, "blue", &format!("10.0.9.1{number}"))
            .task(&format!("spare.{number}"), node, "blue", &format!("10.0.9.2{number}"));
    }
    mesh
}

fn greeters(lab: &Lab) -> Result<Vec<Greeter>> {
    let greeter = |number| {
        let address = format!("10.0.9.1{number}:80").parse()?;
        Greeter::start(lab.host(&format!("web.{number}")), address)
    };
    (1..=5).map(greeter).collect()
}

/// What a node says that the mesh is, but for what only it knows: its nodes, networks, services and endpoints.
fn table(lab: &Lab, node: &str) -> Result<Value> {
    let mut all = Vec::new();
    for (nouns, fields) in [
        ("networks", &["name", "vni", "subnets", "internal"][..]),
        ("services", &["name", "vips", "ports", "backends"]),
        ("endpoints", &["name", "node", "service", "network", "addresses", "mac", "netns"]),
        ("nodes", &["name", "address"]),
    ] {
        let list = lab.node(node).meshctl(&format!("{nouns} ls"))?;
        let list = list.as_array().with_context(|| format!("{node} lists no {nouns}"))?;
        let kept = |entry: &Value| fields.iter().map(|field| entry[*field].clone()).collect::<Value>();
        all.push(list.iter().map(kept).collect::<Value>());
    }
    Ok(all.into())
}

fn digest(lab: &Lab, node: &str) -> Result<String> {
    let status = lab.node(node).meshctl("status")?;
    Ok(status["cluster"]["digest"].as_str().context("the status tells no digest")?.to_owned())
}

/// That these nodes have one table by the digests of their stores, and then by what they say.
fn agree(lab: &Lab, nodes: &[&str], within: Duration) -> Result<()> {
    eventually("the nodes agree", within, || {
        let digests = nodes.iter().map(|node| digest(lab, node)).collect::<Result<Vec<_>>>()?;
        ensure!(digests.windows(2).all(|pair| pair[0] == pair[1]), "the digests are {digests:?}");
        Ok(())
    })?;
    // What is in the store is applied in the next moment.
    eventually("the nodes say the same", Duration::from_secs(2), || {
        let tables = nodes.iter().map(|node| table(lab, node)).collect::<Result<Vec<_>>>()?;
        for (node, told) in nodes.iter().zip(&tables) {
            ensure!(*told == tables[0], "{node} says {told:#}, and {} {:#}", nodes[0], tables[0]);
        }
        Ok(())
    })
}

/// Waits until all nodes have found one another, and done what their files ask for.
fn together(lab: &Lab) -> Result<()> {
    for node in NODES {
        eventually("the node has all", TOGETHER, || {
            let counts = lab.node(node).meshctl("status")?["counts"].clone();
            let told = (counts["nodes"].as_u64(), counts["services"].as_u64(), counts["endpoints"].as_u64());
            ensure!(told == (Some(5), Some(2), Some(10)), "{node} counts {counts}");
            Ok(())
        })?;
    }
    agree(lab, &NODES, Duration::from_secs(10))?;
    for node in NODES {
        let problems = lab.node(node).meshctl("status")?["problems"].clone();
        ensure!(problems == Value::Array(Vec::new()), "{node}: {problems:#}");
    }
    Ok(())
}

fn published(lab: &Lab, node: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(lab.mesh().address_v4(node)?, port))
}

/// Asks for `web` by each of these nodes, so many times; returns who answered.
fn ask(lab: &Lab, nodes: &[&str], times: usize) -> Result<Vec<String>> {
    let mut answers = Vec::new();
    for _ in 0..times {
        for node in nodes {
            let call = Call::dial(lab.host("client"), published(lab, node, 9200)?)
                .with_context(|| format!("by {node}"))?;
            answers.push(call.server().to_owned());
        }
    }
    Ok(answers)
}

#[test]
fn what_changes_on_both_sides_of_a_partition_is_one_table_after_it() -> Result<()> {
    mesh().test(|lab| {
        together(lab)?;
        let _greeters = greeters(lab)?;
        let (few, many) = NODES.split_at(2);
        lab.part(many)?;
        for node in few {
            for other in many {
                lab.see(&[node], other, &["dead"], Duration::from_secs(10))?;
                lab.see(&[other], node, &["dead"], Duration::from_secs(10))?;
            }
        }
        // Each side goes on with its own tasks.
        let answers = ask(lab, few, 5)?;
        ensure!(answers.iter().all(|name| name == "web.1" || name == "web.2"), "{answers:?}");
        for (node, change) in [
            ("n1", "networks create left --wait"),
            ("n1", "networks create both"),
            ("n2", "services create near --network blue --publish 8001:80"),
            ("n2", "backends weight web web.1 3"),
            ("n1", "services create twice --network blue --publish 8003:80"),
            ("n3", "networks create right"),
            ("n4", "networks create both --subnet 10.99.0.0/24"),
            ("n4", "services create away --network blue --publish 8002:80 --wait"),
            // The same port: whoever was first keeps it.
            ("n5", "services create thrice --network blue --publish 8003:80"),
            ("n5", "detach spare.5"),
            ("n3", "backends add near spare.3"),
        ] {
            let output = lab.node(node).meshctl_output(change)?;
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            // The service of the other side is not known here.
            ensure!(output.status.success() != change.contains("add near"), "{node}: {change}: {told}");
        }
        let parted = (digest(lab, "n1")?, digest(lab, "n3")?);
        ensure!(parted.0 != parted.1, "both sides have the same, though each changed something");
        let start = Instant::now();
        lab.heal(many)?;
        agree(lab, &NODES, Duration::from_secs(5))?;
        println!("after the partition, the tables were equal in {:?}", start.elapsed());
        let told = table(lab, "n4")?.to_string();
        for name in ["left", "right", "both", "near", "away", "twice"] {
            ensure!(told.contains(&format!("\"{name}\"")), "{name} is lost: {told}");
        }
        ensure!(!told.contains("spare.5") && !told.contains("thrice"), "{told}");
        for node in NODES {
            let problems = lab.node(node).meshctl("status")?["problems"].to_string();
            ensure!(problems.contains("service thrice") && problems.contains("8003"), "{node}: {problems}");
            let weights = lab.node(node).meshctl("backends ls web")?;
            ensure!(weights[0]["weight"] == 3, "{node}: {weights}");
        }
        // Who is set aside can be removed, and everything is well again.
        lab.node("n2").meshctl_text("services rm thrice --wait")?;
        for node in NODES {
            let problems = lab.node(node).meshctl("status")?["problems"].clone();
            ensure!(problems == Value::Array(Vec::new()), "{node}: {problems:#}");
        }
        for other in NODES {
            lab.see(&NODES, other, &["alive"], Duration::from_secs(5))?;
        }
        let answers = eventually("the tunnels carry again", Duration::from_secs(5), || ask(lab, &NODES, 8))?;
        for name in ["web.1", "web.3", "web.5"] {
            ensure!(answers.iter().any(|answer| answer == name), "{name} gets nothing: {answers:?}");
        }
        Ok(())
    })
}

#[test]
fn a_node_that_dies_is_out_of_every_ring_and_no_request_fails_after_that() -> Result<()> {
    mesh().test(|lab| {
        together(lab)?;
        let _greeters = greeters(lab)?;
        for (number, victim) in [(3, "n3"), (1, "n1")] {
            let others: Vec<&str> = NODES.into_iter().filter(|node| *node != victim).collect();
            let before = ask(lab, &others, 8)?;
            let backend = format!("web.{number}");
            ensure!(before.contains(&backend), "{backend} gets nothing: {before:?}");
            // As a machine that loses its power: neither its daemon nor its programs do anything any more.
            lab.node_mut(victim).kill()?;
            lab.carrier(victim, false)?;
            let start = Instant::now();
            lab.without(&others, "web", &backend, Duration::from_secs(3))?;
            println!("{victim} was dead, and its backend out of every ring, after {:?}", start.elapsed());
            let after = ask(lab, &others, 40).context("a request failed after the ring had changed")?;
            ensure!(!after.contains(&backend), "{backend} answers: {after:?}");
            lab.see(&others, victim, &["dead"], Duration::from_secs(1))?;

            // And it comes back as it was.
            lab.carrier(victim, true)?;
            lab.node_mut(victim).start()?;
            agree(lab, &NODES, Duration::from_secs(10))?;
            eventually("the node has its turn again", Duration::from_secs(10), || {
                let answers = ask(lab, &NODES, 8)?;
                ensure!(answers.contains(&backend), "{backend} gets nothing: {answers:?}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// A connection by a node to this task of `web`.
fn call_to(lab: &Lab, node: &str, server: &str) -> Result<Call> {
    for _ in 0..100 {
        let call = Call::dial(lab.host("client"), published(lab, node, 9200)?)?;
        if call.server() == server {
            return Ok(call);
        }
    }
    bail!("of 100 connections by {node}, none came to {server}")
}

#[test]
fn a_daemon_that_restarts_keeps_its_place_and_one_whose_machine_dies_does_not() -> Result<()> {
    /// Longer than it takes to be declared dead.
    const AWAY: Duration = Duration::from_secs(4);
    mesh().test(|lab| {
        together(lab)?;
        let _greeters = greeters(lab)?;
        let others = ["n1", "n2", "n5"];
        let mut calls = Vec::new();
        for (node, server) in others.iter().flat_map(|node| [(node, "web.3"), (node, "web.4")]) {
            calls.push(call_to(lab, node, server)?);
        }
        lab.node_mut("n3").stop()?;
        lab.node_mut("n4").stop()?;
        let stopped = Instant::now();
        for node in ["n3", "n4"] {
            lab.see(&others, node, &["restarting"], Duration::from_secs(4))?;
        }
        while stopped.elapsed() < AWAY {
            for call in &mut calls {
                call.talk().context("a connection broke while daemons restarted")?;
            }
            for node in others {
                call_to(lab, node, "web.3").context("a backend lost its place while its daemon restarted")?;
            }
        }
        lab.node_mut("n3").start()?;
        lab.see(&others, "n3", &["alive"], Duration::from_secs(5))?;
        // The other one does not come back, and is dead when it has had its time.
        lab.see(&others, "n4", &["dead"], Duration::from_secs(20))?;
        lab.without(&others, "web", "web.4", Duration::from_secs(2))?;
        for call in calls.iter_mut().filter(|call| call.server() == "web.3") {
            call.talk().context("a connection broke after its daemon had restarted")?;
        }
        // Its incarnation is another now, and it has its next restart as well. This time the machine goes down with it.
        lab.node_mut("n3").stop()?;
        lab.carrier("n3", false)?;
        let start = Instant::now();
        lab.without(&others, "web", "web.3", Duration::from_secs(3))?;
        println!("n3 did not come back, and its backend was out of every ring after {:?}", start.elapsed());
        let answers = ask(lab, &others, 20).context("a request failed after the ring had changed")?;
        ensure!(!answers.iter().any(|answer| answer == "web.3" || answer == "web.4"), "{answers:?}");
        Ok(())
    })
}

#[test]
fn all_nodes_die_and_the_mesh_is_as_before() -> Result<()> {
    mesh().test(|lab| {
        together(lab)?;
        let _greeters = greeters(lab)?;
        for (node, change) in [
            ("n1", "networks create red"),
            ("n2", "services create given --network red --publish 8080:80"),
            ("n3", "backends weight web web.2 0"),
            ("n4", "detach spare.4"),
            ("n5", "networks create gone"),
            ("n1", "networks rm gone --wait"),
        ] {
            lab.node(node).meshctl_text(&format!("{change} --wait").replace("--wait --wait", "--wait"))?;
        }
        let (before, revision) = (table(lab, "n2")?, digest(lab, "n2")?);
        for node in NODES {
            lab.node_mut(node).kill()?;
        }
        for node in NODES {
            lab.node_mut(node).launch()?;
        }
        for node in NODES {
            lab.node_mut(node).wait_until_ready()?;
        }
        agree(lab, &NODES, Duration::from_secs(15))?;
        for node in NODES {
            ensure!(
                table(lab, node)? == before,
                "{node} says {:#}, and before {before:#}",
                table(lab, node)?
            );
        }
        ensure!(digest(lab, "n2")? == revision, "nothing was written anew");
        for other in NODES {
            lab.see(&NODES, other, &["alive"], Duration::from_secs(10))?;
        }
        // Each has long had the time to publish what its file says, and keeps to what was changed since.
        thread::sleep(Duration::from_secs(6));
        agree(lab, &NODES, Duration::from_secs(5))?;
        ensure!(table(lab, "n3")? == before, "{:#}", table(lab, "n3")?);
        let answers = ask(lab, &NODES, 16)?;
        ensure!(!answers.contains(&"web.2".to_owned()), "web.2 drains: {answers:?}");
        ensure!(answers.contains(&"web.5".to_owned()), "{answers:?}");
        Ok(())
    })
}

#[test]
fn a_new_backend_has_its_first_packet_by_every_node_at_once() -> Result<()> {
    /// How often a backend is added.
    const ROUNDS: usize = 8;
    /// A test's build, beside others on the machine: the figure that is printed is the one that counts.
    const MOST: Duration = Duration::from_millis(1500);
    // A client for each node: each asks from a port of its own.
    let mesh = NODES.iter().fold(mesh(), |mesh, node| mesh.client(&format!("client-{node}")));
    mesh.test(|lab| {
        together(lab)?;
        let mut servers = Vec::new();
        for number in 1..=5 {
            let address = format!("10.0.9.2{number}:81").parse()?;
            servers.push(UdpEcho::start(lab.host(&format!("spare.{number}")), address)?);
        }
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let asking = NODES[round % 5];
            let backend = format!("spare.{}", (round + 2) % 5 + 1);
            let mut probers = Vec::new();
            for node in NODES {
                let to = published(lab, node, 9300)?;
                let client = lab.host(&format!("client-{node}"));
                probers.push(Prober::start(client, to, Duration::from_millis(5))?);
            }
            thread::sleep(Duration::from_millis(300));
            let start = Instant::now();
            lab.node(asking).meshctl_text(&format!("backends add late {backend}"))?;
            let round = eventually("every node delivers", Duration::from_secs(10), || {
                let mut firsts = Vec::new();
                for prober in &mut probers {
                    let probes = prober.since(start)?;
                    let first = probes.iter().find(|probe| probe.answer.is_some());
                    firsts.push(first.context("a node does not deliver yet")?.asked - start);
                }
                Ok(firsts)
            })?;
            times.extend(round);
            drop(probers);
            lab.node(asking).meshctl_text(&format!("backends rm late {backend} --wait"))?;
        }
        times.sort();
        let median = times[times.len() / 2];
        println!(
            "first packet on {} nodes: median {median:?}, last {:?}",
            times.len(),
            times[times.len() - 1]
        );
        ensure!(median < MOST, "the median is {median:?}: {times:?}");
        Ok(())
    })
}

#[test]
fn a_node_leaves_in_good_order_and_a_dead_one_is_removed() -> Result<()> {
    mesh().test(|lab| {
        together(lab)?;
        let _greeters = greeters(lab)?;
        let mut call = call_to(lab, "n1", "web.5")?;
        thread::scope(|scope| -> Result<()> {
            let node = lab.node("n5");
            let leaving = scope.spawn(move || node.meshctl_text("nodes leave --drain --timeout 60s"));
            eventually("n5 drains", Duration::from_secs(5), || {
                let answers = ask(lab, &["n1"], 20)?;
                ensure!(!answers.contains(&"web.5".to_owned()), "{answers:?}");
                Ok(())
            })?;
            thread::sleep(Duration::from_secs(2));
            ensure!(!leaving.is_finished(), "n5 left though a connection lived");
            call.talk().context("a connection broke because its node leaves")?;
            call.hang_up()?;
            let told = leaving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(told.contains("n5 has left the cluster"), "{told}");
            Ok(())
        })?;
        lab.node_mut("n5").wait_for_end()?;
        let rest = &NODES[..4];
        agree(lab, rest, Duration::from_secs(5))?;
        let gone = || {
            let told = table(lab, "n1")?.to_string();
            ensure!(!told.contains("web.5") && !told.contains("192.0.2.5"), "{told}");
            Ok(())
        };
        gone()?;
        // The others' files still name it, and they look at them every few seconds.
        thread::sleep(Duration::from_secs(6));
        gone()?;
        let answers = ask(lab, rest, 20)?;
        ensure!(!answers.contains(&"web.5".to_owned()), "{answers:?}");

        let refused = lab.node("n1").meshctl_output("nodes rm n4")?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1) && why.contains("the node n4 is alive"), "{why}");
        lab.node_mut("n4").kill()?;
        lab.carrier("n4", false)?;
        lab.see(&["n1", "n2", "n3"], "n4", &["dead"], Duration::from_secs(5))?;
        lab.node("n1").meshctl_text("nodes rm n4 --wait")?;
        for node in ["n1", "n2", "n3"] {
            let told = table(lab, node)?.to_string();
            ensure!(!told.contains("web.4") && !told.contains("192.0.2.4"), "{node}: {told}");
        }

        // Who has left comes back with what its file says.
        lab.node_mut("n5").start()?;
        eventually("n5 is back", TOGETHER, || {
            let told = table(lab, "n1")?.to_string();
            ensure!(told.contains("web.5"), "{told}");
            Ok(())
        })?;
        agree(lab, &["n1", "n2", "n3", "n5"], Duration::from_secs(5))
    })
}

/// Three nodes, two tasks of `web` on the first two, and a client.
fn three() -> Mesh {
    Mesh::new(3)
        .cluster()
        .network("blue", 4097, &["10.0.9.0/24"])
        .service("web", "blue", "10.0.9.2", "mh", &["9200:80"])
        .backend("web", "web.1", "n1", "blue", "10.0.9.11")
        .backend("web", "web.2", "n2", "blue", "10.0.9.12")
}

/// Waits until three nodes have found one another.
fn three_together(lab: &Lab) -> Result<()> {
    for node in &NODES[..3] {
        eventually("the nodes find one another", TOGETHER, || {
            let counts = lab.node(node).meshctl("status")?["counts"].clone();
            let told = (counts["nodes"].as_u64(), counts["endpoints"].as_u64());
            ensure!(told == (Some(3), Some(2)), "{node} counts {counts}");
            Ok(())
        })?;
    }
    agree(lab, &NODES[..3], Duration::from_secs(10))
}

/// Of three nodes, `n3` starts again by a file that gives it a name, an address and a directory for its state: it says what is
/// wrong with that, and the others go on as if it were not there.
fn clash(name: &str, address: &str, state: &str, told: &str) -> Result<()> {
    three().test(|lab| {
        three_together(lab)?;
        let _servers = eventually("the tasks are attached", Duration::from_secs(5), || {
            let servers = [("web.1", "10.0.9.11:80"), ("web.2", "10.0.9.12:80")];
            let servers = servers.map(|(host, at)| Greeter::start(lab.host(host), at.parse()?));
            servers.into_iter().collect::<Result<Vec<_>>>()
        })?;
        let rest = ["n1", "n2"];
        lab.node_mut("n3").stop()?;
        agree(lab, &rest, Duration::from_secs(5))?;
        let before = (table(lab, "n1")?, digest(lab, "n1")?);

        let own = lab.directory().join("n3").display().to_string();
        let text = format!(
            "node: {{run_dir: {own}/run, state_dir: {own}/{state}}}\nnodes: {{{name}: {{address: {address}}}}}\ncluster: \
             {{listen: \"0.0.0.0:7946\", join: [192.0.2.2], keyring: {own}/keyring}}\n"
        );
        std::fs::write(lab.configuration("n3"), text)?;
        lab.node_mut("n3").call(name);
        lab.node_mut("n3").start()?;
        eventually("n3 says what is wrong", TOGETHER, || {
            let problems = lab.node("n3").meshctl("status")?["problems"].to_string();
            ensure!(problems.contains(told), "{problems}");
            Ok(())
        })?;
        // It runs on, longer than it looks for others and takes to say what its file asks for, and the others have what they had.
        let until = Instant::now() + Duration::from_secs(6);
        while Instant::now() < until {
            for node in rest {
                lab.see(&[node], "n1", &["alive"], Duration::ZERO)?;
                lab.see(&[node], "n2", &["alive"], Duration::ZERO)?;
                let now = (table(lab, node)?, digest(lab, node)?);
                ensure!(now == before, "{node} says {:#} ({}), and before {:#} ({})", now.0, now.1, before.0, before.1);
                let problems = lab.node(node).meshctl("status")?["problems"].clone();
                ensure!(problems == Value::Array(Vec::new()), "{node}: {problems:#}");
            }
            let answers = ask(lab, &rest, 4)?;
            ensure!(answers.iter().all(|name| name == "web.1" || name == "web.2"), "{answers:?}");
        }
        for (node, other) in [("n1", "n2"), ("n2", "n1")] {
            ensure!(!lab.has_buried(node, other)?, "{node} held {other} for dead");
        }
        // The one that it came as restarts, and takes longer than to be found dead.
        lab.node_mut("n1").stop()?;
        thread::sleep(Duration::from_secs(4));
        lab.see(&["n2"], "n1", &["restarting"], Duration::ZERO)?;
        lab.node_mut("n1").start()?;
        for node in rest {
            lab.see(&rest, node, &["alive"], Duration::from_secs(10))?;
        }
        agree(lab, &rest, Duration::from_secs(5))?;
        ensure!(table(lab, "n2")? == before.0, "{:#}, and before {:#}", table(lab, "n2")?, before.0);
        let answers = ask(lab, &rest, 16)?;
        for name in ["web.1", "web.2"] {
            ensure!(answers.iter().any(|answer| answer == name), "{name} gets nothing: {answers:?}");
        }
        lab.node_mut("n3").daemon()?.check()
    })
}

#[test]
fn who_comes_with_anothers_address_is_told_and_harms_nobody() -> Result<()> {
    clash("n3", "192.0.2.1", "state", "has the address 192.0.2.1, which the node")
}

#[test]
fn who_comes_with_anothers_name_is_told_and_harms_nobody() -> Result<()> {
    clash("n1", "192.0.2.3", "fresh", "the name \\\"n1\\\" is in use by a living node at 192.0.2.1:7946")
}

/// Does something while a node's daemon stands still, and lets it go on whatever comes of that.
fn while_halted<T>(lab: &Lab, node: &str, deed: impl FnOnce() -> Result<T>) -> Result<T> {
    lab.node(node).halt()?;
    let done = deed();
    lab.node(node).go_on()?;
    done
}

#[test]
fn who_waits_for_a_daemon_that_stands_still_is_told_of_it_or_waits_until_it_is_dead() -> Result<()> {
    /// How often one is halted until somebody's wait runs out first.
    const ROUNDS: usize = 5;
    /// How long it takes at most until a node's status tells what has come about.
    const TOLD: Duration = Duration::from_millis(500);
    three().test(|lab| {
        three_together(lab)?;
        let n1 = lab.node("n1");
        let nodes = &NODES[..3];
        let mut ran_out = false;
        for round in 1..=ROUNDS {
            while_halted(lab, "n3", || {
                // It is dead after little more than a second: hardly ever sooner.
                let begin = Instant::now();
                let output =
                    n1.meshctl_output(&format!("networks create short{round} --wait --timeout 1s"))?;
                let took = begin.elapsed();
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(took < Duration::from_secs(2), "it took {took:?}: {told}");
                ran_out = !output.status.success();
                if ran_out {
                    ensure!(output.status.code() == Some(1), "{:?}: {told}", output.status);
                    ensure!(
                        told.contains(
                            "it is done here and the others are told, but n3 has not applied it within 1 s"
                        ),
                        "{told}"
                    );
                    ensure!(took >= Duration::from_secs(1), "it gave up after {took:?}");
                } else {
                    lab.see(&["n1"], "n3", &["dead"], TOLD)?;
                }
                // What was not applied everywhere is done here and there all the same.
                for node in ["n1", "n2"] {
                    eventually("who lives has it", Duration::from_secs(1), || {
                        lab.node(node).meshctl(&format!("networks inspect short{round}")).map(drop)
                    })?;
                }
                // Who waits for longer waits until it is dead, and no longer.
                let begin = Instant::now();
                n1.meshctl_text(&format!("networks create long{round} --wait"))?;
                let took = begin.elapsed();
                println!(
                    "n3 stood still: a wait of a second ran out: {ran_out}; another ended after {took:?}"
                );
                ensure!(took < Duration::from_secs(3), "it took {took:?}");
                lab.see(&["n1"], "n3", &["dead"], TOLD)
            })?;
            agree(lab, nodes, Duration::from_secs(10))?;
            for node in nodes {
                lab.see(nodes, node, &["alive"], Duration::from_secs(5))?;
            }
            if ran_out {
                break;
            }
        }
        ensure!(ran_out, "no wait has run out in {ROUNDS} rounds");
        ensure!(lab.has_buried("n1", "n3")?, "the log of n1 does not tell that n3 was dead");
        // Whoever stood still has not taken the others for dead.
        for other in ["n1", "n2"] {
            ensure!(!lab.has_buried("n3", other)?, "n3 held {other} for dead");
        }
        // Everybody is waited for again.
        n1.meshctl_text("networks create last --wait --timeout 10s")?;
        let told = lab.node("n3").meshctl("networks ls")?.to_string();
        ensure!(told.contains("\"last\""), "n3 was not waited for: {told}");
        for node in nodes {
            let problems = lab.node(node).meshctl("status")?["problems"].clone();
            ensure!(problems == Value::Array(Vec::new()), "{node}: {problems:#}");
        }
        Ok(())
    })
}
