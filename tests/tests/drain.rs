//! Weights and draining: who gets new connections, what becomes of those that live, and that their count is true.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::lab::{Call, Greeter, Lab, Mesh, eventually};

const NODES: [&str; 2] = ["n1", "n2"];

/// Three replicas of `web` on two nodes, published as port 9200, and a task that asks its virtual IP from `n1`.
fn mesh(scheduler: &str) -> Mesh {
    Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", scheduler, &["9200:80"])
        .backend("web", "web.1", "n1", "blue", "10.0.9.11")
        .backend("web", "web.2", "n2", "blue", "10.0.9.12")
        .backend("web", "web.3", "n1", "blue", "10.0.9.13")
        .task("tool", "n1", "blue", "10.0.9.40")
        .task("other", "n2", "blue", "10.0.9.41")
}

fn serve(lab: &Lab) -> Result<Vec<Greeter>> {
    (1..=3)
        .map(|number| {
            let address = format!("10.0.9.1{number}:80").parse()?;
            Greeter::start(lab.host(&format!("web.{number}")), address)
        })
        .collect()
}

fn published(lab: &Lab, node: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(lab.mesh().address_v4(node)?, 9200))
}

/// The live flows of a backend, as a node tells them.
fn flows(lab: &Lab, node: &str, backend: &str) -> Result<Option<u64>> {
    let backends = lab.node(node).meshctl("backends ls web")?;
    let found = backends.as_array().context("no list")?.iter().find(|entry| entry["endpoint"] == backend);
    Ok(found.with_context(|| format!("{backend} is not listed"))?["flows"].as_u64())
}

/// The count of a backend's flows on its own node comes to be this one. It is exact at each moment, but the last packet
/// of a connection may still be on its way when the client knows that it is over.
fn assert_flows(lab: &Lab, backend: &str, expected: usize) -> Result<()> {
    let node = if backend == "web.2" { "n2" } else { "n1" };
    eventually("the flows are counted", Duration::from_secs(2), || {
        let told = flows(lab, node, backend)?;
        ensure!(told == Some(expected as u64), "{backend} has {expected} flows, and {node} says {told:?}");
        Ok(())
    })
}

fn talk(calls: &mut [Call]) -> Result<()> {
    calls.iter_mut().try_for_each(Call::talk)
}

fn to<'c>(calls: &'c [Call], backend: &str) -> impl Iterator<Item = &'c Call> {
    calls.iter().filter(move |call| call.server() == backend)
}

/// Ends those to a backend and keeps the others.
fn hang_up(calls: Vec<Call>, backend: &str) -> Result<Vec<Call>> {
    let (ending, rest): (Vec<_>, Vec<_>) = calls.into_iter().partition(|call| call.server() == backend);
    ending.into_iter().try_for_each(Call::hang_up)?;
    Ok(rest)
}

/// Connections from the client through both nodes, and from a task on each node to the virtual IP.
fn dial_all(lab: &Lab, count: usize) -> Result<Vec<Call>> {
    let vip: SocketAddr = "10.0.9.2:80".parse()?;
    let mut calls = Vec::new();
    for _ in 0..count {
        for node in NODES {
            calls.push(Call::dial(lab.host("client"), published(lab, node)?)?);
        }
        calls.push(Call::dial(lab.host("tool"), vip)?);
        calls.push(Call::dial(lab.host("other"), vip)?);
    }
    Ok(calls)
}

/// Drains a backend on each node, as is needed for as long as nodes do not tell each other.
fn drain(lab: &Lab, backend: &str) -> Result<()> {
    for node in NODES {
        let told = lab.node(node).meshctl_text(&format!("backends drain web {backend}"))?;
        ensure!(told.starts_with("web.") && told.contains(" drains: "), "{node}: {told}");
    }
    Ok(())
}

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_other_by_turns() -> Result<()> {
    drained("rr")
}

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_other_by_hash() -> Result<()> {
    drained("mh")
}

fn drained(scheduler: &str) -> Result<()> {
    mesh(scheduler).test(|lab| {
        let _servers = serve(lab)?;
        let mut calls = dial_all(lab, 6)?;
        for backend in ["web.1", "web.2", "web.3"] {
            ensure!(to(&calls, backend).count() >= 4, "{backend} has too few connections for a test");
        }
        talk(&mut calls)?;
        drain(lab, "10.0.9.12")?;
        talk(&mut calls)?;
        let mut fresh = dial_all(lab, 13)?;
        ensure!(fresh.len() >= 50 && to(&fresh, "web.2").count() == 0, "web.2 got new connections");
        talk(&mut fresh)?;
        // A reload of the file and a restart of the daemon give it no new one either, and break none.
        lab.node_mut("n2").reload()?;
        lab.node_mut("n1").stop()?;
        lab.node_mut("n1").start()?;
        talk(&mut calls)?;
        let more = dial_all(lab, 5)?;
        ensure!(to(&more, "web.2").count() == 0, "web.2 got new connections after a restart");
        // And with its weight it has its turn again.
        for node in NODES {
            lab.node(node).meshctl_text("backends weight web web.2 1")?;
        }
        ensure!(to(&dial_all(lab, 3)?, "web.2").count() > 0, "web.2 has its weight again, and no connection");
        talk(&mut calls)?;
        talk(&mut fresh)
    })
}

