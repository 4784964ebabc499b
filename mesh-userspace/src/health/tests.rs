//! Any answers at any time, held against what is promised; and every kind of check on real namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    num::{NonZeroU8, NonZeroU16},
    path::PathBuf,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    checks::{Begun, Checks, MOST_COMMANDS, MOST_SOCKETS, Now, Outcome, Target},
    commands, targets,
};
use crate::{
    config,
    spec::resolve,
    table::{HealthCheck, HealthState, Period, Probe},
};

const INTERVAL: Duration = Duration::from_secs(2);

fn target(n: usize, rise: u8, fall: u8) -> Target {
    Target {
        service: "web".to_owned(),
        address: IpAddr::from([10, 0, (n >> 8) as u8, n as u8]),
        netns: PathBuf::from(format!("/run/netns/{n}")),
        check: HealthCheck {
            probe: Probe::Tcp { port: NonZeroU16::MIN },
            interval: Period::from_millis(2_000),
            timeout: Period::from_millis(1_000),
            rise: NonZeroU8::new(rise).unwrap(),
            fall: NonZeroU8::new(fall).unwrap(),
        },
        forbidden: None,
        took_flows: false,
    }
}

fn at(monotonic: Duration) -> Now {
    Now { monotonic, wall: 1_000 + monotonic.as_secs() }
}

fn well(task: u64) -> Outcome {
    Outcome { task: Some(task), failure: None }
}

fn ill(task: u64) -> Outcome {
    Outcome { task: Some(task), failure: Some("it says no".to_owned()) }
}

fn gone() -> Outcome {
    Outcome { task: None, failure: Some("there is no namespace".to_owned()) }
}

/// One task, checked as time goes by.
struct One {
    checks: Checks,
    now: Duration,
}

impl One {
    fn new(target: Target) -> Self {
        let mut one = Self { checks: Checks::default(), now: Duration::ZERO };
        one.follow(target);
        one
    }

    fn follow(&mut self, target: Target) {
        self.checks.follow(at(self.now), [("web.1".to_owned(), target)].into());
    }

    fn begin(&mut self) -> Begun {
        self.now = self.checks.next().unwrap().max(self.now);
        self.checks.begin(self.now).unwrap()
    }

    fn hear(&mut self, outcome: Outcome) -> HealthState {
        let begun = self.begin();
        let before = self.state();
        let changed = self.checks.finish(at(self.now), &begun, outcome);
        assert_eq!(changed.map_or(before, |change| change.health.state), self.state());
        self.state()
    }

    fn state(&self) -> HealthState {
        self.checks.healths()["web.1"].state
    }

    fn reason(&self) -> Option<&str> {
        self.checks.healths()["web.1"].reason.as_deref()
    }
}

use HealthState::{Healthy, Starting, Unhealthy};

#[test]
fn a_task_starts_falls_and_rises() {
    let mut one = One::new(target(1, 2, 3));
    assert_eq!(one.state(), Starting);
    assert_eq!(one.hear(ill(7)), Starting);
    assert_eq!(one.reason(), Some("it says no"));
    assert_eq!(one.hear(well(7)), Healthy);
    assert_eq!(one.reason(), None);
    let answers = [ill(7), ill(7), well(7), ill(7), ill(7), ill(7), well(7), ill(7), well(7), well(7)];
    let states: Vec<_> = answers.into_iter().map(|answer| one.hear(answer)).collect();
    assert_eq!(
        states,
        [Healthy, Healthy, Healthy, Healthy, Healthy, Unhealthy, Unhealthy, Unhealthy, Unhealthy, Healthy]
    );
    assert_eq!(one.reason(), None);
}

#[test]
fn why_a_task_is_unhealthy_is_known_until_it_is_well() {
    let mut one = One::new(target(1, 2, 1));
    one.hear(well(7));
    one.hear(ill(7));
    assert_eq!((one.hear(well(7)), one.reason()), (Unhealthy, Some("it says no")));
}

#[test]
fn one_that_starts_is_asked_often_and_not_for_ever() {
    let mut one = One::new(target(1, 2, 3));
    let mut asked = 0;
    while one.hear(ill(7)) == Starting {
        asked += 1;
        assert!(one.now < 3 * INTERVAL);
    }
    assert_eq!((asked, one.state()), (12, Unhealthy));
    // Then as any other.
    let before = one.now;
    one.hear(ill(7));
    one.hear(ill(7));
    assert!(one.now - before > INTERVAL);
}

