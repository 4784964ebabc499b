//! The sections of the file that make up the specification.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU32};

use super::{
    health::health_check,
    keys::Keys,
    lower,
    reader::Reader,
    yaml::{Content, Entry, Node},
};
use crate::{
    spec::{
        self, Endpoint, Given, Network, Service, Spec, Unreadable, listed, nearest, published_ports, quoted,
        source,
    },
    table::{
        Continuity, EndpointMode, OnNoBackend, Protocol, PublishMode, PublishedPort, ReturnPath, Scheduler,
        XdpMode,
    },
};

const ADDRESS: &str = "an IP address such as 192.0.2.1 or 2001:db8::1";

/// How many ports can be published in ingress mode: all of TCP's and of UDP's. More in a file are ranges that
/// are written again and again, and would fill the memory.
const MOST_PORTS: usize = 2 * 65535;

/// IPVS's schedulers, of which not all are here yet.
const SCHEDULERS: [&str; 14] =
    ["mh", "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "twos"];

/// What the sections say, and what of them could not be read.
#[derive(Default)]
pub(super) struct Sections {
    pub(super) spec: Spec,
    pub(super) unreadable: Unreadable,
}

impl Sections {
    pub(super) fn options(&mut self, reader: &mut Reader, node: &Node) {
        let want = "a mapping such as {vxlan_port: 4789, xdp: auto, return: tunnel}";
        let Some(mut keys) = Keys::of(reader, node, "The section options".to_owned(), want) else { return };
        let options = &mut self.spec.options;
        if let Some(node) = keys.take("vxlan_port") {
            options.vxlan_port = reader.number(node, "The option vxlan_port", "a port such as 4789");
        }
        if let Some(node) = keys.take("xdp") {
            let modes = [
                ("auto", XdpMode::Auto),
                ("native", XdpMode::Native),
                ("generic", XdpMode::Generic),
                ("off", XdpMode::Off),
            ];
            options.xdp = one_of(reader, node, "The option xdp", &modes).map(|mode| mode.value);
        }
        if let Some(node) = keys.take("return") {
            let paths = [("tunnel", ReturnPath::Tunnel), ("direct", ReturnPath::Direct)];
            options.r#return = one_of(reader, node, "The option return", &paths).map(|path| path.value);
        }
        if let Some(node) = keys.take("continuity") {
            let ways = [
                ("second-chance", Continuity::SecondChance),
                ("entry-cache", Continuity::EntryCache),
                ("node", Continuity::Node),
                ("none", Continuity::None),
            ];
            options.continuity =
                one_of(reader, node, "The option continuity", &ways).map(|continuity| continuity.value);
        }
        if let Some(node) = keys.take("interfaces") {
            for item in reader.list(node, "The option interfaces", "a list of interfaces such as [eth0]") {
                options.interfaces.extend(reader.name(item, "An interface of the options"));
            }
        }
        if let Some(node) = keys.take("dns") {
            options.dns = reader.boolean(node, "The option dns").map(|dns| dns.value);
        }
        keys.finish(reader);
    }

    pub(super) fn nodes(&mut self, reader: &mut Reader, node: &Node) {
        let want = "a mapping such as {n1: {address: 192.0.2.1}}";
        let Some(entries) = named(reader, node, "The section nodes", want) else { return };
        if entries.is_empty() && node.complete {
            reader.fault(
                node.at,
                "The section nodes names no node; write each with its address, as in \
                 {n1: {address: 192.0.2.1}}.",
            );
        }
        for entry in entries {
            match one_node(reader, entry) {
                Some(node) => {
                    self.spec.nodes.entry(entry.key.clone()).or_insert(node);
                }
                None => {
                    self.unreadable.nodes.insert(entry.key.clone());
                }
            }
        }
    }

    pub(super) fn networks(&mut self, reader: &mut Reader, node: &Node) {
        let want = "a mapping such as {blue: {subnets: [10.0.9.0/24]}}";
        for entry in named(reader, node, "The section networks", want).unwrap_or_default() {
            let (network, sound) = network(reader, entry);
            if !sound {
                self.unreadable.networks.insert(entry.key.clone());
            }
            self.spec.networks.entry(entry.key.clone()).or_insert(network);
        }
    }

    pub(super) fn services(&mut self, reader: &mut Reader, node: &Node) {
        let want = "a mapping such as {search: {networks: [blue]}}";
        for entry in named(reader, node, "The section services", want).unwrap_or_default() {
            let (service, sound) = service(reader, entry);
            if !sound {
                self.unreadable.services.insert(entry.key.clone());
            }
            self.spec.services.entry(entry.key.clone()).or_insert(service);
        }
    }

    pub(super) fn endpoints(&mut self, reader: &mut Reader, node: &Node) {
        if is_absent(node) {
            return;
        }
        let want = "a list of endpoints such as [{name: search.1, node: n1, network: blue}]";
        for item in reader.list(node, "The section endpoints", want) {
            self.spec.endpoints.extend(endpoint(reader, item));
        }
    }
}

/// The entries of a section whose keys are names. A section with nothing in it has none.
fn named<'n>(reader: &mut Reader, node: &'n Node, what: &str, want: &str) -> Option<&'n [Entry]> {
    match &node.content {
        Content::Map(entries) => Some(entries),
        _ if is_absent(node) && !what.ends_with("nodes") => Some(&[]),
        _ => {
            reader.wrong(node, what, want);
            None
        }
    }
}

