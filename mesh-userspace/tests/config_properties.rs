//! Whatever a file or a command says, the answer is a table that holds to every rule, or faults.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use ipnet::IpNet;
use mesh_userspace::{
    config,
    spec::{Endpoint, Faults, Given, Network, Node, Origin, Service, Spec, resolve},
    table::{EndpointMode, Protocol, PublishMode, PublishedPort, Table},
};
use proptest::{collection, option, prelude::*, sample, strategy::ValueTree, test_runner::TestRunner};

/// The rules, written down once more and apart from the code that keeps them.
fn assert_sound(table: &Table) {
    let options = &table.options;
    assert!((1..=61000).contains(&options.vxlan_port));

    let node_addresses: HashSet<IpAddr> = table.nodes.values().map(|node| node.address).collect();
    assert_eq!(node_addresses.len(), table.nodes.len(), "two nodes have one address");
    assert!(
        node_addresses.iter().all(IpAddr::is_ipv4) || node_addresses.iter().all(IpAddr::is_ipv6),
        "the nodes have addresses of both families"
    );
    for address in &node_addresses {
        assert!(!address.is_loopback() && !address.is_unspecified() && !address.is_multicast());
    }
    for interface in
        table.nodes.values().filter_map(|node| node.interface.as_ref()).chain(&options.interfaces)
    {
        assert!((1..=15).contains(&interface.len()) && interface != "lo");
    }

    let vnis: HashSet<u32> = table.networks.values().map(|network| network.vni).collect();
    assert_eq!(vnis.len(), table.networks.len(), "two networks have one VNI");
    assert!(vnis.iter().all(|vni| (1..1 << 24).contains(vni)));
    for (name, network) in &table.networks {
        assert!(!network.subnets.is_empty(), "{name} has no subnet");
        for (index, subnet) in network.subnets.iter().enumerate() {
            assert_eq!(subnet.addr(), subnet.network());
            assert!(!node_addresses.iter().any(|address| subnet.contains(address)));
            for other in &network.subnets[..index] {
                assert!(!subnet.contains(other) && !other.contains(subnet), "{subnet} overlaps {other}");
            }
        }
        if let Some(mtu) = network.mtu {
            let v6 = network.subnets.iter().any(|subnet| matches!(subnet, IpNet::V6(_)));
            assert!((if v6 { 1280 } else { 576 }..=65535).contains(&mtu));
        }
        assert_addresses(name, table);
    }

    for (name, endpoint) in &table.endpoints {
        assert!(table.nodes.contains_key(&endpoint.node), "{name} is on no node");
        assert!(table.networks.contains_key(&endpoint.network), "{name} is on no network");
        assert!(endpoint.netns.as_ref().is_none_or(|netns| netns.is_absolute()));
        if let Some(service) = &endpoint.service {
            let service = &table.services[service];
            assert!(
                service.endpoint_mode == EndpointMode::Dnsrr || service.vips.contains_key(&endpoint.network),
                "{name}'s service is not on its network"
            );
        }
    }
    let mut namespaces = HashMap::new();
    for (name, endpoint) in &table.endpoints {
        if let Some(netns) = &endpoint.netns {
            let other = namespaces.insert((&endpoint.node, netns, &endpoint.network), name);
            assert_eq!(other, None, "{name}'s namespace is on its network twice");
        }
    }
    assert_ports(table);
}

