//! Entries of the store as objects of the specification, and what is wrong with those that are none.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_cluster::{Entry, Key, Kind, NodeId, Stamp, Store};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::reading::{self, Reading};
use crate::spec::{Endpoint, Given, HealthCheck, Network, Node, Origin, RememberedNetwork, Service};

/// What a node's entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Its underlay address.
    pub address: IpAddr,
    /// The interface that holds the address; found by the address where none is named.
    #[serde(default)]
    pub interface: Option<String>,
    /// Whether it wrote this itself, and so is a member: otherwise a file names it, and it may be a node without meshd.
    #[serde(default)]
    pub member: bool,
    /// See [`Presence::restarts`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
}

/// What a node's entry says of its daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whether it has one, and so is a member.
    pub member: bool,
    /// The incarnation of the daemon that has ended and said that another will follow; none while one runs.
    pub restarts: Option<u64>,
}

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A node, and its daemon.
    Node(Node, Presence),
    /// A network.
    Network(Network),
    /// A service.
    Service(Box<Service>),
    /// A task's attachment.
    Endpoint(Box<Endpoint>),
}

/// An entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// When it was last written.
    pub stamp: Stamp,
    /// When it came to be.
    pub created: Stamp,
    /// What it says, or why that cannot be read, as a sentence without its full stop.
    pub object: Result<Object, String>,
}

impl Reading for Read {
    fn stamp(&self) -> Stamp {
        self.stamp
    }
}

/// The objects of a store, each read once for each time that it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects(BTreeMap<Key, Read>);

impl Objects {
    /// The objects of a store.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        let mut objects = Self::default();
        objects.follow(store);
        objects
    }

    /// Reads what has been written since; returns whether there is anything new.
    pub fn follow(&mut self, store: &Store) -> bool {
        reading::follow(&mut self.0, store, is_object, read)
    }

    /// Every one, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Read)> {
        self.0.iter()
    }

    /// The object of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Read> {
        self.0.get(key)
    }

    /// The nodes that can be read, by name, with what each says of its daemon.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, Presence)> {
        self.0.iter().filter_map(|(key, read)| match &read.object {
            Ok(Object::Node(_, presence)) => Some((key.name.as_str(), *presence)),
            _ => None,
        })
    }

    /// The name of the member that writes by this number: of several that one node wrote of itself, the first.
    #[must_use]
    pub fn writer(&self, node: NodeId) -> Option<&str> {
        let is_member =
            |read: &Read| matches!(&read.object, Ok(Object::Node(_, presence)) if presence.member);
        let members = self.0.iter().filter(|(_, read)| is_member(read));
        let own = members.filter(|(_, read)| read.stamp.node == node);
        own.min_by_key(|(_, read)| read.created).map(|(key, _)| key.name.as_str())
    }
}

/// Whether entries of a kind are objects of the specification.
const fn is_object(kind: Kind) -> bool {
    matches!(kind, Kind::Node | Kind::Network | Kind::Service | Kind::Endpoint)
}

fn read(key: &Key, entry: &Entry, value: &str) -> Read {
    let origin = Origin::cluster(entry.created, key.clone());
    let object = match key.kind {
        Kind::Node => parsed::<NodeEntry>(value).map(|entry| placed_node(entry, &origin)),
        Kind::Network => parsed(value).map(|network| Object::Network(placed_network(network, &origin))),
        Kind::Service => {
            parsed(value).map(|service| Object::Service(Box::new(placed_service(service, &origin))))
        }
        Kind::Endpoint => parsed::<Endpoint>(value).and_then(|endpoint| {
            if endpoint.name.value == key.name {
                Ok(Object::Endpoint(Box::new(placed_endpoint(endpoint, &origin))))
            } else {
                Err(format!("it says that its name is {:?}", endpoint.name.value))
            }
        }),
        Kind::Options | Kind::Health | Kind::Secret => Err("it is of no table".to_owned()),
    };
    Read { stamp: entry.stamp, created: entry.created, object }
}

fn parsed<T: DeserializeOwned>(value: &str) -> Result<T, String> {
    serde_json::from_str(value).map_err(|error| error.to_string())
}

// What a value says, it says where its entry stands. No field is left out, so that none is forgotten.

fn placed_node(entry: NodeEntry, origin: &Origin) -> Object {
    let NodeEntry { address, interface, member, restarts } = entry;
    let node = Node {
        origin: origin.clone(),
        address: Given::new(address, origin.clone()),
        interface: interface.map(|interface| Given::new(interface, origin.clone())),
    };
    Object::Node(node, Presence { member, restarts })
}

