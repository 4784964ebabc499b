//! `meshctl` against a running mesh: what it foretells is what happens, and what it counts is what was sent.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Lab, Mesh, Web, ask_tcp, eventually};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Three replicas of `search`, by hash, and a task without a service.
fn mesh() -> Mesh {
    Mesh::new(3)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("search", "blue", "10.0.9.2", "mh", &["9200:80"])
        .backend("search", "search.1", "n1", "blue", "10.0.9.11")
        .backend("search", "search.2", "n2", "blue", "10.0.9.12")
        .backend("search", "search.3", "n3", "blue", "10.0.9.13")
        .task("tool", "n1", "blue", "10.0.9.40")
}

fn serve(lab: &Lab) -> Result<()> {
    (1..=3).try_for_each(|number| lab.host(&format!("search.{number}")).serve_http(&Web::on(80)))
}

fn explain(lab: &Lab, node: &str, from: SocketAddr, to: SocketAddr) -> Result<Value> {
    lab.node(node).meshctl(&format!("explain --from {from} --to {to}"))
}

/// Every answer comes from the backend that each node foretold.
fn assert_foretold(lab: &Lab, host: &str, from: &str, to: SocketAddr, asked: &[&str]) -> Result<()> {
    let mut backends = BTreeSet::new();
    let answers = ask_tcp(lab.host(host), to, 20_000..20_030)?;
    for (port, answer) in (20_000..).zip(&answers) {
        let from = SocketAddr::new(from.parse()?, port);
        for node in asked {
            let told = explain(lab, node, from, to)?;
            let backend = told["choice"]["backend"].as_str();
            ensure!(
                backend == Some(answer.as_str()),
                "{from} to {to}: {answer} answered, and {node} said {told}"
            );
        }
        backends.insert(answer);
    }
    ensure!(backends.len() == 3, "{from} to {to} is answered by {backends:?} only");
    Ok(())
}

#[test]
fn explain_foretells_who_answers() -> Result<()> {
    mesh().test(|lab| {
        serve(lab)?;
        for (from, vip) in [("10.0.9.40", "10.0.9.2:80"), ("fd00:9::a00:928", "[fd00:9::a00:902]:80")] {
            assert_foretold(lab, "tool", from, vip.parse()?, &["n1", "n3"])?;
        }
        let (v4, v6) = (lab.mesh().address_v4("client")?, lab.mesh().address_v6("client")?);
        for entry in NODES {
            let published = |address| SocketAddr::new(address, 9200);
            // The same on whichever node it is asked for; by IPv6, a node is known by its one address to itself alone.
            assert_foretold(
                lab,
                "client",
                &v4.to_string(),
                published(lab.mesh().address_v4(entry)?),
                &["n1", entry],
            )?;
            assert_foretold(
                lab,
                "client",
                &v6.to_string(),
                published(lab.mesh().address_v6(entry)?),
                &[entry],
            )?;
        }
        // From the node itself.
        assert_foretold(lab, "n2", "127.0.0.1", "127.0.0.1:9200".parse()?, &["n2"])
    })
}

#[test]
fn flows_drops_and_traces_tell_what_passed() -> Result<()> {
    mesh().test(|lab| {
        serve(lab)?;
        let n1 = lab.node("n1");
        let client = lab.mesh().address_v4("client")?;
        let entry = SocketAddr::new(lab.mesh().address_v4("n1")?, 9200);

        // One flow in each direction, on the node that delivers it.
        let answer = ask_tcp(lab.host("client"), entry, 20_000..20_001)?.pop().context("no answer")?;
        let number = answer.strip_prefix("search.").context("an answer of another")?;
        let deliverer = lab.node(&format!("n{number}"));
        let flows = deliverer.meshctl(&format!("flows ls --service search --client {client}"))?;
        let list = flows["flows"].as_array().context("no list of flows")?;
        ensure!(list.len() == 2, "{flows}");
        for flow in list {
            ensure!(flow["backend"] == answer.as_str() && flow["entry"] == "n1", "{flow}");
            ensure!(flow["network"] == "blue" && flow["protocol"] == "tcp", "{flow}");
        }

        // A task that asks an address which nobody has.
        let before = n1.dropped("no_such_endpoint")?;
        let nobody = "10.0.9.77:80".parse()?;
        ensure!(ask_tcp(lab.host("tool"), nobody, 20_000..20_001).is_err(), "nobody answered");
        ensure!(n1.dropped("no_such_endpoint")? > before, "nothing was counted");
        let told = explain(lab, "n1", "10.0.9.40:20000".parse()?, nobody)?;
        ensure!(told["verdict"] == "dropped", "{told}");

        // Every packet of a ping, traced; and no more once nobody looks.
        let mut traced = None;
        std::thread::scope(|scope| -> Result<()> {
            let tracing = scope.spawn(|| n1.meshctl_text("--output json trace --every 1 --count 4"));
            eventually("the trace begins", Duration::from_secs(10), || {
                lab.host("tool").ping("10.0.9.13".parse()?, 1, 56)?;
                ensure!(tracing.is_finished(), "not four packets yet");
                Ok(())
            })?;
            let text = tracing.join().map_err(|_| anyhow::anyhow!("the trace panicked"))??;
            traced = Some(text);
            Ok(())
        })?;
        let text = traced.context("no trace")?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(lines.len() == 4, "{text}");
        let ping =
            lines.iter().find(|line| line["packet"]["detail"] == "echo request").context(text.clone())?;
        ensure!(ping["packet"]["destination"] == "10.0.9.13" && ping["outcome"] == "transmit", "{ping}");
        ensure!(ping["tunnel"]["vni"] == 4097, "{ping}");

        let stats = n1.meshctl("stats")?;
        let hooks = stats["hooks"].as_array().context("no counters")?;
        let sent = hooks.iter().find(|hook| hook["hook"] == "endpoint" && hook["outcome"] == "transmit");
        ensure!(sent.is_some_and(|hook| hook["packets"].as_u64() > Some(0)), "{stats}");
        Ok(())
    })
}