/// Who is on a network has one address of each of its families, and nobody's address is anybody else's.
fn assert_addresses(name: &str, table: &Table) {
    let network = &table.networks[name];
    let families: Vec<bool> = [true, false]
        .into_iter()
        .filter(|v4| network.subnets.iter().any(|s| s.addr().is_ipv4() == *v4))
        .collect();
    let mut seen: HashSet<IpAddr> = HashSet::new();
    let mut macs: HashSet<[u8; 6]> = HashSet::new();
    let gateways: Vec<IpAddr> = network.gateways().collect();
    for (gateway, subnet) in gateways.iter().zip(&network.subnets) {
        assert!(subnet.contains(gateway) && seen.insert(*gateway));
    }
    assert!(macs.insert(network.gateway_mac().expect("a gateway")));

    let mut holds = |who: &str, addresses: &[IpAddr]| {
        let held: Vec<bool> = addresses.iter().map(IpAddr::is_ipv4).collect();
        assert_eq!(held, families, "{who} on {name}");
        for address in addresses {
            let subnet = network.subnets.iter().find(|subnet| subnet.contains(address));
            let subnet = subnet.unwrap_or_else(|| panic!("{who}: {address} is outside of {name}"));
            assert_ne!(*address, subnet.network());
            assert!(address.is_ipv6() || *address != subnet.broadcast());
            assert!(seen.insert(*address), "{who}: {address} on {name} has another owner");
        }
    };
    for (service, settled) in &table.services {
        if let Some(vips) = settled.vips.get(name) {
            assert_eq!(settled.endpoint_mode, EndpointMode::Vip);
            holds(service, vips);
        }
    }
    for (endpoint, settled) in table.endpoints.iter().filter(|(_, settled)| settled.network == name) {
        holds(endpoint, &settled.addresses);
        assert!(macs.insert(settled.mac), "{endpoint}: its MAC address has another owner");
        assert!(settled.mac[0] & 1 == 0 && settled.mac != [0; 6]);
    }
}

/// A port of a node has one owner.
fn assert_ports(table: &Table) {
    let mut ingress: HashSet<(Protocol, u16)> = HashSet::new();
    let mut host: HashSet<(Protocol, u16, &str)> = HashSet::new();
    let mut host_ports: HashSet<(Protocol, u16)> = HashSet::new();
    for (name, service) in &table.services {
        let mut own: HashSet<(Protocol, u16)> = HashSet::new();
        for PublishedPort { published, target, protocol, mode, .. } in &service.ports {
            assert!((1..=61000).contains(published) || *published == 65535);
            assert_ne!(*target, 0);
            assert!((*protocol, *published) != (Protocol::Udp, table.options.vxlan_port));
            assert!(own.insert((*protocol, *published)), "{name} publishes {published} twice");
            match mode {
                PublishMode::Ingress => {
                    assert_eq!(service.endpoint_mode, EndpointMode::Vip);
                    assert!(ingress.insert((*protocol, *published)), "{name}: {published} has another owner");
                }
                PublishMode::Host => {
                    host_ports.insert((*protocol, *published));
                    let nodes: HashSet<&str> = table
                        .endpoints
                        .values()
                        .filter(|endpoint| endpoint.service.as_deref() == Some(name))
                        .map(|endpoint| endpoint.node.as_str())
                        .collect();
                    for node in nodes {
                        assert!(host.insert((*protocol, *published, node)), "{name}: {published} on {node}");
                    }
                }
            }
        }
    }
    assert!(ingress.is_disjoint(&host_ports));
}

fn assert_told(faults: &Faults) {
    assert!(faults.count() > 0);
    for fault in faults {
        assert!(fault.sentence.ends_with(['.', '?']), "{fault}");
        assert!(!fault.sentence.contains(char::is_control), "{fault}");
        if let Origin::File { line, column, .. } = &fault.origin {
            assert!(*line >= 1 && *column >= 1);
        }
    }
}

/// Every place is one that an editor can go to.
fn assert_within(text: &[u8], faults: &Faults) {
    // A lone carriage return ends a line for YAML, and for few editors.
    let Ok(text) = std::str::from_utf8(text) else { return };
    if text.contains('\r') {
        return;
    }
    let text = text.trim_start_matches('\u{feff}');
    let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    for fault in faults {
        if let Origin::File { line, column, .. } = &fault.origin {
            let length = lines.get(usize::try_from(*line).expect("a line") - 1);
            let column = usize::try_from(*column).expect("a column");
            assert!(length.is_some_and(|length| column <= length + 1), "{fault}");
        }
    }
}

/// Reads a text; whether it is good.
fn judge(text: &[u8]) -> bool {
    match config::parse("file.yaml", text) {
        Err(faults) => {
            assert_told(&faults);
            assert_within(text, &faults);
            false
        }
        Ok(loaded) => settle(&loaded.spec).is_some(),
    }
}

/// Resolves a specification and holds the table against the rules.
fn settle(spec: &Spec) -> Option<Table> {
    let result = resolve(spec);
    assert_eq!(result, resolve(spec), "a specification has one table");
    match result {
        Err(faults) => {
            assert_told(&faults);
            None
        }
        Ok(table) => {
            assert_sound(&table);
            Some(table)
        }
    }
}

