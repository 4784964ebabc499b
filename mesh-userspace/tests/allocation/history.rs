//! What happened: what each agent made of its store whenever it looked, what was written on the strength of that, and what
//! was confirmed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
};

use ipnet::IpNet;
use mesh_cluster::{Key, Kind, Stamp};
use mesh_userspace::{
    replica::{Object, Read},
    spec::Given,
    table::{self, Table},
};

/// What can have one owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// A VXLAN network identifier.
    Vni(u32),
    /// A subnet that was allocated; those that are asked for may overlap.
    Subnet(IpNet),
    /// An address in a network.
    Address(Rc<str>, IpAddr),
}

/// An entry of a store, as far as it matters here.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// When the object came to be: with its key, that tells it from one that had the name before or after.
    pub(crate) created: Stamp,
    pub(crate) stamp: Stamp,
    /// What it asks for, and what it was given.
    pub(crate) wants: BTreeSet<Thing>,
    /// What it asks for alone.
    pub(crate) asks: BTreeSet<Thing>,
    /// What it cannot be without.
    pub(crate) needs: Vec<Key>,
    /// The service that it is a task of, and the network that this must be on.
    pub(crate) task_of: Option<(String, String)>,
    /// Whether it is a network that is given its subnet.
    pub(crate) is_given_subnet: bool,
}

fn values<T: Copy>(given: &[Given<T>]) -> impl Iterator<Item = T> {
    given.iter().map(|given| given.value)
}

impl Wish {
    pub(crate) fn of(read: &Read) -> Self {
        let (mut asks, mut given) = (BTreeSet::new(), BTreeSet::new());
        let (mut needs, mut task_of, mut is_given_subnet) = (Vec::new(), None, false);
        match read.object.as_ref().unwrap() {
            Object::Node(..) => {}
            Object::Network(network) => {
                asks.extend(network.vni.iter().map(|vni| Thing::Vni(vni.value)));
                given.extend(network.remembered.vni.map(Thing::Vni));
                is_given_subnet = network.subnets.is_empty();
                given.extend(network.remembered.subnet.filter(|_| is_given_subnet).map(Thing::Subnet));
            }
            Object::Service(service) => {
                for network in &service.networks {
                    needs.push(Key::new(Kind::Network, &network.value));
                    let here: Rc<str> = network.value.as_str().into();
                    let address = |address| Thing::Address(here.clone(), address);
                    asks.extend(
                        service
                            .vips
                            .get(&network.value)
                            .into_iter()
                            .flat_map(|vips| values(vips))
                            .map(address),
                    );
                    let had = service.remembered.get(&network.value).into_iter().flatten().copied();
                    given.extend(had.map(address));
                }
            }
            Object::Endpoint(endpoint) => {
                needs.push(Key::new(Kind::Node, &endpoint.node.value));
                needs.push(Key::new(Kind::Network, &endpoint.network.value));
                let here: Rc<str> = endpoint.network.value.as_str().into();
                let address = |address| Thing::Address(here.clone(), address);
                asks.extend(values(&endpoint.addresses).map(address));
                given.extend(endpoint.remembered.iter().copied().map(address));
                if let Some(service) = &endpoint.service {
                    needs.push(Key::new(Kind::Service, &service.value));
                    task_of = Some((service.value.clone(), endpoint.network.value.clone()));
                }
            }
        }
        let wants = asks.union(&given).cloned().collect();
        Self { created: read.created, stamp: read.stamp, wants, asks, needs, task_of, is_given_subnet }
    }
}

/// What an agent made of its store.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) node: usize,
    /// The digest of the store.
    pub(crate) digest: u128,
    pub(crate) table: Table,
    pub(crate) objects: BTreeMap<Key, Rc<Wish>>,
    /// What is set aside, and why.
    pub(crate) aside: BTreeMap<Key, String>,
}

/// Who has what.
pub(crate) type Owners = BTreeMap<Thing, Vec<Key>>;