#[test]
fn the_count_of_live_flows_is_that_of_open_connections() -> Result<()> {
    mesh("rr").test(|lab| {
        let _servers = serve(lab)?;
        let mut calls = Vec::new();
        for _ in 0..9 {
            for node in NODES {
                calls.push(Call::dial(lab.host("client"), published(lab, node)?)?);
            }
        }
        for backend in ["web.1", "web.2", "web.3"] {
            assert_flows(lab, backend, to(&calls, backend).count())?;
        }
        // The other node knows nothing of them, and says so.
        ensure!(flows(lab, "n1", "web.2")?.is_none(), "n1 cannot know the flows of web.2");
        // A connection to the virtual IP is known on the client's node.
        let vip = "10.0.9.2:80".parse()?;
        let asked: Vec<Call> = (0..6).map(|_| Call::dial(lab.host("tool"), vip)).collect::<Result<_>>()?;
        let from_here = to(&asked, "web.2").count() as u64;
        ensure!(from_here > 0, "no connection of the task reached web.2");
        ensure!(flows(lab, "n1", "web.2")? == Some(from_here), "n1 knows its own task's connections");
        let here = to(&calls, "web.1").count() + to(&asked, "web.1").count();
        assert_flows(lab, "web.1", here)?;
        assert_flows(lab, "web.2", to(&calls, "web.2").count())?;
        // They end in good order, or are broken off: either way they are over.
        let calls = hang_up(calls, "web.2")?;
        assert_flows(lab, "web.2", 0)?;
        drop(asked);
        assert_flows(lab, "web.1", to(&calls, "web.1").count())?;
        talk(&mut { calls })
    })
}

#[test]
fn a_drain_waits_for_the_last_connection_and_no_longer_than_it_may() -> Result<()> {
    mesh("rr").test(|lab| {
        let _servers = serve(lab)?;
        let mut calls = Vec::new();
        for _ in 0..9 {
            calls.push(Call::dial(lab.host("client"), published(lab, "n1")?)?);
        }
        let (mut ending, mut others): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| call.server() == "web.2");
        ensure!(ending.len() == 3, "web.2 has {} connections of 9", ending.len());
        drain(lab, "web.2")?;

        let elsewhere = lab.node("n1").meshctl_output("backends drain web web.2 --wait")?;
        let told = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
        ensure!(
            elsewhere.status.code() == Some(1) && told.contains("run") && told.contains("on n2"),
            "{told}"
        );

        let late = lab.node("n2").meshctl_output("backends drain web web.2 --wait --timeout 2s")?;
        let told = String::from_utf8_lossy(&late.stderr).into_owned();
        ensure!(late.status.code() == Some(1), "the deadline passed: {:?}", late.status);
        ensure!(told.contains("not drained after 2 s: 3 flows are left"), "{told}");

        let node = lab.node("n2");
        let (closed, output, ended) = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let output = node.meshctl_output("backends drain web web.2 --wait --timeout 60s");
                (output, Instant::now())
            });
            let mut close = || -> Result<Instant> {
                while let Some(call) = ending.pop() {
                    thread::sleep(Duration::from_secs(1));
                    ensure!(!waiting.is_finished(), "it waits for {} more", ending.len() + 1);
                    talk(&mut ending)?;
                    talk(&mut others)?;
                    call.hang_up()?;
                }
                Ok(Instant::now())
            };
            let closed = close();
            // Whatever went wrong, nothing is left that it could wait for.
            ending.clear();
            match waiting.join() {
                Ok((output, ended)) => Ok((closed?, output?, ended)),
                Err(_) => bail!("meshctl could not be waited for"),
            }
        })?;
        let after = ended.saturating_duration_since(closed);
        ensure!(after < Duration::from_secs(3), "it ended {after:?} after the last connection");
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success() && text.ends_with("web.2 is drained: no flow is left\n"), "{text}");
        talk(&mut others)
    })
}