#[test]
fn another_task_of_the_name_must_show_that_it_is_well() {
    for (what, answer, after) in
        [("another", ill(8), Starting), ("another, and well", well(8), Healthy), ("none", gone(), Starting)]
    {
        let mut one = One::new(target(1, 2, 3));
        one.hear(well(7));
        assert_eq!(one.hear(answer), after, "{what}");
    }
    let mut one = One::new(target(1, 2, 3));
    one.hear(well(7));
    one.hear(gone());
    assert_eq!(one.hear(well(7)), Healthy);
    // However long there is none, it is not unhealthy: nobody is there who could be.
    for _ in 0..100 {
        assert_eq!(one.hear(gone()), Starting);
    }
}

#[test]
fn a_new_way_to_check_leaves_the_state_and_another_task_does_not() {
    let mut one = One::new(target(1, 2, 3));
    one.hear(well(7));
    one.follow(target(1, 2, 1));
    assert_eq!(one.state(), Healthy);
    assert_eq!(one.hear(ill(7)), Unhealthy);
    one.follow(target(2, 2, 1));
    assert_eq!(one.state(), Starting);
    // Who took flows already goes on, until the checks say otherwise.
    let mut one = One::new(Target { took_flows: true, ..target(1, 2, 3) });
    assert_eq!(one.state(), Healthy);
    assert_eq!([ill(7), ill(7), ill(7)].map(|answer| one.hear(answer)), [Healthy, Healthy, Unhealthy]);
}

#[test]
fn what_may_not_be_checked_is_unhealthy_and_never_asked() {
    let mut one = One::new(Target { forbidden: Some("not here"), took_flows: true, ..target(1, 1, 1) });
    assert_eq!((one.state(), one.reason(), one.checks.next()), (Unhealthy, Some("not here"), None));
    one.follow(target(1, 1, 1));
    assert_eq!(one.hear(well(7)), Healthy);
}

#[test]
fn an_answer_to_an_earlier_question_counts_for_nothing() {
    let mut one = One::new(target(1, 2, 3));
    let old = one.begin();
    one.follow(target(2, 2, 3));
    let new = one.begin();
    assert!(one.checks.finish(at(one.now), &old, well(7)).is_none());
    assert_eq!(one.state(), Starting);
    one.checks.finish(at(one.now), &new, well(7));
    assert_eq!(one.state(), Healthy);
    one.checks.follow(at(one.now), BTreeMap::new());
    assert!(one.checks.healths().is_empty() && one.checks.next().is_none());
}

#[test]
fn a_restart_keeps_what_was_known_of_the_same_tasks() {
    let mut one = One::new(target(1, 2, 3));
    assert!(one.checks.take_unkept().is_none());
    for answer in [well(7), ill(7), ill(7), ill(7)] {
        one.hear(answer);
    }
    let kept = one.checks.take_unkept().unwrap();
    assert!(one.checks.take_unkept().is_none(), "it is kept already");
    let text = serde_json::to_string(&kept).unwrap();
    let again = |target: Target| {
        let mut checks = Checks::new(serde_json::from_str(&text).unwrap());
        checks.follow(at(Duration::ZERO), [("web.1".to_owned(), target)].into());
        One { checks, now: Duration::ZERO }
    };
    let mut same = again(target(1, 2, 3));
    assert_eq!((same.state(), same.reason()), (Unhealthy, Some("it says no")));
    assert_eq!([well(7), well(7)].map(|answer| same.hear(answer)), [Unhealthy, Healthy]);
    assert_eq!(again(target(2, 2, 3)).state(), Starting, "another address");
    assert_eq!(again(target(1, 2, 3)).hear(well(8)), Healthy, "another task begins anew");
    // Who comes later is somebody else.
    let mut later = again(target(1, 2, 3));
    later.checks.follow(at(Duration::ZERO), BTreeMap::new());
    later.follow(target(1, 2, 3));
    assert_eq!(later.state(), Starting);
}