static EXAMPLES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let paths = std::fs::read_dir(directory).expect("configs").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("an example")).collect()
});

/// One slip of a hand or a disk.
#[derive(Clone, Debug)]
enum Mutation {
    Byte(sample::Index, u8),
    Bit(sample::Index, u8),
    Insert(sample::Index, String),
    Remove(sample::Index, usize),
    Truncate(sample::Index),
    SwapLines(sample::Index, sample::Index),
    RepeatLine(sample::Index, sample::Index),
    Indent(sample::Index, usize),
    SwapWords(sample::Index, sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Bit(at, bit)),
        (at(), piece()).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        (at(), 1..40_usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        at().prop_map(Mutation::Truncate),
        (at(), at()).prop_map(|(a, b)| Mutation::SwapLines(a, b)),
        (at(), at()).prop_map(|(a, b)| Mutation::RepeatLine(a, b)),
        (at(), 0..9_usize).prop_map(|(at, depth)| Mutation::Indent(at, depth)),
        (at(), at()).prop_map(|(a, b)| Mutation::SwapWords(a, b)),
    ]
}

/// A piece of YAML, or of the file's own vocabulary.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => sample::select(vec![
            ":", ": ", "-", "- ", "{", "}", "[", "]", ",", ", ", "#", " #", "&a ", "*a", "!", "!!str ", "|", ">", "'", "\"",
            "\\", "%", "@", "`", "?", "? ", "\n", "\n  ", "\n    ", "\t", "\r", "\r\n", "---\n", "...\n", "<<: ", "~", "null",
            "true", "no", "0", "-1", "4096", "16777216", "1e3", "0x10", ".inf", "\u{feff}", "\0", "é", "𐍈", "\u{2028}",
        ]).prop_map(str::to_owned),
        4 => sample::select(vec![
            "node: ", "nodes: ", "networks: ", "services: ", "endpoints: ", "options: ", "cluster: ", "name: ", "address: ",
            "network: ", "service: ", "subnets: ", "vni: ", "mtu: ", "internal: ", "vip: ", "ports: ", "scheduler: ",
            "endpoint_mode: ", "on_no_backend: ", "external: ", "backends: ", "netns: ", "mac: ", "published: ", "target: ", "protocol: ",
            "mode: ", "interface: ", "interfaces: ", "vxlan_port: ", "run_dir: ", "n1", "n2", "blue", "search", "search.1",
            "10.0.9.1", "10.0.9.2", "10.0.9.11", "192.0.2.1", "10.0.9.0/24", "\"fd00:9::/64\"", "\"fd00:9::a00:90b\"",
            "\"9200:9200\"", "\"80-90:80-90/udp\"", "mh", "rr", "wlc", "dnsrr", "host", "udp", "02:42:0a:00:09:0b", "/run/x",
        ]).prop_map(str::to_owned),
        1 => ".{0,8}",
    ]
}

fn apply(text: &mut Vec<u8>, mutation: &Mutation) {
    let mut lines: Vec<Vec<u8>> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if text.is_empty() || lines.is_empty() {
        return;
    }
    match mutation {
        Mutation::Byte(at, byte) => {
            let at = at.index(text.len());
            text[at] = *byte;
        }
        Mutation::Bit(at, bit) => {
            let at = at.index(text.len());
            text[at] ^= 1 << bit;
        }
        Mutation::Insert(at, piece) => {
            let at = at.index(text.len() + 1);
            text.splice(at..at, piece.bytes());
        }
        Mutation::Remove(at, length) => {
            let at = at.index(text.len());
            text.drain(at..(at + length).min(text.len()));
        }
        Mutation::Truncate(at) => text.truncate(at.index(text.len())),
        Mutation::SwapLines(a, b) => {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
            *text = lines.concat();
        }
        Mutation::RepeatLine(from, to) => {
            let line = lines[from.index(lines.len())].clone();
            lines.insert(to.index(lines.len()), line);
            *text = lines.concat();
        }
        Mutation::Indent(at, depth) => {
            let line = &mut lines[at.index(text.len()) % lines_of(text)];
            let start = line.iter().position(|byte| *byte != b' ').unwrap_or_default();
            line.splice(..start, std::iter::repeat_n(b' ', *depth));
            *text = lines.concat();
        }
        Mutation::SwapWords(a, b) => {
            let mut words: Vec<Vec<u8>> = text.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
            let (a, b) = (a.index(words.len()), b.index(words.len()));
            words.swap(a, b);
            *text = words.join(&b' ');
        }
    }
}

