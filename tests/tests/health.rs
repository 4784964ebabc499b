//! Health checks: who is not well gets no new connection and keeps those that live, and comes back.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Call, Greeter, Host, Lab, Mesh, NameServer, ask_udp, eventually};
use serde_json::{Value, json};

const INTERVAL: Duration = Duration::from_millis(400);
const RISE: u32 = 2;
const FALL: u32 = 3;
/// What a machine with other things to do may need beyond the time that is promised.
const SLACK: Duration = Duration::from_secs(1);
/// How long nodes that have just started take to find one another and attach their tasks, at most.
const TOGETHER: Duration = Duration::from_secs(20);
/// The status of a server that hears and says nothing.
const SILENT: u16 = 0;

/// A server that answers each request with the status that it has at the moment.
struct Healthz {
    status: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Healthz {
    fn start(host: &Host, address: &str, status: u16) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let listener = host.namespace.inside(|| TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let (status, stop) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicBool::new(false)));
        let (says, stopped) = (Arc::clone(&status), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut unanswered = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let status = says.load(Ordering::Relaxed);
                if status == SILENT {
                    unanswered.push(stream);
                    continue;
                }
                unanswered.clear();
                // Who asks breaks off if he likes.
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 4096]);
                let _ = write!(stream, "HTTP/1.1 {status} As told\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Ok(Self { status, stop, thread: Some(thread) })
    }

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }
}

impl Drop for Healthz {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Nodes with the service `web`, which has no tasks yet, and a check of them.
fn service(nodes: u8, check: Value) -> Mesh {
    let mut check = check;
    check["interval"] = json!("400ms");
    check["timeout"] = json!("200ms");
    check["rise"] = json!(RISE);
    check["fall"] = json!(FALL);
    Mesh::new(nodes)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service("web", "blue", "10.0.9.2", "rr", &["9200:80"])
        .health_check(check)
        .task("tool", "n1", "blue", "10.0.9.40")
}

/// Two tasks of `web` on `n1`, and a check of them.
fn mesh(check: Value) -> Mesh {
    service(2, check).backend("web", "web.1", "n1", "blue", "10.0.9.11").backend(
        "web",
        "web.2",
        "n1",
        "blue",
        "10.0.9.12",
    )
}

fn http() -> Mesh {
    mesh(get())
}

fn get() -> Value {
    json!({ "http": "/healthz", "port": 8080 })
}

/// A cluster whose `n1` has no task of `web`: it knows of them by what the others tell.
fn cluster() -> Mesh {
    service(3, get()).cluster().backend("web", "web.1", "n2", "blue", "10.0.9.11").backend(
        "web",
        "web.2",
        "n3",
        "blue",
        "10.0.9.12",
    )
}

fn greet(lab: &Lab) -> Result<Vec<Greeter>> {
    let greeter =
        |number| Greeter::start(lab.host(&format!("web.{number}")), format!("10.0.9.1{number}:80").parse()?);
    (1..=2).map(greeter).collect()
}

fn healthz(lab: &Lab) -> Result<[Healthz; 2]> {
    Ok([
        Healthz::start(lab.host("web.1"), "10.0.9.11:8080", 200)?,
        Healthz::start(lab.host("web.2"), "10.0.9.12:8080", 200)?,
    ])
}

fn backend(lab: &Lab, name: &str) -> Result<Value> {
    let backends = lab.node("n1").meshctl("backends ls web")?;
    let found = backends.as_array().context("no list")?.iter().find(|entry| entry["endpoint"] == name);
    found.cloned().with_context(|| format!("{name} is not listed"))
}

/// A backend comes to be so in time, as its node tells.
fn becomes(lab: &Lab, name: &str, state: &str, within: Duration) -> Result<Value> {
    eventually(&format!("{name} is {state}"), within, || {
        let health = backend(lab, name)?["health"].clone();
        ensure!(health["is"] == state, "{name} is {health}");
        Ok(health)
    })
}

fn dial(lab: &Lab, node: &str) -> Result<Call> {
    Call::dial(lab.host("client"), SocketAddr::new(lab.mesh().address_v4(node)?, 9200))
}

/// Whom new connections reach, by a node's port and from a task by the virtual IP.
fn reached(lab: &Lab) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(dial(lab, "n1")?.server().to_owned());
        names.push(Call::dial(lab.host("tool"), "10.0.9.2:80".parse()?)?.server().to_owned());
    }
    Ok(names)
}