impl View {
    pub(crate) fn owners(&self) -> Owners {
        let mut owners = Owners::new();
        let mut own = |thing, kind, name: &str| owners.entry(thing).or_default().push(Key::new(kind, name));
        for (name, network) in &self.table.networks {
            let here: Rc<str> = name.as_str().into();
            own(Thing::Vni(network.vni), Kind::Network, name);
            for gateway in network.gateways() {
                own(Thing::Address(here.clone(), gateway), Kind::Network, name);
            }
            if self.objects.get(&Key::new(Kind::Network, name)).is_some_and(|wish| wish.is_given_subnet) {
                for subnet in &network.subnets {
                    own(Thing::Subnet(*subnet), Kind::Network, name);
                }
            }
        }
        for (name, service) in &self.table.services {
            for (network, vips) in &service.vips {
                for vip in vips {
                    own(Thing::Address(network.as_str().into(), *vip), Kind::Service, name);
                }
            }
        }
        for (name, endpoint) in &self.table.endpoints {
            for address in &endpoint.addresses {
                own(Thing::Address(endpoint.network.as_str().into(), *address), Kind::Endpoint, name);
            }
        }
        owners
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        match key.kind {
            Kind::Node => self.table.nodes.contains_key(&key.name),
            Kind::Network => self.table.networks.contains_key(&key.name),
            Kind::Service => self.table.services.contains_key(&key.name),
            _ => self.table.endpoints.contains_key(&key.name),
        }
    }

    /// The object of a key, if it is the one that came to be then.
    pub(crate) fn life(&self, key: &Key, created: Stamp) -> Option<&Wish> {
        self.objects.get(key).map(|wish| &**wish).filter(|wish| wish.created == created)
    }

    /// Whether an object lacks what it cannot be without, so that it cannot be either.
    pub(crate) fn is_blocked(&self, wish: &Wish) -> bool {
        let is_on = |(service, network): &(String, String)| {
            self.table.services.get(service).is_some_and(|service| service.vips.contains_key(network))
        };
        wish.needs.iter().any(|need| !self.has(need))
            || wish.task_of.as_ref().is_some_and(|task| !is_on(task))
    }

    /// Whether an address can be had in a network as it is here.
    pub(crate) fn fits(&self, thing: &Thing) -> bool {
        let Thing::Address(network, address) = thing else { return true };
        self.table.networks.get(&**network).is_some_and(|network| {
            network.subnets.iter().any(|subnet| {
                subnet.contains(address)
                    && *address != subnet.network()
                    && *address != table::gateway(subnet)
                    && (address.is_ipv6() || *address != subnet.broadcast())
            })
        })
    }

    /// The IPv4 addresses of a network that nobody has.
    pub(crate) fn free(&self, network: &str, owners: &Owners) -> Vec<IpAddr> {
        let subnets = self.table.networks.get(network).map_or(&[][..], |network| &network.subnets);
        let v4 = subnets.iter().filter_map(|subnet| match subnet {
            IpNet::V4(subnet) => Some(subnet.hosts().map(IpAddr::V4)),
            IpNet::V6(_) => None,
        });
        let here: Rc<str> = network.into();
        v4.flatten().filter(|address| !owners.contains_key(&Thing::Address(here.clone(), *address))).collect()
    }
}

/// Something that was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) key: Key,
    pub(crate) stamp: Stamp,
    /// What it says; none for a deletion.
    pub(crate) wish: Option<Rc<Wish>>,
    /// What its writer had under the key before.
    pub(crate) before: Option<Stamp>,
    /// What its writer's agent had made of its store.
    pub(crate) view: usize,
    /// Tells what was written at once.
    pub(crate) batch: usize,
}

/// What everybody who lived said that it had applied.
#[derive(Clone, Debug)]
pub(crate) struct Confirmed {
    /// Which object: its key, and when it came to be.
    pub(crate) key: Key,
    pub(crate) created: Stamp,
    /// The view of the node where it was asked for.
    pub(crate) view: usize,
    /// How many views there were.
    pub(crate) at: usize,
    /// The views of those who ran then.
    pub(crate) views: Vec<usize>,
}

/// Somebody was told that a network is full.
#[derive(Clone, Debug)]
pub(crate) struct Exhausted {
    pub(crate) network: String,
    pub(crate) view: usize,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) views: Vec<View>,
    pub(crate) written: Vec<Written>,
    pub(crate) confirmed: Vec<Confirmed>,
    pub(crate) exhausted: Vec<Exhausted>,
    /// The view of each node in the end.
    pub(crate) ends: Vec<usize>,
    /// Whether each change was everywhere before the next.
    pub(crate) is_orderly: bool,
    /// How many entries agents wrote because settling had moved something.
    pub(crate) amended: usize,
}
