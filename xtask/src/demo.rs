//! `cargo xtask demo`: a routing mesh at work, step by step, each answer checked.

mod story;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{HANDS_ON, Lab, Transfer, eventually};

use crate::{build::Profile, lab, progress};
use story::Story;

/// What `demo` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the mesh running, and say how to play with it
    #[arg(long)]
    keep: bool,
}

/// The nodes' IPv4 addresses end in their numbers.
const NODES: [(&str, &str, &str); 3] = [
    ("n1", "192.0.2.1", "2001:db8::1"),
    ("n2", "192.0.2.2", "2001:db8::2"),
    ("n3", "192.0.2.3", "2001:db8::3"),
];

/// The client's addresses.
const CLIENT: [&str; 2] = ["192.0.2.101", "2001:db8::101"];

/// Builds, starts the mesh, tells its story, and takes it away.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    lab::prepare(Profile::Dev)?;
    let began = Instant::now();
    lab::clean_up_when_interrupted(HANDS_ON)?;
    let mut lab = lab::up()?;
    let story = tell(&mut lab)?;
    if arguments.keep {
        lab.keep()?;
        println!("\nThe mesh is left running.\n\n{}", lab::instructions());
    } else {
        drop(lab);
        let gone = mesh_tests::lab::remains(HANDS_ON)?;
        ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
        println!(
            "\nEverything is cleaned up. `cargo xtask demo --keep` leaves the mesh running to play with."
        );
    }
    let (right, wrong) = story.tally();
    println!("\n{right} answers were right, {wrong} wrong ({}).", progress::took(began.elapsed()));
    ensure!(wrong == 0, "{wrong} answers were not what they should be: see the lines marked ✗");
    Ok(())
}

fn tell(lab: &mut Lab) -> Result<Story> {
    let mut story = Story::begin(
        "A routing mesh on this kernel",
        "Three hosts (n1, n2, n3) and a client stand in network namespaces of their own, joined by a switch. On \
         each of the three runs meshd; eBPF does all the forwarding. Each line below was just now run for real.",
    );
    nodes(&mut story, lab)?;
    every_node(&mut story, lab);
    from_the_node(&mut story, lab);
    client_address(&mut story, lab);
    virtual_ip(&mut story, lab)?;
    two_tiers(&mut story, lab);
    isolation(&mut story, lab);
    crash(&mut story, lab)?;
    numbers(&mut story, lab)?;
    Ok(story)
}

fn nodes(story: &mut Story, lab: &Lab) -> Result<()> {
    story.step(
        "The mesh",
        "Every node read the same file. The service `search` has a replica on each of them; `web` runs on n1, and \
         its database `db` on n3.",
    );
    story.show("n1", "meshctl nodes ls", &lab.node("n1").meshctl_text("nodes ls")?);
    story.show("n1", "meshctl endpoints ls", &lab.node("n1").meshctl_text("endpoints ls")?);
    Ok(())
}

/// Asks `search` three times; each replica should answer once, in turn, and see this client.
fn in_turn(story: &mut Story, lab: &Lab, host: &str, url: &str, client: &str) {
    let answers: Result<Vec<_>> = (0..3).map(|_| replica(lab, host, url, client)).collect();
    let text = answers.map(|numbers| {
        numbers.iter().map(|number| format!("search.{number}")).collect::<Vec<_>>().join("  ")
    });
    story.answer(host, &format!("curl {url}    (3 times)"), text, |text| {
        let turns =
            ["search.1  search.2  search.3", "search.2  search.3  search.1", "search.3  search.1  search.2"];
        ensure!(turns.contains(&text), "they should answer in turn");
        Ok(())
    });
}

/// Asks `search` once, and tells the number of the replica that answered.
fn replica(lab: &Lab, host: &str, url: &str, client: &str) -> Result<u32> {
    let text = lab.host(host).curl(url)?;
    let (name, seen) =
        text.trim_end().split_once(" sees ").with_context(|| format!("this is no replica: {text}"))?;
    // Whoever reaches himself by a virtual IP is seen as that, or his kernel would take it for a forgery.
    let is_itself = name == host && url.contains(seen);
    ensure!(seen == client || is_itself, "{name} sees {seen} in the place of {client}");
    let number = name.strip_prefix("search.").with_context(|| format!("this is no replica: {name}"))?;
    Ok(number.parse()?)
}