/// Whether a key has no value at all, as when everything under it is commented out.
fn is_absent(node: &Node) -> bool {
    matches!(&node.content, Content::Scalar { text, quoted: false } if text.is_empty())
}

fn one_node(reader: &mut Reader, entry: &Entry) -> Option<spec::Node> {
    let who = format!("The node {}", quoted(&entry.key));
    let want = "a mapping such as {address: 192.0.2.1}";
    let mut keys = Keys::of(reader, &entry.value, who.clone(), want)?.missing_at(entry.at);
    let address = keys
        .need("address", "write the one by which the other nodes reach it, as in address: 192.0.2.1")
        .and_then(|node| address(reader, node, &format!("{who}'s address")));
    let interface = keys.take("interface").and_then(|node| reader.name(node, &format!("{who}'s interface")));
    keys.finish(reader);
    Some(spec::Node { origin: reader.origin(entry.at), address: address?, interface })
}

fn address(reader: &mut Reader, node: &Node, what: &str) -> Option<Given<IpAddr>> {
    reader.value(node, what, ADDRESS, |text| text.parse().ok())
}

/// A network, and whether everything about it could be read.
fn network(reader: &mut Reader, entry: &Entry) -> (Network, bool) {
    let who = format!("The network {}", quoted(&entry.key));
    let mut network = Network { origin: reader.origin(entry.at), ..Network::default() };
    if is_absent(&entry.value) {
        return (network, true);
    }
    let want = "a mapping such as {subnets: [10.0.9.0/24]}";
    let Some(mut keys) = Keys::of(reader, &entry.value, who.clone(), want) else { return (network, false) };
    let before = reader.faults.count();
    if let Some(node) = keys.take("vni") {
        network.vni = reader.number(
            node,
            &format!("{who}'s VNI"),
            &format!("a whole number from 1 to {}", mesh_common::abi::VNI_MAX),
        );
    }
    if let Some(node) = keys.take("subnets") {
        let what = format!("The list of {}'s subnets", lower(&who));
        for item in reader.list(node, &what, "a list such as [10.0.9.0/24]") {
            let what = format!("A subnet of {}", lower(&who));
            let want = "an address and a prefix length such as 10.0.9.0/24 or fd00:9::/64";
            network.subnets.extend(reader.value(item, &what, want, |text| text.parse().ok()));
        }
    }
    if let Some(node) = keys.take("internal") {
        let internal = reader.boolean(node, &format!("{who}'s internal"));
        network.internal = internal.is_some_and(|internal| internal.value);
    }
    if let Some(node) = keys.take("mtu") {
        network.mtu = reader.number(node, &format!("{who}'s MTU"), "a number of bytes such as 1450");
    }
    if let Some(entry) = keys.entry("encrypted") {
        reader.fault(entry.at, format!("{who} is to be encrypted, which is not supported yet; remove that."));
    }
    let sound = keys.finish(reader) && reader.faults.count() == before;
    (network, sound)
}