fn lines_of(text: &[u8]) -> usize {
    text.split_inclusive(|byte| *byte == b'\n').count()
}

/// Names from a few, so that they often meet.
fn name(kind: &'static str, most: usize) -> impl Strategy<Value = String> {
    (0..most).prop_map(move |number| format!("{kind}{number}"))
}

fn given<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Given<T>> {
    value.prop_map(Given::from)
}

/// An address of a small range around the subnets below, so that it is often good, and often not.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..2_u8, prop_oneof![0..20_u8, 250..=255_u8])
            .prop_map(|(net, host)| IpAddr::from([10, 0, net, host])),
        (0..2_u16, 0..20_u16).prop_map(|(net, host)| IpAddr::from([0xfd00, net, 0, 0, 0, 0, 0, host])),
        (0..2_u16, 0..2_u16, 0..20_u16).prop_map(|(net, sub, host)| IpAddr::from([
            0xfd00,
            net,
            0,
            0,
            0,
            0,
            0xa00,
            sub << 8 | host
        ])),
    ]
}

fn network() -> impl Strategy<Value = Network> {
    let subnets = sample::subsequence(
        vec![
            "10.0.0.0/24",
            "fd00::/64",
            "10.0.1.0/24",
            "fd00:1::/64",
            "10.0.1.0/28",
            "10.0.0.8/29",
            "fd00:1::/120",
        ],
        0..3,
    );
    let mtu = option::weighted(0.1, given(500..2000_u32));
    (option::weighted(0.3, given(4095..4099_u32)), subnets, any::<bool>(), mtu).prop_map(
        |(vni, subnets, internal, mtu)| Network {
            vni,
            subnets: subnets
                .iter()
                .map(|subnet| Given::from(subnet.parse::<IpNet>().expect("a subnet")))
                .collect(),
            internal: internal && mtu.is_some(),
            mtu,
            ..Network::default()
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let networks = sample::subsequence(vec!["b0", "b1", "b2"], 1..3);
    let vips = collection::btree_map(name("b", 3), collection::vec(given(address()), 0..2), 0..2);
    let port = (1..6_u16, prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)], any::<bool>()).prop_map(
        |(published, protocol, host)| PublishedPort {
            published,
            target: 80,
            protocol,
            mode: if host { PublishMode::Host } else { PublishMode::Ingress },
            ..PublishedPort::default()
        },
    );
    (networks, option::weighted(0.4, vips), collection::vec(given(port), 0..2), any::<u8>()).prop_map(
        |(networks, vips, ports, mode)| Service {
            networks: networks.into_iter().map(|network| Given::from(network.to_owned())).collect(),
            vips: vips.unwrap_or_default(),
            ports,
            endpoint_mode: if mode < 30 { EndpointMode::Dnsrr } else { EndpointMode::Vip },
            ..Service::default()
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let mac = option::weighted(0.1, (0..3_u8).prop_map(|last| Given::from([2, 0x42, 10, 0, 0, last])));
    let netns = option::weighted(0.3, name("/run/netns/t", 20));
    (
        name("t", 200),
        name("n", 3),
        option::weighted(0.3, name("s", 4)),
        name("b", 3),
        prop_oneof![3 => Just(Vec::new()), 1 => collection::vec(given(address()), 1..3)],
        mac,
        netns,
    )
        .prop_map(|(name, node, service, network, addresses, mac, netns)| Endpoint {
            origin: Origin::default(),
            name: name.into(),
            node: node.into(),
            service: service.map(Given::from),
            weight: None,
            network: network.into(),
            addresses,
            mac,
            netns: netns.map(|netns| Given::from(PathBuf::from(netns))),
            aliases: Vec::new(),
            remembered: Vec::new(),
        })
}

fn spec() -> impl Strategy<Value = Spec> {
    let networks = collection::vec(network(), 3);
    let services = collection::vec(service(), 0..4);
    (networks, services, collection::vec(endpoint(), 0..8)).prop_map(|(networks, services, endpoints)| Spec {
        nodes: (0..3_u8)
            .map(|number| {
                let address = IpAddr::from([192, 0, 2, number + 1]);
                let node = Node { origin: Origin::default(), address: address.into(), interface: None };
                (format!("n{number}"), node)
            })
            .collect(),
        networks: numbered("b", networks),
        services: numbered("s", services),
        endpoints,
        ..Spec::default()
    })
}

/// A few services and endpoints that want the same few addresses and ports, and nothing else that is wrong.
fn crowded_spec() -> impl Strategy<Value = Spec> {
    let wanted = || option::weighted(0.6, (2..10_u8).prop_map(|host| IpAddr::from([10, 0, 0, host])));
    let six = option::weighted(
        0.2,
        (2..10_u16).prop_map(|host| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0x0a00, host])),
    );
    let service = (wanted(), option::weighted(0.5, (1..4_u16, any::<bool>())));
    let endpoint = (wanted(), six, 0..3_usize, 0..2_u8, option::weighted(0.3, 0..4_u8));
    (collection::vec(service, 3), collection::vec(endpoint, 0..4)).prop_map(|(services, endpoints)| {
        let mut spec = base();
        let network = Given::from("c".to_owned());
        let subnets = ["10.0.0.0/24", "fd00::/64"]
            .map(|subnet| Given::from(subnet.parse::<IpNet>().expect("a subnet")));
        spec.networks = BTreeMap::from([(
            network.value.clone(),
            Network { subnets: subnets.to_vec(), ..Network::default() },
        )]);
        let second =
            Node { origin: Origin::default(), address: IpAddr::from([192, 0, 2, 2]).into(), interface: None };
        spec.nodes.insert("n1".to_owned(), second);
        let service = |(vip, port): (Option<IpAddr>, Option<(u16, bool)>)| Service {
            networks: vec![network.clone()],
            vips: vip.map(|vip| (network.value.clone(), vec![vip.into()])).into_iter().collect(),
            ports: port
                .map(|(published, host)| PublishedPort {
                    published,
                    target: 80,
                    protocol: Protocol::Tcp,
                    mode: if host { PublishMode::Host } else { PublishMode::Ingress },
                    ..PublishedPort::default()
                })
                .map(Given::from)
                .into_iter()
                .collect(),
            ..Service::default()
        };
        spec.services = numbered("s", services.into_iter().map(service).collect());
        spec.endpoints = endpoints
            .into_iter()
            .enumerate()
            .map(|(number, (four, six, service, node, mac))| Endpoint {
                origin: Origin::default(),
                name: format!("t{number}").into(),
                node: format!("n{node}").into(),
                service: Some(format!("s{service}").into()),
                weight: None,
                network: network.clone(),
                addresses: four.into_iter().chain(six).map(Given::from).collect(),
                mac: mac.map(|last| Given::from([2, 0x42, 10, 0, 0, last])),
                netns: None,
                aliases: Vec::new(),
                remembered: Vec::new(),
            })
            .collect();
        spec
    })
}