fn every_node(story: &mut Story, lab: &Lab) {
    story.step(
        "A published port answers on every node",
        "`search` publishes port 9200. Whichever node the client asks, the three replicas answer in turn \
         (scheduler rr), wherever they run. The client's own address is what they see.",
    );
    let url = format!("http://{}:9200", NODES[0].1);
    for due in 1..=3 {
        story.answer("client", &format!("curl {url}"), lab.host("client").curl(&url), |text| {
            let right = format!("search.{due} sees {}", CLIENT[0]);
            ensure!(text == right, "it should be: {right}");
            Ok(())
        });
    }
    for (_, v4, _) in &NODES[1..] {
        in_turn(story, lab, "client", &format!("http://{v4}:9200"), CLIENT[0]);
    }
    for (_, _, v6) in NODES {
        in_turn(story, lab, "client", &format!("http://[{v6}]:9200"), CLIENT[1]);
    }
}

fn from_the_node(story: &mut Story, lab: &Lab) {
    story.step(
        "… and on the node itself",
        "The lesson that every newcomer to routing meshes learns the hard way: `curl localhost:9200` on a node. \
         Here it works, by each of the node's addresses.",
    );
    for (node, v4, v6) in NODES {
        in_turn(story, lab, node, "http://127.0.0.1:9200", v4);
        in_turn(story, lab, node, "http://[::1]:9200", v6);
        in_turn(story, lab, node, &format!("http://{v4}:9200"), v4);
    }
    let url = "http://localhost:9200";
    story.answer("n2", &format!("curl {url}"), lab.host("n2").curl(url), |text| {
        ensure!(text.starts_with("search."), "a replica should answer");
        Ok(())
    });
}

fn client_address(story: &mut Story, lab: &Lab) {
    story.step(
        "The server's log shows the client",
        "No address was rewritten on the way in: what search.3 logged of the requests through all three nodes.",
    );
    for address in CLIENT {
        let wanted = format!("{address} GET /");
        let logged = eventually("the log is written", Duration::from_secs(2), || {
            let log = lab.host("search.3").access_log()?;
            let count = log.iter().filter(|line| **line == wanted).count();
            // The client asked each of three nodes three times.
            ensure!(count == 3, "this client asked 3 times, the log has {count}: {log:?}");
            Ok(format!("{wanted}  ({count} lines)"))
        });
        story.answer("search.3", &format!("grep '{address} ' access.txt"), logged, |_| Ok(()));
    }
}

fn virtual_ip(story: &mut Story, lab: &Lab) -> Result<()> {
    story.step(
        "Inside the network, a virtual IP",
        "In its network `blue`, the service `search` has the address 10.0.9.2: it answers ping, and each TCP or UDP \
         port. A replica that calls its own service reaches any of them, itself included.",
    );
    let vip = "10.0.9.2".parse()?;
    let pinged = lab.host("search.2").ping(vip, 1, 56);
    let pinged =
        pinged.map(|text| text.lines().nth(1).and_then(|line| line.split(':').next()).map(str::to_owned));
    let pinged = pinged.and_then(|line| line.context("ping said nothing"));
    story.answer("search.2", "ping -c 1 10.0.9.2", pinged, |_| Ok(()));
    in_turn(story, lab, "search.2", "http://10.0.9.2:9200", "10.0.9.12");
    in_turn(story, lab, "search.3", "http://[fd00:9::a00:902]:9200", "fd00:9::a00:90d");
    Ok(())
}