#[test]
fn thousands_have_their_turns_one_after_the_other() {
    const TASKS: usize = 5_000;
    let mut checks = Checks::default();
    let wanted = (0..TASKS).map(|n| (format!("web.{n}"), target(n, 2, 3)));
    checks.follow(at(Duration::ZERO), wanted.collect());
    let mut now = Duration::ZERO;
    // All are asked at once at the beginning, but no more than there is room for.
    let mut first = BTreeSet::new();
    while first.len() < TASKS {
        let mut begun = Vec::new();
        while let Some(next) = checks.begin(now) {
            begun.push(next);
        }
        assert!((1..=MOST_SOCKETS).contains(&begun.len()));
        assert!(begun.len() < MOST_SOCKETS || checks.next().is_none(), "there is no room for more");
        now += Duration::from_millis(1);
        for one in begun {
            first.insert(one.endpoint.clone());
            checks.finish(at(now), &one, well(7));
        }
    }
    // After that each has its own moment: in a hundredth of the interval there are about a hundredth of them.
    now += 2 * INTERVAL;
    while let Some(one) = checks.begin(now) {
        checks.finish(at(now), &one, well(7));
    }
    let slice = INTERVAL / 100;
    let mut total = 0;
    for _ in 0..100 {
        now += slice;
        let mut count = 0;
        while let Some(one) = checks.begin(now) {
            checks.finish(at(now), &one, well(7));
            count += 1;
        }
        assert!(count < 4 * TASKS / 100, "{count} at once");
        total += count;
    }
    assert_eq!(total, TASKS, "each once in an interval");
}

#[test]
fn commands_have_their_own_room() {
    let mut checks = Checks::default();
    let wanted = (0..100).map(|n| {
        let mut target = target(n, 2, 3);
        if n % 2 == 0 {
            target.check.probe = Probe::Command(vec!["true".to_owned()]);
        }
        (format!("web.{n}"), target)
    });
    checks.follow(at(Duration::ZERO), wanted.collect());
    let begun: Vec<Begun> = std::iter::from_fn(|| checks.begin(Duration::ZERO)).collect();
    let is_command = |begun: &&Begun| matches!(begun.target.check.probe, Probe::Command(_));
    assert_eq!((begun.iter().filter(is_command).count(), begun.len()), (MOST_COMMANDS, 50 + MOST_COMMANDS));
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Fail(u64),
    Gone,
    Wait(u64),
    Check(u8, u8),
    Replace,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (7u64..9).prop_map(Event::Pass),
        6 => (7u64..9).prop_map(Event::Fail),
        1 => Just(Event::Gone),
        2 => (0u64..5_000).prop_map(Event::Wait),
        1 => (1u8..5, 1u8..5).prop_map(|(rise, fall)| Event::Check(rise, fall)),
        1 => Just(Event::Replace),
    ]
}

proptest! {
    /// Whatever comes, a task changes its state only for what is promised.
    #[test]
    fn a_state_changes_only_after_what_it_takes(events in prop::collection::vec(event(), 1..200)) {
        let (mut rise, mut fall, mut number) = (2u8, 3u8, 1usize);
        let mut one = One::new(target(number, rise, fall));
        // What was heard of the task that is there, the last first.
        let mut heard: Vec<bool> = Vec::new();
        let mut task = None;
        for event in events {
            let before = one.state();
            match event {
                Event::Wait(milliseconds) => {
                    one.now += Duration::from_millis(milliseconds);
                    continue;
                }
                Event::Check(more, less) => {
                    (rise, fall) = (more, less);
                    one.follow(target(number, rise, fall));
                    prop_assert_eq!(one.state(), before);
                    continue;
                }
                Event::Replace => {
                    number += 1;
                    one.follow(target(number, rise, fall));
                    prop_assert_eq!(one.state(), Starting);
                    (task, heard) = (None, Vec::new());
                    continue;
                }
                Event::Gone => {
                    prop_assert_eq!(one.hear(gone()), Starting);
                    (task, heard) = (None, Vec::new());
                    continue;
                }
                Event::Pass(is) | Event::Fail(is) => {
                    let passes = matches!(event, Event::Pass(_));
                    if task.is_some_and(|was| was != is) {
                        heard.clear();
                    }
                    let before = if task.is_some_and(|was| was != is) { Starting } else { before };
                    task = Some(is);
                    heard.insert(0, passes);
                    let after = one.hear(if passes { well(is) } else { ill(is) });
                    let in_a_row = heard.iter().take_while(|heard| **heard == passes).count();
                    match (before, after) {
                        (Starting, Healthy) => prop_assert!(passes),
                        (Starting, Unhealthy) => prop_assert!(!passes && heard.iter().all(|passed| !passed)),
                        (Starting, Starting) => prop_assert!(!passes),
                        (Healthy, Unhealthy) => prop_assert!(!passes && in_a_row >= fall.into()),
                        (Unhealthy, Healthy) => prop_assert!(passes && in_a_row >= rise.into()),
                        (Healthy, Healthy) | (Unhealthy, Unhealthy) => {}
                        (_, Starting) => prop_assert!(false, "nobody starts anew without cause"),
                    }
                    prop_assert_eq!(one.checks.healths()["web.1"].takes_flows(), after == Healthy);
                }
            }
        }
        // And in the end whoever is well for long enough takes flows, and whoever is not does not.
        let last = task.unwrap_or(7);
        for _ in 0..5 {
            one.hear(well(last));
        }
        prop_assert_eq!(one.state(), Healthy);
        for _ in 0..5 {
            one.hear(ill(last));
        }
        prop_assert_eq!(one.state(), Unhealthy);
    }
}