/// New connections come to reach these backends and no others, in time.
fn reaches(lab: &Lab, expected: &[&str], within: Duration) -> Result<()> {
    eventually(&format!("new connections reach {expected:?}"), within, || {
        let names = reached(lab)?;
        let right = expected.iter().all(|name| names.iter().any(|reached| reached == name))
            && names.iter().all(|reached| expected.contains(&reached.as_str()));
        ensure!(right, "they reach {names:?}");
        Ok(())
    })
}

/// Connections by the published port and by the virtual IP, some of them to `web.1`.
fn calls(lab: &Lab) -> Result<Vec<Call>> {
    let mut calls: Vec<Call> = (0..6).map(|_| dial(lab, "n1")).collect::<Result<_>>()?;
    let vip = "10.0.9.2:80".parse()?;
    calls.extend((0..4).map(|_| Call::dial(lab.host("tool"), vip)).collect::<Result<Vec<_>>>()?);
    let to_first = calls.iter().filter(|call| call.server() == "web.1").count();
    ensure!(to_first >= 4, "web.1 has {to_first} connections");
    Ok(calls)
}

#[test]
fn a_sick_task_leaves_and_keeps_its_connections_and_comes_back() -> Result<()> {
    http().test(|lab| {
        let _servers = greet(lab)?;
        let [first, _second] = healthz(lab)?;
        reaches(lab, &["web.1", "web.2"], Duration::from_secs(10))?;
        let mut calls = calls(lab)?;

        first.says(503);
        let since = Instant::now();
        reaches(lab, &["web.2"], INTERVAL * FALL + SLACK)?;
        ensure!(since.elapsed() > INTERVAL * (FALL - 1), "it left after {:?}: too soon", since.elapsed());
        let told = backend(lab, "web.1")?;
        ensure!(told["weight"] == 1 && told["health"]["is"] == "unhealthy", "{told}");
        let why = told["health"]["why"].as_str().unwrap_or_default().to_owned();
        ensure!(why == "GET /healthz on 10.0.9.11:8080 was answered with 503 Service Unavailable", "{why}");
        calls.iter_mut().try_for_each(Call::talk)?;

        let status = lab.node("n1").meshctl("status")?["problems"].to_string();
        ensure!(status.contains("endpoint web.1") && status.contains(&why), "{status}");
        let told = lab.node("n1").meshctl_text("endpoints inspect web.1")?;
        ensure!(told.contains("health") && told.contains("unhealthy for ") && told.contains(&why), "{told}");
        let told = lab.node("n1").meshctl_text("services ps web")?;
        ensure!(told.contains("unhealthy ") && told.contains("HEALTH"), "{told}");
        let told = lab.node("n1").meshctl_text("services inspect web")?;
        ensure!(
            told.contains("GET /healthz on port 8080, every 400ms, timeout 200ms, rise 2, fall 3"),
            "{told}"
        );
        ensure!(lab.node("n1").log_text()?.contains("unhealthy: it takes no new flow"), "the log is silent");
        let answer = lab.host("tool").namespace.exec("dig +short +tries=1 +time=4 tasks.web @10.0.9.1")?;
        ensure!(answer == "10.0.9.12\n", "names lead to {answer}");
        // Another node does not learn of it without a cluster, and says so; but what it brings to a sick task goes on to one
        // that is well, since the task's own node knows better.
        let elsewhere = lab.node("n2").meshctl("backends ls web")?;
        ensure!(elsewhere[0]["health"].is_null(), "{elsewhere}");
        for _ in 0..8 {
            let call = dial(lab, "n2")?;
            ensure!(call.server() == "web.2", "n2 brought a new connection to {}", call.server());
        }

        first.says(200);
        let since = Instant::now();
        reaches(lab, &["web.1", "web.2"], INTERVAL * RISE + SLACK)?;
        ensure!(
            since.elapsed() > INTERVAL * (RISE - 1),
            "it came back after {:?}: too soon",
            since.elapsed()
        );
        calls.iter_mut().try_for_each(Call::talk)?;
        let status = lab.node("n1").meshctl("status")?["problems"].to_string();
        ensure!(status == "[]", "{status}");
        Ok(())
    })
}