fn numbered<T>(kind: &str, items: Vec<T>) -> BTreeMap<String, T> {
    items.into_iter().enumerate().map(|(number, item)| (format!("{kind}{number}"), item)).collect()
}

/// A place in a file, so that what has it counts as the file's.
fn file_origin(line: u32) -> Origin {
    Origin::File { file: "file.yaml".into(), line, column: 1 }
}

/// A service or an endpoint that asks for no address.
#[derive(Clone, Debug)]
enum Addition {
    Service(u8, u8),
    Endpoint(u8, u8),
    Network(u8),
}

fn addition() -> impl Strategy<Value = Addition> {
    prop_oneof![
        (any::<u8>(), 0..2_u8).prop_map(|(name, network)| Addition::Service(name, network)),
        (any::<u8>(), 0..2_u8).prop_map(|(name, network)| Addition::Endpoint(name, network)),
        any::<u8>().prop_map(Addition::Network),
    ]
}

/// Adds it, unless the name is taken.
fn add(spec: &mut Spec, addition: &Addition, origin: &Origin) {
    let network = |number: &u8| Given::from(format!("b{number}"));
    let _taken = match addition {
        Addition::Network(name) => {
            spec.add_network(&format!("x{name}"), Network { origin: origin.clone(), ..Network::default() })
        }
        Addition::Service(name, on) => spec.add_service(
            &format!("y{name}"),
            Service { origin: origin.clone(), networks: vec![network(on)], ..Service::default() },
        ),
        Addition::Endpoint(name, on) => spec.add_endpoint(Endpoint {
            origin: origin.clone(),
            name: Given::new(format!("z{name}"), origin.clone()),
            node: Given::from("n0".to_owned()),
            service: None,
            weight: None,
            network: network(on),
            addresses: Vec::new(),
            mac: None,
            netns: None,
            aliases: Vec::new(),
            remembered: Vec::new(),
        }),
    };
}