#[test]
fn this_nodes_own_tasks_are_checked_as_their_service_says() {
    const FILE: &str = r#"
nodes: {n1: {address: 192.0.2.1}, n2: {address: 192.0.2.2}}
networks: {blue: {subnets: [10.0.9.0/24]}}
services:
  web: {networks: [blue], ports: ["80:8080"], health_check: {http: /}}
  queue: {networks: [blue], health_check: {command: [check, -x]}}
  plain: {networks: [blue]}
endpoints:
  - {name: web.1, node: n1, service: web, network: blue, netns: a}
  - {name: web.2, node: n2, service: web, network: blue, netns: b}
  - {name: web.3, node: n1, service: web, network: blue}
  - {name: queue.1, node: n1, service: queue, network: blue, netns: c}
  - {name: plain.1, node: n1, service: plain, network: blue, netns: d}
  - {name: alone, node: n1, network: blue, netns: e}
"#;
    let spec = |text: &str| config::parse("mesh.yaml", text.as_bytes()).unwrap().spec;
    let file = spec(FILE);
    let table = resolve(&file).unwrap();
    let wanted = targets(&table, None, "n1", &commands(&file));
    assert_eq!(
        wanted.keys().collect::<Vec<_>>(),
        ["queue.1", "web.1"],
        "the others have no check, or are not ours"
    );
    let web = &wanted["web.1"];
    assert_eq!((&*web.service, &web.netns), ("web", &PathBuf::from("/run/netns/a")));
    assert_eq!(web.check.probe, Probe::Http { port: NonZeroU16::new(8080).unwrap(), path: "/".to_owned() });
    assert!(wanted.values().all(|target| target.forbidden.is_none() && !target.took_flows));

    // A node whose own file does not say so runs no command.
    let other = spec(&FILE.replace("-x", "-y"));
    let wanted = targets(&table, None, "n1", &commands(&other));
    assert!(wanted["queue.1"].forbidden.is_some() && wanted["web.1"].forbidden.is_none());

    // Who took flows before there was a check, and nobody else, goes on.
    let before = resolve(&spec(&FILE.replace(", health_check: {http: /}", ""))).unwrap();
    let wanted = targets(&table, Some(&before), "n1", &commands(&file));
    assert_eq!([&wanted["web.1"], &wanted["queue.1"]].map(|target| target.took_flows), [true, false]);
    let before = resolve(&spec(
        &FILE.replace(", health_check: {http: /}", "").replace("{name: web.1,", "{name: web.9,"),
    ))
    .unwrap();
    assert!(!targets(&table, Some(&before), "n1", &commands(&file))["web.1"].took_flows);
}