#[test]
fn who_does_not_answer_in_time_is_sick() -> Result<()> {
    http().test(|lab| {
        let _servers = greet(lab)?;
        let [first, _second] = healthz(lab)?;
        reaches(lab, &["web.1", "web.2"], Duration::from_secs(10))?;
        first.says(SILENT);
        reaches(lab, &["web.2"], INTERVAL * (FALL + 1) + SLACK)?;
        let why = becomes(lab, "web.1", "unhealthy", SLACK)?["why"].clone();
        ensure!(why == "GET /healthz on 10.0.9.11:8080 was not answered within 200ms", "{why}");
        // A redirection is an answer.
        first.says(302);
        reaches(lab, &["web.1", "web.2"], INTERVAL * (RISE + 1) + SLACK)
    })
}

#[test]
fn a_task_takes_nothing_until_its_port_is_open_and_without_tasks_all_is_refused() -> Result<()> {
    mesh(json!({ "tcp": 80 })).test(|lab| {
        let node = lab.node("n1");
        let refused = |lab: &Lab| {
            let (begin, error) = (Instant::now(), dial(lab, "n1").err().context("somebody answers")?);
            ensure!(begin.elapsed() < SLACK, "it took {:?}: {error:#}", begin.elapsed());
            ensure!(Call::dial(lab.host("tool"), "10.0.9.2:80".parse()?).is_err(), "somebody answers");
            Ok(())
        };
        for name in ["web.1", "web.2"] {
            becomes(lab, name, "starting", SLACK)?;
        }
        refused(lab)?;
        ensure!(node.dropped("no_backend")? > 0, "n1 does not tell why");
        let why = node.meshctl_text("explain --from 192.0.2.101:4000 --to 192.0.2.1:9200")?;
        ensure!(why.contains("no backend of web with an IPv4 address takes new flows: web.1 is "), "{why}");

        let second = Greeter::start(lab.host("web.2"), "10.0.9.12:80".parse()?)?;
        // One that starts is asked more often, so that it need not wait.
        reaches(lab, &["web.2"], INTERVAL * 2 + SLACK)?;
        let why = becomes(lab, "web.1", "unhealthy", INTERVAL * (FALL + 1) + SLACK)?["why"].clone();
        ensure!(why == "nothing listens on 10.0.9.11:80", "{why}");
        let _first = Greeter::start(lab.host("web.1"), "10.0.9.11:80".parse()?)?;
        reaches(lab, &["web.1", "web.2"], INTERVAL * (RISE + 1) + SLACK)?;
        drop(second);
        reaches(lab, &["web.1"], INTERVAL * (FALL + 1) + SLACK)?;
        Ok(())
    })
}

