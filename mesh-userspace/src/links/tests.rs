//! The interfaces in namespaces of their own: made, spoilt, mended and removed.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use tokio::time::timeout;

use super::*;
use crate::scratch::{Scratch, run};

fn endpoint(task: &Scratch) -> EndpointLink {
    EndpointLink {
        name: "mesh00c0ffee".into(),
        peer_mac: [0x02, 0x42, 10, 0, 9, 11],
        netns: PathBuf::from(&task.0),
        addresses: vec!["10.0.9.11/24".parse().unwrap(), "fd00:9::a00:90b/64".parse().unwrap()],
        routes: vec!["10.0.8.0/24".parse().unwrap(), "fd00:8::/64".parse().unwrap()],
        gateways: vec!["10.0.9.1".parse().unwrap(), "fd00:9::1".parse().unwrap()],
        default_route: true,
        mtu: 1450,
        alias: "search.1".into(),
    }
}

/// Everything that the mesh says of a task's interface, read by the tool that people read it with.
fn assert_task_is_right(task: &Scratch, interface: &str) {
    assert_aggregates_are_limited(task, interface);
    let link = task.ip(&["link", "show", interface]);
    assert!(link.contains("mtu 1450") && link.contains(",UP"), "{link}");
    assert!(link.contains("02:42:0a:00:09:0b"), "{link}");
    let addresses = task.ip(&["-o", "address", "show", interface]);
    assert!(addresses.contains("inet 10.0.9.11/24"), "{addresses}");
    assert!(addresses.contains("inet6 fd00:9::a00:90b/64"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
    let route = task.ip(&["route", "show", "default"]);
    assert_eq!(route.trim(), format!("default via 10.0.9.1 dev {interface} proto static"));
    let route = task.ip(&["-6", "route", "show", "default"]);
    assert!(route.starts_with(&format!("default via fd00:9::1 dev {interface} proto static")), "{route}");
    for (family, other) in [("-4", "10.0.8.0/24"), ("-6", "fd00:8::/64")] {
        let route = task.ip(&[family, "route", "show", other]);
        assert!(route.starts_with(&format!("{other} dev {interface} proto static")), "{route}");
    }
    assert_eq!(task.sysctl(&format!("ipv6/conf/{interface}/accept_ra")), "0");
}

/// A frame that stands for many is never so long that a length field of the tunnel's headers overflows.
fn assert_aggregates_are_limited(namespace: &Scratch, interface: &str) {
    let link = namespace.ip(&["-details", "link", "show", interface]);
    let words: Vec<&str> = link.split_whitespace().collect();
    for limit in ["gso_max_size", "gso_ipv4_max_size"] {
        let told = words.iter().zip(words.iter().skip(1)).find(|(word, _)| **word == limit);
        // What iproute2 does not know yet cannot be read with it.
        if let Some((_, bytes)) = told {
            assert_eq!(bytes.parse(), Ok(65465), "{limit} in {link}");
        } else {
            assert_ne!(limit, "gso_max_size", "{link}");
        }
    }
}

fn assert_host_is_right(node: &Scratch) {
    assert_aggregates_are_limited(node, "mesh00c0ffee");
    let link = node.ip(&["link", "show", "mesh00c0ffee"]);
    assert!(link.contains("mtu 1450") && link.contains(",UP"), "{link}");
    assert!(link.contains("alias search.1"), "{link}");
    assert_eq!(node.ip(&["address", "show", "mesh00c0ffee"]).matches("inet").count(), 0);
}

/// The kernel makes an interface's link-local address, and the routes of it, when it hears of the carrier; and it tells of
/// carriers no oftener than once a second, all namespaces together (net/core/link_watch.c).
const AFTERTHOUGHTS: Duration = Duration::from_millis(1300);

/// Runs `work` once the kernel's afterthoughts are over, and asserts that it then had nothing to tell in any of the
/// namespaces.
async fn assert_untouched<F: Future<Output = ()>>(namespaces: &[&Scratch], work: F) {
    let mut watches = Vec::new();
    for namespace in namespaces {
        watches.push(namespace.links().await.watch().await.unwrap());
    }
    let mut changes = futures::stream::select_all(watches);
    while timeout(AFTERTHOUGHTS, changes.next()).await.is_ok() {}
    work.await;
    assert!(timeout(Duration::from_millis(300), changes.next()).await.is_err(), "something was changed");
}

#[tokio::test]
async fn an_endpoint_is_made_and_then_left_alone() {
    let (node, task) = (Scratch::new("node"), Scratch::new("task"));
    let links = node.links().await;
    let wanted = endpoint(&task);

    let pair = links.ensure_endpoint(&wanted).await.unwrap();
    assert_eq!(pair.interface, "eth0");
    assert_task_is_right(&task, "eth0");
    assert_host_is_right(&node);
    let listed = links.list_endpoints().await.unwrap();
    assert_eq!(
        listed,
        [ListedEndpoint {
            name: "mesh00c0ffee".into(),
            ifindex: pair.ifindex,
            alias: Some("search.1".into())
        }]
    );

    assert_untouched(&[&node, &task], async {
        assert_eq!(links.ensure_endpoint(&wanted).await.unwrap(), pair);
    })
    .await;
}

#[tokio::test]
async fn each_drift_is_mended_and_the_pair_stays() {
    let (node, task) = (Scratch::new("node"), Scratch::new("task"));
    let links = node.links().await;
    let wanted = endpoint(&task);
    let pair = links.ensure_endpoint(&wanted).await.unwrap();

    let drifts: &[(&Scratch, &[&str])] = &[
        (&task, &["address", "del", "10.0.9.11/24", "dev", "eth0"]),
        (&task, &["address", "del", "fd00:9::a00:90b/64", "dev", "eth0"]),
        (&task, &["address", "add", "10.0.9.99/24", "dev", "eth0"]),
        (&task, &["address", "flush", "dev", "eth0"]),
        (&task, &["link", "set", "eth0", "mtu", "1400"]),
        (&task, &["link", "set", "eth0", "gso_max_size", "65536"]),
        (&task, &["link", "set", "eth0", "down"]),
        (&task, &["link", "set", "eth0", "address", "02:00:00:00:00:01"]),
        (&task, &["route", "del", "default"]),
        (&task, &["-6", "route", "del", "default"]),
        (&task, &["route", "replace", "default", "via", "10.0.9.2"]),
        (&task, &["route", "del", "10.0.8.0/24"]),
        (&task, &["-6", "route", "del", "fd00:8::/64"]),
        (&node, &["link", "set", "mesh00c0ffee", "mtu", "1400"]),
        (&node, &["link", "set", "mesh00c0ffee", "gso_max_size", "65536"]),
        (&node, &["link", "set", "mesh00c0ffee", "down"]),
        (&node, &["link", "set", "mesh00c0ffee", "alias", "other"]),
    ];
    for (namespace, drift) in drifts {
        namespace.ip(drift);
        assert_eq!(links.ensure_endpoint(&wanted).await.unwrap(), pair, "{drift:?}");
        assert_task_is_right(&task, "eth0");
        assert_host_is_right(&node);
        assert!(!task.ip(&["address", "show", "eth0"]).contains("10.0.9.99"), "{drift:?}");
    }

    // IPv6 switched off on the interface by somebody else takes the address away with it.
    let inside = Namespace::open(Path::new(&task.0)).unwrap();
    inside
        .run_blocking(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1"))
        .unwrap()
        .unwrap();
    assert!(!task.ip(&["address", "show", "eth0"]).contains("fd00:9::"));
    links.ensure_endpoint(&wanted).await.unwrap();
    assert_task_is_right(&task, "eth0");
}

#[tokio::test]
async fn a_changed_endpoint_is_followed() {
    let (node, task) = (Scratch::new("node"), Scratch::new("task"));
    let links = node.links().await;
    let mut wanted = endpoint(&task);
    links.ensure_endpoint(&wanted).await.unwrap();

    wanted.addresses = vec!["10.0.9.12/25".parse().unwrap()];
    wanted.default_route = false;
    links.ensure_endpoint(&wanted).await.unwrap();
    wanted.routes = vec!["10.0.7.0/24".parse().unwrap()];
    task.ip(&["route", "add", "198.51.100.0/24", "dev", "eth0"]);
    links.ensure_endpoint(&wanted).await.unwrap();
    let addresses = task.ip(&["-o", "address", "show", "eth0"]);
    assert!(addresses.contains("10.0.9.12/25") && !addresses.contains("10.0.9.11"), "{addresses}");
    assert!(!addresses.contains("fd00:9::"), "{addresses}");
    let routes = task.ip(&["route"]) + &task.ip(&["-6", "route"]);
    assert!(routes.contains("10.0.7.0/24 dev eth0 proto static"), "{routes}");
    assert!(!routes.contains("10.0.8.0/24") && !routes.contains("fd00:8::"), "{routes}");
    assert!(routes.contains("198.51.100.0/24"), "a route of somebody else's is gone: {routes}");
    assert_eq!(task.ip(&["route", "show", "default"]), "");
    assert_eq!(task.ip(&["-6", "route", "show", "default"]), "");
}

#[tokio::test]
async fn a_namespace_made_again_gets_its_interface_again() {
    let (node, task) = (Scratch::new("node"), Scratch::new("task"));
    let links = node.links().await;
    let wanted = endpoint(&task);
    let first = links.ensure_endpoint(&wanted).await.unwrap();
    let before = Namespace::open(Path::new(&task.0)).unwrap().id();

    run(&["netns", "del", &task.0]);
    run(&["netns", "add", &task.0]);
    assert_ne!(Namespace::open(Path::new(&task.0)).unwrap().id(), before);
    let second = links.ensure_endpoint(&wanted).await.unwrap();
    assert_ne!(first, second);
    assert_task_is_right(&task, "eth0");
    assert_host_is_right(&node);
}

#[tokio::test]
async fn an_endpoint_that_moves_leaves_its_old_namespace() {
    let (node, task, other) = (Scratch::new("node"), Scratch::new("task"), Scratch::new("other"));
    let links = node.links().await;
    links.ensure_endpoint(&endpoint(&task)).await.unwrap();
    // The same index in the new namespace must not be taken for the old peer.
    other.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "far0"]);
    assert_eq!(links.ensure_endpoint(&endpoint(&other)).await.unwrap().interface, "eth1");
    assert_task_is_right(&other, "eth1");
    assert!(!task.ip(&["link"]).contains("eth0"));
}

#[tokio::test]
async fn two_networks_in_one_namespace_and_a_default_route_of_the_tasks_own() {
    let (node, task) = (Scratch::new("node"), Scratch::new("task"));
    let links = node.links().await;
    task.ip(&["link", "add", "own0", "type", "veth", "peer", "name", "own1"]);
    for own in ["own0", "own1"] {
        task.ip(&["link", "set", own, "up"]);
    }
    task.ip(&["address", "add", "192.0.2.2/24", "dev", "own0"]);
    task.ip(&["route", "add", "default", "via", "192.0.2.1"]);

    links.ensure_endpoint(&endpoint(&task)).await.unwrap();
    let second = EndpointLink {
        name: "mesh00c0ffef".into(),
        peer_mac: [0x02, 0x42, 10, 0, 10, 11],
        addresses: vec!["10.0.10.11/24".parse().unwrap()],
        routes: Vec::new(),
        gateways: vec!["10.0.10.1".parse().unwrap()],
        default_route: false,
        alias: "search.1.green".into(),
        ..endpoint(&task)
    };
    links.ensure_endpoint(&second).await.unwrap();

    assert_eq!(task.ip(&["route", "show", "default"]).trim(), "default via 192.0.2.1 dev own0");
    assert!(task.ip(&["-o", "address", "show", "eth1"]).contains("10.0.10.11/24"));
    assert_eq!(links.list_endpoints().await.unwrap().len(), 2);

    links.remove_endpoint("mesh00c0ffef").await.unwrap();
    links.remove_endpoint("mesh00c0ffef").await.unwrap();
    assert!(!task.ip(&["link"]).contains("eth1"));
    assert!(task.ip(&["link"]).contains("eth0"));
}

#[tokio::test]
async fn what_is_not_a_namespace_is_named_with_its_mend() {
    let node = Scratch::new("node");
    let links = node.links().await;
    let mut wanted = endpoint(&node);

    wanted.netns = "no-such-namespace".into();
    let text = links.ensure_endpoint(&wanted).await.unwrap_err().to_string();
    assert!(
        text.contains("/run/netns/no-such-namespace") && text.contains("ip netns add no-such-namespace"),
        "{text}"
    );
    wanted.netns = "/proc/4000000/ns/net".into();
    let text = links.ensure_endpoint(&wanted).await.unwrap_err().to_string();
    assert!(text.contains("/proc/4000000/ns/net does not exist: start the task"), "{text}");
    for file in ["/proc/self/ns/mnt", "/proc/self/status"] {
        wanted.netns = file.into();
        let text = links.ensure_endpoint(&wanted).await.unwrap_err().to_string();
        assert!(text.contains("is not a network namespace"), "{text}");
    }
    wanted.netns = node.0.clone().into();
    let text = links.ensure_endpoint(&wanted).await.unwrap_err().to_string();
    assert!(text.contains("the node's own network namespace"), "{text}");

    assert!(Namespace::exists(Path::new(&node.0)));
    assert!(!Namespace::exists(Path::new("no-such-namespace")));
}

#[tokio::test]
async fn the_gate_is_made_mended_and_removed() {
    let node = Scratch::new("node");
    let links = node.links().await;
    node.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    node.ip(&["address", "add", "192.0.2.1/24", "dev", "up0"]);
    for up in ["up0", "up1"] {
        // No link-local address, whose duplicates the kernel would look for over seconds.
        node.ip(&["link", "set", up, "addrgenmode", "none"]);
        node.ip(&["link", "set", up, "up"]);
    }
    let gate = Gate {
        mtu: 1450,
        ways: vec![
            GateWay {
                alias: "169.254.77.1".parse().unwrap(),
                aliases: "169.254.78.0/24".parse().unwrap(),
                source: "192.0.2.1".parse().unwrap(),
                own: false,
            },
            GateWay {
                alias: "fdfe:6d65:7368::1".parse().unwrap(),
                aliases: "fdfe:6d65:7368:1::/64".parse().unwrap(),
                source: "fdfe:6d65:7368::ffff:c000:201".parse().unwrap(),
                own: true,
            },
        ],
    };
    let facts = links.ensure_gate(&gate).await.unwrap();
    let check = async || {
        let v4 = links.route_to("169.254.77.1".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((v4.ifindex, v4.gateway), (facts.mesh0_ifindex, None));
        assert_eq!(v4.source, Some("192.0.2.1".parse().unwrap()));
        let v6 = links.route_to("fdfe:6d65:7368::1".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(v6.ifindex, facts.mesh0_ifindex);
        assert_eq!(v6.source, Some("fdfe:6d65:7368::ffff:c000:201".parse().unwrap()));
        for (one, by) in [("169.254.78.9", "169.254.77.1"), ("fdfe:6d65:7368:1::9", "fdfe:6d65:7368::1")] {
            let route = links.route_to(one.parse().unwrap()).await.unwrap().unwrap();
            assert_eq!((route.ifindex, route.gateway), (facts.mesh0_ifindex, Some(by.parse().unwrap())));
        }
        let host = links.observe().await.unwrap();
        let outer = host.interfaces.iter().find(|link| link.index == facts.host_ifindex).unwrap();
        assert_eq!((outer.name.as_str(), outer.mtu, outer.up), ("mesh0-gate", 1450, true));
        let mac = outer.mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
        for neighbour in ["169.254.77.1", "fdfe:6d65:7368::1"] {
            let shown = node.ip(&["neighbour", "show", neighbour, "dev", "mesh0"]);
            assert!(shown.contains(&mac) && shown.contains("PERMANENT"), "{shown}");
        }
        assert_aggregates_are_limited(&node, "mesh0");
        assert_aggregates_are_limited(&node, "mesh0-gate");
        assert_eq!(node.ip(&["address", "show", "mesh0-gate"]).matches("inet").count(), 0);
        assert_eq!(node.ip(&["-o", "address", "show", "mesh0"]).matches("inet").count(), 1);
    };
    check().await;
    assert_untouched(&[&node], async {
        assert_eq!(links.ensure_gate(&gate).await.unwrap(), facts);
    })
    .await;

    let drifts: &[&[&str]] = &[
        &["route", "del", "169.254.77.1"],
        &["-6", "route", "del", "fdfe:6d65:7368::1"],
        &["route", "del", "169.254.78.0/24"],
        &["-6", "route", "del", "fdfe:6d65:7368:1::/64"],
        &["route", "replace", "169.254.78.0/24", "dev", "mesh0"],
        &["neighbour", "del", "169.254.77.1", "dev", "mesh0"],
        &["neighbour", "replace", "169.254.77.1", "lladdr", "02:00:00:00:00:01", "dev", "mesh0"],
        &["address", "flush", "dev", "mesh0"],
        &["link", "set", "mesh0", "down"],
        &["link", "set", "mesh0-gate", "mtu", "1300"],
        &["link", "set", "mesh0", "gso_max_size", "65536"],
        &["route", "replace", "169.254.77.1", "dev", "mesh0", "src", "127.0.0.1"],
    ];
    for drift in drifts {
        node.ip(drift);
        assert_eq!(links.ensure_gate(&gate).await.unwrap(), facts, "{drift:?}");
        check().await;
    }

    links.remove_gate().await.unwrap();
    links.remove_gate().await.unwrap();
    assert!(!node.ip(&["link"]).contains("mesh0"));

    node.ip(&["link", "add", "mesh0", "type", "bridge"]);
    let text = links.ensure_gate(&gate).await.unwrap_err().to_string();
    assert!(text.contains("mesh0") && text.contains("bridge"), "{text}");
}

#[tokio::test]
async fn the_device_for_merging_takes_nothing_and_is_mended() {
    let node = Scratch::new("node");
    let links = node.links().await;
    let check = |port: &str| {
        let link = node.ip(&["-details", "link", "show", GRO_NAME]);
        assert!(link.contains(&format!("dstport {port} ")) && link.contains(",UP"), "{link}");
        assert!(link.contains(" external vnifilter"), "{link}");
        assert!(!node.ip(&["address", "show", GRO_NAME]).contains("inet"), "it has an address");
        let taken = std::process::Command::new("bridge").args(["-n", &node.0, "vni", "show"]).output();
        let taken = String::from_utf8(taken.unwrap().stdout).unwrap();
        assert!(!taken.contains(GRO_NAME), "it takes packets: {taken}");
    };
    links.ensure_gro(4789).await.unwrap();
    check("4789");
    assert_untouched(&[&node], async { links.ensure_gro(4789).await.unwrap() }).await;
    links.ensure_gro(8472).await.unwrap();
    check("8472");
    for drift in [["link", "set", GRO_NAME, "down"].as_slice(), &["link", "del", GRO_NAME]] {
        node.ip(drift);
        links.ensure_gro(8472).await.unwrap();
        check("8472");
    }

    links.remove_gro().await.unwrap();
    links.remove_gro().await.unwrap();
    assert!(!node.ip(&["link"]).contains(GRO_NAME));

    node.ip(&["link", "add", GRO_NAME, "type", "bridge"]);
    let text = links.ensure_gro(4789).await.unwrap_err().to_string();
    assert!(text.contains(GRO_NAME) && text.contains("bridge"), "{text}");
    assert!(links.remove_gro().await.is_err());
}

#[tokio::test]
async fn the_nodes_own_facts_are_seen() {
    let node = Scratch::new("node");
    let links = node.links().await;
    node.ip(&[
        "link",
        "add",
        "up0",
        "address",
        "02:00:00:00:00:07",
        "mtu",
        "1400",
        "type",
        "veth",
        "peer",
        "name",
        "up1",
    ]);
    for up in ["up0", "up1"] {
        node.ip(&["link", "set", up, "up"]);
    }
    node.ip(&["address", "add", "192.0.2.1/24", "dev", "up0"]);
    node.ip(&["route", "add", "default", "via", "192.0.2.254", "mtu", "1300"]);

    let facts = links.observe().await.unwrap();
    let up0 = facts.interfaces.iter().find(|link| link.name == "up0").unwrap();
    assert_eq!(up0.mac, Some([2, 0, 0, 0, 0, 7]));
    assert_eq!((up0.mtu, up0.up, up0.kind.as_deref()), (1400, true, Some("veth")));
    let lo = facts.interfaces.iter().find(|link| link.name == "lo").unwrap();
    assert_eq!(lo.kind, None);
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(facts.addresses.contains(&InterfaceAddress { address, prefix: 24, ifindex: up0.index }));
    assert!(facts.addresses.iter().any(|held| held.address.is_loopback() && held.ifindex == lo.index));

    let far = links.route_to("198.51.100.1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(
        far,
        Route {
            ifindex: up0.index,
            source: Some(address),
            gateway: Some("192.0.2.254".parse().unwrap()),
            mtu: Some(1300),
            local: false,
        }
    );
    assert!(links.route_to(address).await.unwrap().unwrap().local);
    assert_eq!(links.route_to("2001:db8::1".parse().unwrap()).await.unwrap(), None);
    assert_eq!(links.default_route_interfaces().await.unwrap(), [up0.index]);
}

#[tokio::test]
async fn changes_are_told_once_for_a_burst() {
    let node = Scratch::new("node");
    let links = node.links().await;
    let mut changes = links.watch().await.unwrap();
    while timeout(AFTERTHOUGHTS, changes.next()).await.is_ok() {}
    assert!(timeout(Duration::from_millis(200), changes.next()).await.is_err());

    let soon = Duration::from_secs(5);
    let each: &[&[&str]] = &[
        &["link", "add", "up0", "type", "veth", "peer", "name", "up1"],
        &["link", "set", "up0", "up"],
        &["address", "add", "192.0.2.1/24", "dev", "up0"],
        &["route", "add", "198.51.100.0/24", "dev", "up0"],
        &["neighbour", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "up0"],
        &["link", "del", "up0"],
    ];
    for change in each {
        node.ip(change);
        assert_eq!(timeout(soon, changes.next()).await.unwrap(), Some(()), "{change:?}");
        // Until the kernel's afterthoughts (carrier, router solicitations) are over.
        while timeout(Duration::from_millis(400), changes.next()).await.is_ok() {}
    }
}