/// Whether everything in the first table is the same in the second.
fn assert_kept(before: &Table, after: &Table) {
    for (name, network) in &before.networks {
        assert_eq!(after.networks.get(name), Some(network), "the network {name}");
    }
    for (name, service) in &before.services {
        assert_eq!(after.services.get(name), Some(service), "the service {name}");
    }
    for (name, endpoint) in &before.endpoints {
        assert_eq!(after.endpoints.get(name), Some(endpoint), "the endpoint {name}");
    }
}

fn base() -> Spec {
    let text = b"nodes: {n0: {address: 192.0.2.1}}\n\
                 networks: {b0: {}, b1: {subnets: [10.9.0.0/16, \"fd00:9::/64\"]}}\n";
    config::parse("file.yaml", text).expect("a good file").spec
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_file_gives_a_sound_table_or_faults(
        example in any::<sample::Index>(),
        mutations in collection::vec(mutation(), 0..6),
    ) {
        let mut text = example.get(&EXAMPLES).clone();
        for mutation in &mutations {
            apply(&mut text, mutation);
        }
        let good = judge(&text);
        prop_assert!(good || !mutations.is_empty());
    }

    #[test]
    fn random_pieces_of_yaml_give_faults(pieces in collection::vec(piece(), 0..60)) {
        judge(pieces.concat().as_bytes());
    }

    #[test]
    fn random_bytes_give_faults(bytes in collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!judge(&bytes));
    }

    #[test]
    fn a_random_specification_gives_a_sound_table_or_faults(spec in spec()) {
        settle(&spec);
    }

    #[test]
    fn a_crowded_specification_gives_a_sound_table_or_faults(spec in crowded_spec()) {
        settle(&spec);
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_asks_for_nothing_in_particular_is_never_refused(
        additions in collection::vec((addition(), any::<bool>()), 0..40),
    ) {
        let mut spec = base();
        for ((addition, by_command), line) in additions.iter().zip(10..) {
            add(&mut spec, addition, &if *by_command { Origin::default() } else { file_origin(line) });
        }
        prop_assert!(settle(&spec).is_some());
    }

    #[test]
    fn a_command_moves_nothing(
        in_file in collection::vec(addition(), 0..10),
        by_command in collection::vec((addition(), any::<bool>()), 1..10),
    ) {
        let mut spec = base();
        for (addition, line) in in_file.iter().zip(10..) {
            add(&mut spec, addition, &file_origin(line));
        }
        let file_only = spec.clone();
        for (addition, through_json) in &by_command {
            let before = settle(&spec).expect("nothing is asked for");
            spec.remember(&before);
            if *through_json {
                // As after a restart: the file read again, and the rest from the agent's state.
                let state = serde_json::to_string(&spec.by_command()).expect("JSON");
                let state: Spec = serde_json::from_str(&state).expect("a specification");
                prop_assert_eq!(&state, &spec.by_command());
                spec = file_only.clone();
                spec.adopt(&state).expect("no name is taken");
                prop_assert_eq!(&settle(&spec).expect("as before"), &before);
            }
            add(&mut spec, addition, &Origin::default());
            assert_kept(&before, &settle(&spec).expect("nothing is asked for"));
        }
    }
}

/// The properties above are not kept by refusing everything.
#[test]
fn random_specifications_are_often_good() {
    fn good(strategy: &impl Strategy<Value = Spec>) -> usize {
        let mut runner = TestRunner::deterministic();
        let mut spec = || strategy.new_tree(&mut runner).expect("a specification").current();
        (0..1000).filter(|_| resolve(&spec()).is_ok()).count()
    }
    for good in [good(&spec()), good(&crowded_spec())] {
        assert!((50..950).contains(&good), "{good} of 1000");
    }
}