#[test]
fn a_command_decides_and_only_the_file_may_name_one() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("mesh-health-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let script = format!(
        "test -e {}/$MESH_ENDPOINT && ip addr show eth0 | grep -q $MESH_ADDRESS/24",
        directory.display()
    );
    let check = json!({ "command": ["sh", "-c", script] });
    let outcome = mesh(check).test(|lab| {
        let _servers = greet(lab)?;
        fs::write(directory.join("web.1"), "")?;
        fs::write(directory.join("web.2"), "")?;
        reaches(lab, &["web.1", "web.2"], Duration::from_secs(10))?;
        fs::remove_file(directory.join("web.2"))?;
        reaches(lab, &["web.1"], INTERVAL * (FALL + 1) + SLACK)?;
        let why = becomes(lab, "web.2", "unhealthy", SLACK)?["why"].clone();
        ensure!(why == "sh ended with 1", "{why}");
        fs::write(directory.join("web.2"), "")?;
        reaches(lab, &["web.1", "web.2"], INTERVAL * (RISE + 1) + SLACK)?;

        let body = r#"{"name": "evil", "networks": ["blue"], "health_check": {"command": ["true"]}}"#;
        let socket = lab.node("n1").socket().display().to_string();
        let output = std::process::Command::new("curl")
            .args(["-sS", "--unix-socket", &socket, "-d", body, "http://meshd/v1/services"])
            .output()?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(told.contains("must stand in the file of each node that runs it"), "{told}");
        let made = lab.node("n1").meshctl(
            "services create more --network blue --health-http 8080/healthz --health-interval 5s --health-fall 1",
        )?;
        let expected = json!({ "http": "/healthz", "port": 8080, "interval": "5s", "timeout": "1s", "rise": 2, "fall": 1 });
        ensure!(made["health_check"] == expected, "{made}");
        let wrong = lab.node("n1").meshctl_output(
            "services create wrong --network blue --health-tcp 80 --health-interval 1s --health-timeout 2s",
        )?;
        let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
        ensure!(told.contains("has a timeout of 2s, after its interval of 1s"), "{told}");
        Ok(())
    });
    fs::remove_dir_all(&directory)?;
    outcome
}

#[test]
fn a_new_daemon_knows_who_was_well() -> Result<()> {
    http().test(|lab| {
        let _servers = greet(lab)?;
        let [first, second] = healthz(lab)?;
        reaches(lab, &["web.1", "web.2"], Duration::from_secs(10))?;
        first.says(503);
        becomes(lab, "web.1", "unhealthy", INTERVAL * (FALL + 1) + SLACK)?;
        thread::sleep(Duration::from_millis(1_100));
        // It ends as in a crash; meanwhile both change their minds.
        lab.node_mut("n1").kill()?;
        first.says(200);
        second.says(503);
        lab.node_mut("n1").start()?;
        let (one, two) = (backend(lab, "web.1")?, backend(lab, "web.2")?);
        ensure!(one["health"]["is"] == "unhealthy" && two["health"]["is"] == "healthy", "{one} {two}");
        ensure!(one["health"]["seconds"].as_u64() >= Some(1), "it is not new: {one}");
        ensure!(dial(lab, "n1")?.server() == "web.2", "web.1 has shown nothing yet");
        // They are believed when they have shown it as often as others must.
        reaches(lab, &["web.1"], INTERVAL * (FALL + 1) + SLACK)?;

        // Another task of the name is somebody else, however well the last one was.
        drop(first);
        lab.recreate_host("web.1")?;
        let why = becomes(lab, "web.1", "starting", INTERVAL * FALL + SLACK)?;
        ensure!(dial(lab, "n1").is_err(), "web.1 is {why}, and somebody answers");
        Ok(())
    })
}

#[test]
fn a_check_that_is_added_later_empties_no_ring() -> Result<()> {
    let mut mesh = http();
    let check = mesh.services.last_mut().and_then(|service| service.health_check.take());
    mesh.test(|lab| {
        let _servers = greet(lab)?;
        let _healthz = Healthz::start(lab.host("web.2"), "10.0.9.12:8080", 200)?;
        ensure!(backend(lab, "web.1")?["health"].is_null(), "nobody asks it");
        lab.reconfigure(|mesh| {
            if let Some(service) = mesh.services.last_mut() {
                service.health_check = check;
            }
        })?;
        let begin = Instant::now();
        let mut left = None;
        while begin.elapsed() < INTERVAL * (FALL + 1) + 2 * SLACK {
            // Whoever asks is answered at each moment.
            let name = dial(lab, "n1")?.server().to_owned();
            left = if name == "web.1" { None } else { left.or(Some(Instant::now())) };
        }
        ensure!(
            left.is_some_and(|left| left.elapsed() > Duration::from_millis(500)),
            "web.1 has no health to show"
        );
        Ok(())
    })
}