mod real {
    //! Checks of a task in a namespace, whose loopback interface is down as `ip netns add` leaves it.

    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        sync::{Arc, Mutex},
        thread,
        time::Instant,
    };

    use super::{
        super::{Keeper, probe::Prober},
        *,
    };
    use crate::{agent::testing::Directory, scratch::Scratch, table::Endpoint};

    const ADDRESS: [u8; 4] = [10, 9, 9, 9];

    fn task() -> Scratch {
        let scratch = Scratch::new("task");
        scratch.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]);
        scratch.ip(&["addr", "add", "10.9.9.9/24", "dev", "eth0"]);
        scratch.ip(&["link", "set", "eth0", "up"]);
        scratch.ip(&["link", "set", "lo", "down"]);
        scratch
    }

    /// Serves connections in a task's namespace until the test's process ends.
    fn serve(task: &Scratch, port: u16, serve: impl Fn(TcpStream) + Send + 'static) {
        let address = SocketAddr::from((ADDRESS, port));
        let listener = task.namespace().run_blocking(|| TcpListener::bind(address)).unwrap().unwrap();
        thread::spawn(move || listener.incoming().flatten().for_each(serve));
    }

    fn answer(text: &'static str) -> impl Fn(TcpStream) {
        move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(text.as_bytes());
        }
    }

    async fn check(task: &Scratch, probe: Probe, milliseconds: u64) -> Outcome {
        let mut target = Target {
            address: ADDRESS.into(),
            netns: PathBuf::from("/run/netns").join(&task.0),
            ..target(1, 1, 1)
        };
        target.check.probe = probe;
        target.check.timeout = Period::from_millis(milliseconds);
        let mut checks = Checks::default();
        checks.follow(at(Duration::ZERO), [("web.1".to_owned(), target)].into());
        let begun = checks.begin(Duration::ZERO).unwrap();
        Prober::new().unwrap().check(&begun).await
    }

    fn http(port: u16) -> Probe {
        Probe::Http { port: NonZeroU16::new(port).unwrap(), path: "/healthz?deep=1".to_owned() }
    }

    fn tcp(port: u16) -> Probe {
        Probe::Tcp { port: NonZeroU16::new(port).unwrap() }
    }

    fn command(words: &[&str]) -> Probe {
        Probe::Command(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[tokio::test]
    async fn connections() {
        let task = task();
        serve(&task, 80, drop);
        let cookie = task.namespace().cookie().unwrap();
        assert_eq!(check(&task, tcp(80), 1_000).await, well(cookie));
        let refused = check(&task, tcp(81), 1_000).await;
        assert_eq!(refused.task, Some(cookie));
        assert_eq!(refused.failure.as_deref(), Some("nothing listens on 10.9.9.9:81"));
    }

    #[tokio::test]
    async fn http_statuses() {
        let task = task();
        for (port, text, expected) in [
            (80, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", None),
            (81, "HTTP/1.1 204 No Content\r\n\r\n", None),
            (82, "HTTP/1.0 302 Found\r\nLocation: http://198.51.100.1/\r\n\r\n", None),
            (
                83,
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000\r\n\r\n",
                Some("was answered with 503 Service Unavailable"),
            ),
            (84, "HTTP/1.1 404 Not Found\r\n\r\n", Some("was answered with 404 Not Found")),
            (85, "SSH-2.0-OpenSSH\r\n", Some("was not answered by HTTP: ")),
            (86, "", Some("was not answered by HTTP: ")),
            // A status is an answer, also of one who breaks off after it.
            (87, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", None),
        ] {
            serve(&task, port, answer(text));
            let outcome = check(&task, http(port), 1_000).await;
            match expected {
                None => assert_eq!(outcome.failure, None, "{text}"),
                Some(says) => {
                    let why = outcome.failure.unwrap();
                    assert!(
                        why.starts_with("GET /healthz?deep=1 on 10.9.9.9:8") && why.contains(says),
                        "{why}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn who_says_nothing_or_never_ends_has_failed_in_time() {
        let task = task();
        serve(&task, 80, |stream| {
            thread::sleep(Duration::from_secs(20));
            drop(stream);
        });
        // Headers without end.
        serve(&task, 81, |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X-Filler: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").is_ok() {}
        });
        // A body without end is no matter.
        serve(&task, 82, |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let began = Instant::now();
        let why = check(&task, http(80), 300).await.failure.unwrap();
        assert_eq!(why, "GET /healthz?deep=1 on 10.9.9.9:80 was not answered within 300ms");
        let why = check(&task, http(81), 1_000).await.failure.unwrap();
        assert!(why.contains("was not answered by HTTP"), "{why}");
        assert_eq!(check(&task, http(82), 1_000).await.failure, None);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn commands() {
        let task = task();
        serve(&task, 80, drop);
        let says =
            "test \"$MESH_ENDPOINT $MESH_SERVICE $MESH_ADDRESS $NOTIFY_SOCKET\" = 'web.1 web 10.9.9.9 '";
        let inside = "ip -4 addr show eth0 | grep -q 10.9.9.9/24";
        for (words, expected) in [
            (&["true"][..], None),
            (&["false"], Some("false ended with 1")),
            (&["sh", "-c", says], None),
            (&["sh", "-c", inside], None),
            (&["sh", "-c", "echo one; echo two >&2; echo; exit 3"], Some("sh ended with 3: two")),
            (&["sh", "-c", "kill -9 $$"], Some("sh was ended (signal: 9 (SIGKILL))")),
            (
                &["/nowhere/at/all"],
                Some("/nowhere/at/all could not be started: No such file or directory (os error 2)"),
            ),
            (&["sleep", "20"], Some("sleep did not end within 700ms, and was killed")),
            // A great deal of output holds nothing up.
            (&["sh", "-c", "head -c 3000000 /dev/zero; exit 0"], None),
        ] {
            let outcome = check(&task, command(words), 700).await;
            assert_eq!(outcome.failure.as_deref(), expected, "{words:?}");
            assert_eq!(outcome.task, Some(task.namespace().cookie().unwrap()));
        }
    }

    #[tokio::test]
    async fn nothing_of_a_command_is_left_behind() {
        let task = task();
        for (script, milliseconds) in
            [("sleep 4711 & sleep 4711", 300), ("sleep 4711 & exit 0", 5_000), ("sleep 4711 & exit 1", 5_000)]
        {
            let began = Instant::now();
            check(&task, command(&["sh", "-c", script]), milliseconds).await;
            assert!(
                began.elapsed() < Duration::from_secs(3),
                "{script}: it waited for a child of the command"
            );
        }
        // Killed processes are gone a moment later.
        let inside = || crate::scratch::run(&["netns", "pids", &task.0]);
        let began = Instant::now();
        while !inside().trim().is_empty() && began.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(inside(), "");
    }

    #[tokio::test]
    async fn a_namespace_that_is_not_there() {
        let scratch = task();
        let name = Scratch(format!("{}-not", scratch.0));
        let outcome = check(&name, tcp(80), 1_000).await;
        assert_eq!(outcome.task, None);
        assert!(outcome.failure.unwrap().contains("does not exist"));
        std::mem::forget(name);
    }

    /// Many tasks, every other of which says nothing: all are asked, and what is known is there again after a restart.
    #[tokio::test]
    async fn many_are_asked_and_those_who_are_silent_hold_nobody_up() {
        const TASKS: usize = 400;
        let task = task();
        let directory = Directory::new();
        serve(&task, 80, answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        let silent = Mutex::new(Vec::new());
        serve(&task, 81, move |stream| silent.lock().unwrap().push(stream));
        let mut text = "nodes: {n1: {address: 192.0.2.1}}\nnetworks: {blue: {subnets: [10.8.0.0/16]}}\nservices:\n  \
                        well: {networks: [blue], health_check: {http: /, port: 80, interval: 1s, timeout: 900ms}}\n  \
                        silent: {networks: [blue], health_check: {http: /, port: 81, interval: 1s, timeout: 200ms, fall: 1}}\n\
                        endpoints:\n"
            .to_owned();
        for n in 0..TASKS {
            let service = if n % 2 == 0 { "well" } else { "silent" };
            let line = format!("{{name: t{n}, node: n1, service: {service}, network: blue, netns: t{n}}}");
            text.push_str(&format!("  - {line}\n"));
        }
        let file = config::parse("mesh.yaml", text.as_bytes()).unwrap().spec;
        let mut table = resolve(&file).unwrap();
        // They are all in the one namespace, which has one address.
        let here = |(name, endpoint): (&String, &Endpoint)| {
            let netns = Some(PathBuf::from("/run/netns").join(&task.0));
            (name.clone(), Endpoint { addresses: vec![ADDRESS.into()], netns, ..endpoint.clone() })
        };
        table.endpoints = table.endpoints.iter().map(here).collect();
        let (table, commands) = (Arc::new(table), Arc::default());
        let kept = super::super::file(directory.path(), "n1");
        let mut keeper = Keeper::open(kept.clone());
        let (healths, first) = keeper.follow(&table, "n1", &commands);
        assert!(healths.len() == TASKS && healths.values().all(|health| health.state == Starting));
        keeper.start().unwrap();
        let began = Instant::now();
        let healths = loop {
            keeper.changed().await;
            let (healths, number) = keeper.follow(&table, "n1", &commands);
            assert!(number > first);
            if healths.values().all(|health| health.state != Starting) {
                break healths;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{healths:?}");
        };
        for (name, health) in &healths {
            let expected =
                if table.endpoints[name].service.as_deref() == Some("well") { Healthy } else { Unhealthy };
            assert_eq!(health.state, expected, "{name}: {health:?}");
        }
        keeper.stop().await;
        let (again, _) = Keeper::open(kept).follow(&table, "n1", &commands);
        assert_eq!(again, healths);
    }
}