fn two_tiers(story: &mut Story, lab: &Lab) {
    story.step(
        "An application of two tiers",
        "`web` (on n1) publishes port 8080 and asks `db` (on n3) by its virtual IP over the network `app`, which \
         only these two share. The client asks n2, which runs neither.",
    );
    story.answer(
        "client",
        "curl http://192.0.2.2:8080",
        lab.host("client").curl("http://192.0.2.2:8080"),
        |text| {
            ensure!(text.trim_end() == format!("web sees {}", CLIENT[0]), "web should see the client");
            Ok(())
        },
    );
    let url = "http://192.0.2.2:8080/data";
    story.answer("client", &format!("curl {url}"), lab.host("client").curl(url), |text| {
        ensure!(text.trim_end() == "db sees 10.0.11.12", "db should see web's address on `app`");
        Ok(())
    });
}

fn isolation(story: &mut Story, lab: &Lab) {
    story.step(
        "Networks are apart",
        "`search` is not on the network `app`: neither the database's virtual IP nor its own address answers it. \
         `app` is internal as well: from there is no way to `search`, nor out.",
    );
    let attempts = [
        ("search.3", "http://10.0.11.2:5432"),
        ("search.3", "http://10.0.11.11:5432"),
        ("db", "http://10.0.9.2:9200"),
        ("db", "http://192.0.2.101"),
    ];
    for (host, url) in attempts {
        story.answer(host, &format!("curl --max-time 1 {url}"), silent(lab, host, url), |text| {
            ensure!(text == NO_ANSWER, "this should not have been reached");
            Ok(())
        });
    }
}

const NO_ANSWER: &str = "no answer";

/// What a URL that should be out of reach answers.
fn silent(lab: &Lab, host: &str, url: &str) -> Result<String> {
    let words = format!("curl --silent --show-error --max-time 1 {url}");
    let mut words = words.split_whitespace();
    let program = words.next().context("no program")?;
    let output = mesh_tests::lab::output(lab.host(host).namespace.command(program)?.args(words))?;
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        // Not connected (7), or not in time (28).
        Some(7 | 28) => Ok(NO_ANSWER.to_owned()),
        _ => bail!("{}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn crash(story: &mut Story, lab: &mut Lab) -> Result<()> {
    story.step(
        "The daemon dies, the traffic goes on",
        "A transfer runs from search.1 (on n1) to search.3 (on n3) while the daemons of both nodes are killed and \
         started again. The data plane is the kernel's; meshd takes it over as it finds it.",
    );
    let server: SocketAddr = "10.0.9.13:9000".parse()?;
    let transfer = Transfer::start(lab.host("search.1"), server, lab.host("search.3"), server)?;
    for node in ["n1", "n3"] {
        let killed = lab.node_mut(node).kill().and_then(|()| transfer.progress());
        story.answer(
            node,
            "kill -9 $(pidof meshd)",
            killed.map(|()| "the transfer goes on".to_owned()),
            |_| Ok(()),
        );
    }
    for node in ["n1", "n3"] {
        let began = Instant::now();
        let started = lab.node_mut(node).start().and_then(|()| transfer.progress());
        let ready = progress::took(began.elapsed());
        let text = format!("ready after {ready}; it goes on");
        story.answer(node, "meshd &", started.map(|()| text), |_| Ok(()));
    }
    let summary = transfer.finish();
    let text = summary.map(|summary| {
        let megabytes = summary.bytes / 1_000_000;
        format!("{megabytes} MB, right; longest pause {} ms", summary.longest_stall.as_millis())
    });
    story.answer("search.3", "(what arrived)", text, |_| Ok(()));
    Ok(())
}

fn numbers(story: &mut Story, lab: &Lab) -> Result<()> {
    story.step("What the daemons say", "One command line, on each node: `meshctl`, also in JSON and YAML.");
    for words in ["status", "services ls"] {
        story.show("n1", &format!("meshctl {words}"), &lab.node("n1").meshctl_text(words)?);
    }
    let node = lab.node("n3");
    story.show("n3", "meshctl drops", &node.meshctl_text("drops")?);
    let lost = eventually("the drops are counted", Duration::from_secs(2), || {
        let packets = node.dropped("no_route")?;
        ensure!(packets > 0, "no packet was counted as having no route");
        Ok(format!("{packets} packets: see step 7"))
    });
    story.answer("n3", "meshctl drops | grep no_route", lost, |_| Ok(()));
    Ok(())
}