#[test]
fn datagrams_do_not_stay_with_a_sick_task() -> Result<()> {
    http().port(json!({ "published": 53, "target": 5353, "protocol": "udp" })).test(|lab| {
        let [first, second] = healthz(lab)?;
        let _servers = [
            NameServer::start(lab.host("web.1"), "10.0.9.11:5353".parse()?)?,
            NameServer::start(lab.host("web.2"), "10.0.9.12:5353".parse()?)?,
        ];
        for name in ["web.1", "web.2"] {
            becomes(lab, name, "healthy", Duration::from_secs(10))?;
        }
        let at = SocketAddr::new(lab.mesh().address_v4("n1")?, 53);
        let ask = || ask_udp(lab.host("client"), at, [4_000].into_iter()).map(|answers| answers.concat());
        let had = ask()?;
        ensure!(ask()? == had, "a flow has one backend");
        let (sick, other) = if had == "web.1" { (first, "web.2") } else { (second, "web.1") };
        sick.says(503);
        becomes(lab, &had, "unhealthy", INTERVAL * (FALL + 1) + SLACK)?;
        // It never pauses for as long as would end a flow of its kind, and goes elsewhere when flows are next looked at, all the same.
        eventually("another answers", Duration::from_secs(25), || {
            let name = ask()?;
            ensure!(name == other, "{name} answers");
            Ok(())
        })
    })
}