fn placed_network(network: Network, at: &Origin) -> Network {
    let Network { origin: _, vni, subnets, internal, mtu, remembered } = network;
    Network {
        origin: at.clone(),
        vni: vni.map(|vni| place(vni, at)),
        subnets: place_all(subnets, at),
        internal,
        mtu: mtu.map(|mtu| place(mtu, at)),
        remembered,
    }
}

fn placed_service(service: Service, at: &Origin) -> Service {
    let Service {
        origin: _,
        networks,
        vips,
        scheduler,
        endpoint_mode,
        on_no_backend,
        persistent,
        health_check,
        ports,
        external,
        aliases,
        remembered,
    } = service;
    Service {
        origin: at.clone(),
        networks: place_all(networks, at),
        vips: vips.into_iter().map(|(network, vips)| (network, place_all(vips, at))).collect(),
        scheduler,
        endpoint_mode,
        on_no_backend,
        persistent,
        health_check: health_check.map(|check| placed_check(check, at)),
        ports: place_all(ports, at),
        external: place_all(external, at),
        aliases: place_all(aliases, at),
        remembered,
    }
}

fn placed_check(check: Given<HealthCheck>, at: &Origin) -> Given<HealthCheck> {
    let HealthCheck { http, tcp, command, port, interval, timeout, rise, fall } = check.value;
    let placed = HealthCheck {
        http: http.map(|http| place(http, at)),
        tcp: tcp.map(|tcp| place(tcp, at)),
        command: command.map(|command| place(command, at)),
        port: port.map(|port| place(port, at)),
        interval: interval.map(|interval| place(interval, at)),
        timeout: timeout.map(|timeout| place(timeout, at)),
        rise: rise.map(|rise| place(rise, at)),
        fall: fall.map(|fall| place(fall, at)),
    };
    Given::new(placed, at.clone())
}

fn placed_endpoint(endpoint: Endpoint, at: &Origin) -> Endpoint {
    let Endpoint {
        origin: _,
        name,
        node,
        service,
        weight,
        network,
        addresses,
        mac,
        netns,
        aliases,
        remembered,
    } = endpoint;
    Endpoint {
        origin: at.clone(),
        name: place(name, at),
        node: place(node, at),
        service: service.map(|service| place(service, at)),
        weight: weight.map(|weight| place(weight, at)),
        network: place(network, at),
        addresses: place_all(addresses, at),
        mac: mac.map(|mac| place(mac, at)),
        netns: netns.map(|netns| place(netns, at)),
        aliases: place_all(aliases, at),
        remembered,
    }
}

fn place<T>(given: Given<T>, at: &Origin) -> Given<T> {
    Given::new(given.value, at.clone())
}

fn place_all<T>(given: Vec<Given<T>>, at: &Origin) -> Vec<Given<T>> {
    given.into_iter().map(|given| place(given, at)).collect()
}

impl Object {
    /// The same without what was allocated for it: what somebody asked for.
    #[must_use]
    pub fn asked(mut self) -> Self {
        match &mut self {
            Self::Node(..) => {}
            Self::Network(network) => network.remembered = RememberedNetwork::default(),
            Self::Service(service) => service.remembered.clear(),
            Self::Endpoint(endpoint) => endpoint.remembered.clear(),
        }
        self
    }

    /// Takes over what was allocated for another of its kind.
    pub fn remember(&mut self, other: &Self) {
        match (self, other) {
            (Self::Network(this), Self::Network(other)) => this.remembered.clone_from(&other.remembered),
            (Self::Service(this), Self::Service(other)) => this.remembered.clone_from(&other.remembered),
            (Self::Endpoint(this), Self::Endpoint(other)) => this.remembered.clone_from(&other.remembered),
            _ => {}
        }
    }

    /// Its entry's value.
    ///
    /// # Errors
    /// It has a path that is no text.
    pub fn value(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Node(node, presence) => serde_json::to_string(&NodeEntry {
                address: node.address.value,
                interface: node.interface.as_ref().map(|interface| interface.value.clone()),
                member: presence.member,
                restarts: presence.restarts,
            }),
            Self::Network(network) => serde_json::to_string(network),
            Self::Service(service) => serde_json::to_string(service),
            Self::Endpoint(endpoint) => serde_json::to_string(endpoint),
        }
    }
}
