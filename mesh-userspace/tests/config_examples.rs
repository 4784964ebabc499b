//! The example files of configs/ are good, and mean what their comments say.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
};

use mesh_userspace::{
    config,
    spec::resolve,
    table::{
        EndpointMode, HealthCheck, OnNoBackend, Period, Probe, Protocol, PublishMode, PublishedPort,
        Scheduler, Table,
    },
};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn table(name: &str) -> Table {
    match config::check(&configs().join(name)) {
        Ok((_, table)) => table,
        Err(faults) => panic!("{name} is faulty:\n{faults}"),
    }
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().expect("an address")).collect()
}

#[test]
fn every_example_is_good() {
    let mut seen = 0;
    for entry in std::fs::read_dir(configs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let (loaded, table) = config::check(&path).unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(resolve(&loaded.spec).unwrap(), table, "a specification has one table");
            seen += 1;
        }
    }
    assert!(seen >= 4);
}

#[test]
fn the_mesh() {
    let (loaded, table) = config::check(&configs().join("mesh.yaml")).unwrap();
    assert_eq!(loaded.local.run_dir, Path::new("/run/mesh"));
    assert_eq!(loaded.local.state_dir, Path::new("/var/lib/mesh"));
    assert_eq!(loaded.local.resolv_conf, Path::new("/etc/resolv.conf"));
    assert!(table.options.dns);
    assert_eq!(table.nodes.len(), 3);
    assert_eq!(table.nodes["n1"].interface.as_deref(), Some("eth0"));
    assert_eq!(table.nodes["n2"].interface, None);
    let blue = &table.networks["blue"];
    assert_eq!(blue.vni, 4097);
    assert_eq!(blue.gateways().collect::<Vec<_>>(), addresses(&["10.0.9.1", "fd00:9::1"]));
    let search = &table.services["search"];
    assert_eq!(search.vips["blue"], addresses(&["10.0.9.2", "fd00:9::a00:902"]));
    assert_eq!(search.scheduler, Scheduler::Mh);
    assert_eq!(search.on_no_backend, OnNoBackend::Reject);
    assert_eq!(search.aliases, ["elastic"]);
    assert_eq!(
        search.ports,
        [
            PublishedPort {
                published: 53,
                target: 5353,
                protocol: Protocol::Udp,
                mode: PublishMode::Ingress,
                ..PublishedPort::default()
            },
            PublishedPort {
                published: 9200,
                target: 9200,
                protocol: Protocol::Tcp,
                mode: PublishMode::Ingress,
                ..PublishedPort::default()
            },
        ]
    );
    let first = &table.endpoints["search.1"];
    assert_eq!(first.addresses, addresses(&["10.0.9.11", "fd00:9::a00:90b"]));
    assert_eq!(first.mac, [0x02, 0x42, 10, 0, 9, 11]);
    assert_eq!(first.netns.as_deref(), Some(Path::new("/run/netns/search1")));
    assert_eq!(table.endpoints.len(), 3);
}

#[test]
fn two_networks() {
    let table = table("two-networks.yaml");
    let vnis: BTreeMap<_, _> = table.networks.iter().map(|(name, n)| (name.as_str(), n.vni)).collect();
    assert_eq!(vnis, BTreeMap::from([("back", 4096), ("front", 4097)]));
    assert!(table.networks["back"].internal && !table.networks["front"].internal);
    assert_eq!(table.services["db"].vips["back"], addresses(&["10.0.2.2"]));
    assert_eq!(table.services["web"].vips["back"], addresses(&["10.0.2.3"]));
    assert_eq!(table.services["web"].vips["front"], addresses(&["10.0.1.2"]));
    assert_eq!(table.services["web"].scheduler, Scheduler::Rr);
}

#[test]
fn ipv6() {
    let table = table("ipv6.yaml");
    assert_eq!(table.networks["six"].mtu, Some(1400));
    let mail = &table.services["mail"];
    assert_eq!(mail.vips["six"], addresses(&["fd00:6::25"]));
    assert_eq!(mail.vips["both"], addresses(&["10.0.46.25", "fd00:46::25"]));
    assert_eq!(table.endpoints["mail.1"].mac, [0x02, 0x42, 0, 0, 0, 0x11]);
    assert_eq!(table.endpoints["mail.2"].addresses, addresses(&["10.0.46.12", "fd00:46::12"]));
}

#[test]
fn ports() {
    let table = table("ports.yaml");
    let blue = &table.networks["blue"];
    assert_eq!((blue.vni, blue.subnets.as_slice()), (4096, &["10.0.0.0/24".parse().unwrap()][..]));
    let shown: Vec<_> = table.services["search"]
        .ports
        .iter()
        .map(|port| (port.published, port.target, port.protocol, port.mode))
        .collect();
    use {Protocol::*, PublishMode::*};
    assert_eq!(
        shown,
        [
            (22, 2222, Tcp, Host),
            (53, 5353, Udp, Ingress),
            (8080, 80, Tcp, Ingress),
            (8081, 81, Tcp, Ingress),
            (8082, 82, Tcp, Ingress),
            (9200, 9200, Tcp, Ingress),
            (9201, 80, Udp, Ingress),
        ]
    );
    assert_eq!(table.services["names"].endpoint_mode, EndpointMode::Dnsrr);
    assert_eq!(table.services["names"].on_no_backend, OnNoBackend::Reject);
    assert_eq!(table.services["search"].on_no_backend, OnNoBackend::Drop);
    assert!(table.services["names"].vips.is_empty());
    // The VIP first, then the endpoints in the order of their names.
    assert_eq!(table.services["search"].vips["blue"], addresses(&["10.0.0.2"]));
    assert_eq!(table.endpoints["names.1"].addresses, addresses(&["10.0.0.3"]));
    assert_eq!(table.endpoints["search.1"].addresses, addresses(&["10.0.0.4"]));
}

#[test]
fn the_health_checks() {
    let services = table("health.yaml").services;
    let check = |name: &str| services[name].health_check.clone().unwrap();
    let port = |port| NonZeroU16::new(port).unwrap();
    let web = check("web");
    assert_eq!(web.probe, Probe::Http { port: port(8080), path: "/healthz".to_owned() });
    assert_eq!((web.interval, web.timeout), (Period::from_millis(2_000), Period::from_millis(1_000)));
    assert_eq!((web.rise.get(), web.fall.get()), (2, 3));
    // What it says are the defaults.
    assert_eq!(check("db"), HealthCheck { probe: Probe::Tcp { port: port(5432) }, ..web });
    let queue = check("queue");
    assert!(
        matches!(&queue.probe, Probe::Command(words) if words.len() == 3 && words[0] == "sh"),
        "{queue:?}"
    );
    assert_eq!(queue.interval.to_string(), "5s");
}