/// A service, and whether everything about it could be read.
fn service(reader: &mut Reader, entry: &Entry) -> (Service, bool) {
    let who = format!("The service {}", quoted(&entry.key));
    let mut service = Service { origin: reader.origin(entry.at), ..Service::default() };
    let want = "a mapping such as {networks: [blue]}";
    let Some(mut keys) = Keys::of(reader, &entry.value, who.clone(), want) else { return (service, false) };
    let before = reader.faults.count();
    if let Some(node) = keys.take("networks") {
        let what = format!("The list of {}'s networks", lower(&who));
        for item in reader.list(node, &what, "a list such as [blue]") {
            service.networks.extend(reader.name(item, &format!("A network of {}", lower(&who))));
        }
    }
    if let Some(entry) = keys.entry("vip") {
        service.vips = vips(reader, entry, &who);
    }
    if let Some(node) = keys.take("scheduler") {
        service.scheduler = scheduler(reader, node, &who).unwrap_or_default();
    }
    if let Some(node) = keys.take("endpoint_mode") {
        let modes = [("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
        let mode = one_of(reader, node, &format!("{who}'s endpoint mode"), &modes);
        service.endpoint_mode = mode.map(|mode| mode.value).unwrap_or_default();
    }
    if let Some(node) = keys.take("on_no_backend") {
        let ways = [("reject", OnNoBackend::Reject), ("drop", OnNoBackend::Drop)];
        let way = one_of(reader, node, &format!("{who}'s on_no_backend"), &ways);
        service.on_no_backend = way.map(|way| way.value).unwrap_or_default();
    }
    if let Some(node) = keys.take("persistent") {
        let seconds = reader.number(node, &format!("{who}'s persistence"), "a number of seconds such as 300");
        service.persistent = seconds.map(|seconds: Given<NonZeroU32>| seconds.value);
    }
    if let Some(node) = keys.take("health_check") {
        service.health_check = health_check(reader, node, &lower(&who));
    }
    if let Some(node) = keys.take("ports") {
        let what = format!("The list of {}'s ports", lower(&who));
        for item in reader.list(node, &what, "a list such as [\"9200:9200\"]") {
            service.ports.extend(ports(reader, item, &who));
        }
    }
    if let Some(entry) = keys.entry("external") {
        for item in reader.one_or_many(&entry.value) {
            service.external.extend(address(
                reader,
                item,
                &format!("An external address of {}", lower(&who)),
            ));
        }
    }
    service.aliases = aliases(reader, &mut keys, &who);
    if let Some(entry) = keys.entry("backends") {
        reader.fault(
            entry.at,
            format!(
                "{who} has outside backends, which are not supported yet; remove them, and give it networks and \
                 endpoints."
            ),
        );
    }
    let sound = keys.finish(reader) && reader.faults.count() == before;
    (service, sound)
}

fn vips(reader: &mut Reader, entry: &Entry, who: &str) -> BTreeMap<String, Vec<Given<IpAddr>>> {
    let Content::Map(entries) = &entry.value.content else {
        let what = format!("{who}'s VIP");
        if let Content::Scalar { text, .. } = &entry.value.content
            && text.parse::<IpAddr>().is_ok()
        {
            reader.fault(
                entry.value.at,
                format!(
                    "{who} has a VIP outside of networks, which is not supported yet; write one by network, as in \
                     vip: {{blue: 10.0.9.2}}."
                ),
            );
        } else {
            reader.wrong(&entry.value, &what, "an address by network, as in {blue: 10.0.9.2}");
        }
        return BTreeMap::new();
    };
    let mut vips: BTreeMap<String, Vec<Given<IpAddr>>> = BTreeMap::new();
    for entry in entries {
        let what = format!("{who}'s VIP in {}", quoted(&entry.key));
        for item in reader.one_or_many(&entry.value) {
            let vip = reader.value(item, &what, "an IP address such as 10.0.9.2", |text| text.parse().ok());
            vips.entry(entry.key.clone()).or_default().extend(vip);
        }
    }
    vips
}

fn scheduler(reader: &mut Reader, node: &Node, who: &str) -> Option<Scheduler> {
    let what = format!("{who}'s scheduler");
    let name = reader.value(node, &what, "mh or rr", |text| (!text.is_empty()).then(|| text.to_owned()))?;
    match name.value.as_str() {
        "mh" => return Some(Scheduler::Mh),
        "rr" => return Some(Scheduler::Rr),
        known if SCHEDULERS.contains(&known) => {
            reader.fault(node.at, format!("{who}'s scheduler {known} is not supported yet; take mh or rr."));
        }
        unknown => {
            let mend = match nearest(unknown, SCHEDULERS) {
                Some(near) => format!("did you mean {near}?"),
                None => "take mh or rr.".to_owned(),
            };
            reader.fault(node.at, format!("{who} has no scheduler {}; {mend}", quoted(unknown)));
        }
    }
    None
}

/// The ports of an item in Compose's short or long form.
fn ports(reader: &mut Reader, node: &Node, who: &str) -> Vec<Given<PublishedPort>> {
    match &node.content {
        Content::Scalar { .. } if reader.published > MOST_PORTS => {
            reader.fault(
                node.at,
                format!("The file publishes more than {MOST_PORTS} ports, which no node has; publish fewer."),
            );
            Vec::new()
        }
        Content::Scalar { text, .. } if !text.is_empty() => match published_ports(text) {
            Ok(ports) => {
                reader.published += ports.len();
                ports.into_iter().map(|port| reader.given(node.at, port)).collect()
            }
            Err(sentence) => {
                reader.fault(node.at, sentence);
                Vec::new()
            }
        },
        Content::Map(_) => long_port(reader, node, who).into_iter().collect(),
        _ => {
            let want = "a text such as \"9200:80\", or a mapping such as {published: 9200, target: 80}";
            reader.wrong(node, &format!("A port of {}", lower(who)), want);
            Vec::new()
        }
    }
}

fn long_port(reader: &mut Reader, node: &Node, who: &str) -> Option<Given<PublishedPort>> {
    let what = format!("A port of {}", lower(who));
    let mut keys = Keys::of(reader, node, what.clone(), "a mapping")?;
    let target = keys
        .need("target", "write the task's port, as in target: 80")
        .and_then(|node| port_number(reader, node, &format!("The target port of {}", lower(who))));
    let published = keys
        .need("published", "write the nodes' port, as in published: 9200")
        .and_then(|node| port_number(reader, node, &format!("The published port of {}", lower(who))));
    let protocol = match keys.take("protocol") {
        None => Some(Protocol::Tcp),
        Some(node) => {
            let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
            let protocol =
                one_of(reader, node, &format!("The protocol of a port of {}", lower(who)), &protocols);
            protocol.map(|protocol| protocol.value)
        }
    };
    let mode = match keys.take("mode") {
        None => Some(PublishMode::Ingress),
        Some(node) => {
            let modes = [("ingress", PublishMode::Ingress), ("host", PublishMode::Host)];
            one_of(reader, node, &format!("The mode of a port of {}", lower(who)), &modes)
                .map(|mode| mode.value)
        }
    };
    let before = reader.faults.count();
    let host_ip = keys
        .take("host_ip")
        .and_then(|node| address(reader, node, &format!("The host_ip of a port of {}", lower(who))));
    let interface = keys
        .take("interface")
        .and_then(|node| reader.name(node, &format!("The interface of a port of {}", lower(who))));
    let mut nodes = Vec::new();
    if let Some(node) = keys.take("nodes") {
        for item in reader.one_or_many(node) {
            nodes.extend(reader.name(item, &format!("A node of a port of {}", lower(who))));
        }
    }
    let mut sources = Vec::new();
    if let Some(node) = keys.take("sources") {
        for item in reader.one_or_many(node) {
            let what = format!("A source of a port of {}", lower(who));
            let want = "an address, or one with a prefix length, such as 10.0.0.0/8 or 2001:db8::/32";
            sources.extend(reader.value(item, &what, want, |text| source(text).ok()));
        }
        if sources.is_empty() && reader.faults.count() == before {
            reader.fault(
                node.at,
                format!("A port of {} admits no source; name some, or leave sources out.", lower(who)),
            );
        }
    }
    // What should have been a limit and could not be read must not be none.
    let is_sound = reader.faults.count() == before;
    keys.finish(reader);
    let port = PublishedPort {
        published: published?,
        target: target?,
        protocol: protocol?,
        mode: mode?,
        host_ip: host_ip.map(|address| address.value),
        interface: interface.map(|interface| interface.value),
        nodes: nodes.into_iter().map(|node| node.value).collect(),
        sources: sources.into_iter().map(|source| source.value).collect(),
    };
    is_sound.then(|| reader.given(node.at, port))
}

/// A port's number, which Compose also allows in quotes.
fn port_number(reader: &mut Reader, node: &Node, what: &str) -> Option<u16> {
    let port = reader.value(node, what, "a number from 1 to 65535", |text| {
        let plain = text.bytes().all(|digit| digit.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten().filter(|port: &u16| *port > 0)
    })?;
    Some(port.value)
}

fn endpoint(reader: &mut Reader, node: &Node) -> Option<Endpoint> {
    let who = match &node.content {
        Content::Map(entries) => entries
            .iter()
            .find_map(|entry| match &entry.value.content {
                Content::Scalar { text, .. } if entry.key == "name" && !text.is_empty() => Some(text),
                _ => None,
            })
            .map_or_else(|| "This endpoint".to_owned(), |name| format!("The endpoint {}", quoted(name))),
        _ => "An endpoint".to_owned(),
    };
    let want = "a mapping such as {name: search.1, node: n1, network: blue}";
    let mut keys = Keys::of(reader, node, who.clone(), want)?;
    let name = keys
        .need("name", "write one, as in name: search.1")
        .and_then(|node| reader.name(node, &format!("{who}'s name")));
    let on = keys
        .need("node", "write the node that it runs on, as in node: n1")
        .and_then(|node| reader.name(node, &format!("{who}'s node")));
    let network = keys
        .need("network", "write the one that it is on, as in network: blue")
        .and_then(|node| reader.name(node, &format!("{who}'s network")));
    let service = keys.take("service").and_then(|node| reader.name(node, &format!("{who}'s service")));
    let weight = keys
        .take("weight")
        .and_then(|node| reader.number(node, &format!("{who}'s weight"), "a whole number from 0 to 65535"));
    let mut addresses = Vec::new();
    if let Some(node) = keys.take("address") {
        let what = format!("{who}'s address");
        for item in reader.one_or_many(node) {
            let want = "an IP address such as 10.0.9.11";
            addresses.extend(reader.value(item, &what, want, |text| text.parse().ok()));
        }
    }
    let mac = keys.take("mac").and_then(|node| {
        let want = "six pairs of hexadecimal digits such as 02:42:0a:00:09:0b";
        reader.value(node, &format!("{who}'s mac"), want, spec::mac)
    });
    let netns = keys.take("netns").and_then(|node| {
        let want = "a name under /run/netns or an absolute path";
        reader.value(node, &format!("{who}'s netns"), want, spec::netns)
    });
    let aliases = aliases(reader, &mut keys, &who);
    keys.finish(reader);
    Some(Endpoint {
        origin: reader.origin(node.at),
        name: name?,
        node: on?,
        service,
        weight,
        network: network?,
        addresses,
        mac,
        netns,
        aliases,
        remembered: Vec::new(),
    })
}

/// Other names, one or a list.
fn aliases(reader: &mut Reader, keys: &mut Keys<'_>, who: &str) -> Vec<Given<String>> {
    let mut aliases = Vec::new();
    if let Some(node) = keys.take("aliases") {
        for item in reader.one_or_many(node) {
            aliases.extend(reader.name(item, &format!("An alias of {}", lower(who))));
        }
    }
    aliases
}

/// One of a few words.
fn one_of<T: Copy>(reader: &mut Reader, node: &Node, what: &str, words: &[(&str, T)]) -> Option<Given<T>> {
    let want = listed(&words.iter().map(|(word, _)| *word).collect::<Vec<_>>(), "or");
    reader.value(node, what, &want, |text| {
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    })
}