/// Which backends a node's own ring has. Whom a request reaches does not tell: a node that gets one for a sick task of its own
/// sends it on.
fn ring(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let (from, to) = (lab.mesh().address_v4("client")?, lab.mesh().address_v4(node)?);
    let told = lab.node(node).meshctl(&format!("explain --from {from} --to {to}:9200"))?;
    let shares = told["choice"]["shares"].as_array().with_context(|| format!("no shares: {told}"))?;
    let mut names: Vec<String> =
        shares.iter().filter_map(|share| share["backend"].as_str()).map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// The nodes' rings come to have these backends and no others, in time; returns when the last of them had.
fn rings_have(lab: &Lab, nodes: &[&str], expected: &[&str], within: Duration) -> Result<Instant> {
    eventually(&format!("the rings of {nodes:?} have {expected:?}"), within, || {
        for node in nodes {
            let has = ring(lab, node)?;
            ensure!(has == expected, "the ring of {node} has {has:?}");
        }
        Ok(Instant::now())
    })
}

#[test]
fn other_nodes_leave_out_a_sick_task_and_take_it_back() -> Result<()> {
    const NODES: [&str; 3] = ["n1", "n2", "n3"];
    cluster().test(|lab| {
        // A task of a cluster's is attached when its node has heard the others.
        let _servers = eventually("the tasks are attached", TOGETHER, || greet(lab))?;
        let [first, _second] = healthz(lab)?;
        rings_have(lab, &NODES, &["web.1", "web.2"], TOGETHER)?;
        reaches(lab, &["web.1", "web.2"], Duration::from_secs(5))?;
        let mut calls = calls(lab)?;

        first.says(503);
        let since = Instant::now();
        let left = rings_have(lab, &NODES, &["web.2"], INTERVAL * FALL + SLACK)? - since;
        ensure!(left > INTERVAL * (FALL - 1), "it left after {left:?}: too soon");
        println!("web.1 was sick, and out of each node's ring after {left:?}");
        let told = backend(lab, "web.1")?;
        ensure!(told["weight"] == 1 && told["health"]["is"] == "unhealthy", "{told}");
        let why = told["health"]["why"].as_str().unwrap_or_default().to_owned();
        ensure!(why == "GET /healthz on 10.0.9.11:8080 was answered with 503 Service Unavailable", "{why}");
        let table = lab.node("n1").meshctl_text("backends ls web")?;
        ensure!(table.contains("unhealthy "), "{table}");
        let status = lab.node("n1").meshctl("status")?["problems"].to_string();
        ensure!(status.contains("endpoint web.1") && status.contains(&why), "{status}");
        for _ in 0..5 {
            calls.iter_mut().try_for_each(Call::talk).context("a connection to the sick task broke")?;
            let names = reached(lab)?;
            ensure!(!names.contains(&"web.1".to_owned()), "the sick task was reached: {names:?}");
            thread::sleep(INTERVAL / 2);
        }

        first.says(200);
        let since = Instant::now();
        let back = rings_have(lab, &NODES, &["web.1", "web.2"], INTERVAL * RISE + SLACK)? - since;
        ensure!(back > INTERVAL * (RISE - 1), "it came back after {back:?}: too soon");
        reaches(lab, &["web.1", "web.2"], SLACK)?;
        ensure!(backend(lab, "web.1")?["health"]["is"] == "healthy");
        calls.iter_mut().try_for_each(Call::talk)?;
        for node in NODES {
            let status = lab.node(node).meshctl("status")?["problems"].to_string();
            ensure!(status == "[]", "{node}: {status}");
        }
        Ok(())
    })
}

#[test]
fn a_new_task_elsewhere_takes_nothing_until_it_is_well() -> Result<()> {
    cluster().test(|lab| {
        let _servers = eventually("the tasks are attached", TOGETHER, || greet(lab))?;
        let _healthz = healthz(lab)?;
        rings_have(lab, &["n1"], &["web.1", "web.2"], TOGETHER)?;
        // It answers whoever comes, and says that it is not well.
        let task = lab.add_host("web.3")?;
        let _server = Greeter::start(task, "0.0.0.0:80".parse()?)?;
        let own = Healthz::start(task, "0.0.0.0:8080", 503)?;
        let netns = lab.namespace_name("web.3");
        let attach =
            format!("attach --network blue --netns {netns} --service web --address 10.0.9.13 --name web.3");
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let asking = scope.spawn(|| -> Result<usize> {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let call = dial(lab, "n1").context("somebody was turned away")?;
                    ensure!(call.server() != "web.3", "web.3 is not well, and got connection {count}");
                    count += 1;
                }
                Ok(count)
            });
            let watched = watch_the_new(lab, &attach);
            is_over.store(true, Ordering::Relaxed);
            let asked = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            watched?;
            let asked = asked?;
            ensure!(asked > 50, "{asked} connections show little");
            Ok(())
        })?;
        own.says(200);
        rings_have(lab, &["n1"], &["web.1", "web.2", "web.3"], INTERVAL * (RISE + 1) + SLACK)?;
        reaches(lab, &["web.1", "web.2", "web.3"], SLACK)
    })
}

/// Has `n2` attach the task `web.3`, which is not well, and looks at what `n1` makes of it until it has failed as often as it may.
fn watch_the_new(lab: &Lab, attach: &str) -> Result<()> {
    lab.node("n2").meshctl(attach)?;
    let end = Instant::now() + INTERVAL * (FALL + 1) + SLACK;
    let mut states = Vec::new();
    while Instant::now() < end {
        let ring = ring(lab, "n1")?;
        ensure!(!ring.contains(&"web.3".to_owned()), "n1 gives it new connections: {ring:?}");
        if let Ok(told) = backend(lab, "web.3") {
            let health = &told["health"];
            let seconds = health["seconds"].as_u64().with_context(|| format!("no health: {told}"))?;
            ensure!(seconds < 30, "it has not been there for so long: {told}");
            states.push(health["is"].as_str().unwrap_or_default().to_owned());
        }
    }
    states.dedup();
    ensure!(states == ["starting", "unhealthy"], "n1 said that it was {states:?}");
    let why = backend(lab, "web.3")?["health"]["why"].clone();
    ensure!(
        why == "GET /healthz on 10.0.9.13:8080 was answered with 503 Service Unavailable",
        "n1 tells why: {why}"
    );
    Ok(())
}