#[test]
fn connections_follow_the_weights_of_the_file() -> Result<()> {
    let mut mesh = mesh("mh");
    mesh.endpoints[0].weight = Some(3);
    mesh.endpoints[2].weight = Some(0);
    mesh.test(|lab| {
        let _servers = serve(lab)?;
        let mut counts = BTreeMap::<_, usize>::new();
        for number in 0..400 {
            let call = Call::dial(lab.host("client"), published(lab, NODES[number % 2])?)?;
            *counts.entry(call.server().to_owned()).or_default() += 1;
        }
        // Three to one: 300 and 100, each with a standard deviation below 9.
        let (first, second) = (counts.get("web.1").copied(), counts.get("web.2").copied());
        ensure!(first.is_some_and(|count| (255..=345).contains(&count)), "{counts:?}");
        ensure!(second.is_some_and(|count| (55..=145).contains(&count)), "{counts:?}");
        ensure!(counts.len() == 2, "web.3 drains, and got connections: {counts:?}");

        // With the last two drained, there is nobody left for new connections, and the live ones of tasks go on.
        let vip: SocketAddr = "10.0.9.2:80".parse()?;
        let mut live: Vec<Call> = (0..5).map(|_| Call::dial(lab.host("tool"), vip)).collect::<Result<_>>()?;
        drain(lab, "web.1")?;
        drain(lab, "web.2")?;
        talk(&mut live)?;
        for node in NODES {
            ensure!(Call::dial(lab.host("client"), published(lab, node)?).is_err(), "{node} has a backend");
        }
        ensure!(Call::dial(lab.host("tool"), vip).is_err(), "the virtual IP has a backend");
        ensure!(lab.node("n1").dropped("no_backend")? > 0, "n1 does not tell why");
        Ok(())
    })
}

#[test]
fn a_task_that_stops_is_drained_before_it_is_detached() -> Result<()> {
    mesh("rr").test(|lab| {
        let mut servers = serve(lab)?;
        lab.add_host("late")?;
        let netns = lab.namespace_name("late");
        lab.node("n1").meshctl_text(&format!(
            "attach --network blue --netns {netns} --name late --service web --address 10.0.9.14"
        ))?;
        servers.push(Greeter::start(lab.host("late"), "10.0.9.14:80".parse()?)?);
        let calls: Vec<Call> =
            (0..8).map(|_| Call::dial(lab.host("client"), published(lab, "n1")?)).collect::<Result<_>>()?;
        let (mut ending, mut others): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| call.server() == "late");
        ensure!(ending.len() == 2, "late has {} connections of 8", ending.len());

        let node = lab.node("n1");
        let output = thread::scope(|scope| -> Result<_> {
            let stopping = scope.spawn(|| node.meshctl_output("detach late --drain --timeout 60s"));
            let mut waits = || -> Result<()> {
                eventually("it drains", Duration::from_secs(5), || {
                    ensure!(node.meshctl("backends ls web")?.to_string().contains("\"weight\":0"), "not yet");
                    Ok(())
                })?;
                for _ in 0..8 {
                    let call = Call::dial(lab.host("client"), published(lab, "n1")?)?;
                    ensure!(call.server() != "late", "late drains, and got a connection");
                }
                talk(&mut ending)?;
                thread::sleep(Duration::from_secs(1));
                ensure!(!stopping.is_finished(), "it does not wait");
                talk(&mut ending)
            };
            let waited = waits();
            ending.into_iter().try_for_each(Call::hang_up)?;
            match stopping.join() {
                Ok(output) => waited.and(output),
                Err(_) => bail!("meshctl could not be waited for"),
            }
        })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success() && text.ends_with("endpoint late detached\n"), "{text}");
        ensure!(
            node.meshctl_output("endpoints inspect late")?.status.code() == Some(1),
            "late is still there"
        );
        talk(&mut others)?;

        // One that does not end in time is detached all the same; one of the file stays, and takes flows again.
        node.meshctl_text(&format!(
            "attach --network blue --netns {netns} --name late --service web --address 10.0.9.14"
        ))?;
        let calls: Vec<Call> =
            (0..4).map(|_| Call::dial(lab.host("client"), published(lab, "n1")?)).collect::<Result<_>>()?;
        ensure!(to(&calls, "late").count() == 1, "late has no connection");
        let output = node.meshctl_output("detach late --drain --timeout 1s")?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success() && told.contains("is not drained after 1 s: 1 flow is left"),
            "{told}"
        );
        drop(calls);
        drop(others);
        let output = node.meshctl_output("detach web.1 --drain --timeout 1s")?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && told.contains("stands in the file"), "{told}");
        let weight = node.meshctl("backends ls web")?[0]["weight"].clone();
        ensure!(weight == 1, "web.1 has the weight {weight}");
        Ok(())
    })
}
