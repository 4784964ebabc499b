//! Who has which address: what was asked for is checked, what was left open is derived or allocated.
//!
//! In each network, in this order: the gateways; the addresses that were asked for, in the order of their places;
//! their derived counterparts of the other family; for the rest the first free address after the gateway,
//! services before endpoints, each in the order of their names. What came by commands comes after all of the
//! file, and first gets what it had before. In a cluster, what an object has counts as asked for when it came to be;
//! only that it is moved where somebody older has it.
//!
//! A derived address that somebody else asked for is a fault, and not moved on to the next free one: whoever
//! reads the file can work out a derived address, and would be wrong. An allocated IPv4 address is one whose
//! derived IPv6 address is free too, so an allocation never runs into that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use imbl::OrdMap;
use ipnet::{IpNet, Ipv6Net};

use super::{Judge, nodes::family};
use crate::{
    spec::{Given, Mac, Origin, Spec, listed, quoted},
    table::{self, EndpointMode},
};

/// Someone who has, or will have, one address of each family of a network.
struct Holder<'a> {
    kind: Kind,
    name: &'a str,
    origin: &'a Origin,
    asked: &'a [Given<IpAddr>],
    remembered: &'a [IpAddr],
    mac: Option<&'a Given<Mac>>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    settled_mac: Option<Mac>,
    /// What it asked for cannot be had, so nothing is allocated for it.
    refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Vip,
    Endpoint,
}

impl Kind {
    const fn noun(self) -> &'static str {
        match self {
            Self::Vip => "service",
            Self::Endpoint => "endpoint",
        }
    }
}

impl Holder<'_> {
    fn who(&self) -> String {
        match self.kind {
            Kind::Vip => format!("the service {}", quoted(self.name)),
            Kind::Endpoint => format!("the endpoint {}", quoted(self.name)),
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6)).collect()
    }

    /// Whether its MAC address follows from an address that it is yet to get.
    fn needs_mac(&self) -> bool {
        self.kind == Kind::Endpoint && self.mac.is_none()
    }
}

impl<'a> Judge<'a> {
    /// The services and endpoints with all of their addresses.
    pub(super) fn addresses(
        &mut self,
        networks: &BTreeMap<String, table::Network>,
    ) -> (OrdMap<String, table::Service>, OrdMap<String, table::Endpoint>) {
        let mut vips: BTreeMap<&str, BTreeMap<String, Vec<IpAddr>>> = BTreeMap::new();
        let mut tasks: HashMap<&str, (Vec<IpAddr>, Mac)> = HashMap::new();
        let mut holders = self.holders();
        for (name, network) in networks {
            let mut holders = holders.remove(name.as_str()).unwrap_or_default();
            if self.unreadable.networks.contains(name) || self.without_room.contains(name) {
                continue;
            }
            Pool::new(name, network).settle(self, &mut holders);
            for holder in holders {
                match holder.kind {
                    Kind::Vip => {
                        vips.entry(holder.name).or_default().insert(name.clone(), holder.addresses());
                    }
                    Kind::Endpoint => {
                        let mac = holder.settled_mac.unwrap_or_default();
                        tasks.insert(holder.name, (holder.addresses(), mac));
                    }
                }
            }
        }

        let services = self.spec.services.iter().map(|(name, service)| {
            let mut ports: Vec<_> = service.ports.iter().map(|port| port.value.clone()).collect();
            ports.sort_by_key(|port| (port.published, port.protocol, port.host_ip));
            let settled = table::Service {
                vips: vips.remove(name.as_str()).unwrap_or_default(),
                scheduler: service.scheduler,
                endpoint_mode: service.endpoint_mode,
                on_no_backend: service.on_no_backend,
                persistent: service.persistent,
                health_check: Self::health_check(service),
                ports,
                external: service.external.iter().map(|address| address.value).collect(),
                aliases: service.aliases.iter().map(|alias| alias.value.clone()).collect(),
            };
            (name.clone(), settled)
        });
        let endpoints = self.spec.endpoints.iter().map(|endpoint| {
            let (addresses, mac) = tasks.remove(endpoint.name.value.as_str()).unwrap_or_default();
            let settled = table::Endpoint {
                node: endpoint.node.value.clone(),
                service: endpoint.service.as_ref().map(|service| service.value.clone()),
                weight: endpoint.weight.as_ref().map_or(table::DEFAULT_WEIGHT, |weight| weight.value),
                network: endpoint.network.value.clone(),
                addresses,
                mac,
                netns: endpoint.netns.as_ref().map(|netns| netns.value.clone()),
                aliases: endpoint.aliases.iter().map(|alias| alias.value.clone()).collect(),
            };
            (endpoint.name.value.clone(), settled)
        });
        (services.collect(), endpoints.collect())
    }

    /// Everyone who has addresses, by network, in the order of allocation.
    fn holders(&self) -> HashMap<&'a str, Vec<Holder<'a>>> {
        let spec: &'a Spec = self.spec;
        let mut holders: HashMap<&str, Vec<Holder<'_>>> = HashMap::new();
        for (name, service) in &spec.services {
            if service.endpoint_mode == EndpointMode::Dnsrr {
                continue;
            }
            let networks: BTreeSet<&str> =
                service.networks.iter().map(|network| network.value.as_str()).collect();
            for network in networks {
                holders.entry(network).or_default().push(Holder {
                    kind: Kind::Vip,
                    name,
                    origin: &service.origin,
                    asked: service.vips.get(network).map_or(&[], Vec::as_slice),
                    remembered: service.remembered.get(network).map_or(&[], Vec::as_slice),
                    mac: None,
                    v4: None,
                    v6: None,
                    settled_mac: None,
                    refused: false,
                });
            }
        }
        for endpoint in &spec.endpoints {
            holders.entry(&endpoint.network.value).or_default().push(Holder {
                kind: Kind::Endpoint,
                name: &endpoint.name.value,
                origin: &endpoint.name.origin,
                asked: &endpoint.addresses,
                remembered: &endpoint.remembered,
                mac: endpoint.mac.as_ref(),
                v4: None,
                v6: None,
                settled_mac: None,
                refused: false,
            });
        }
        for holders in holders.values_mut() {
            holders.sort_by_key(|holder| (holder.origin.turn(), holder.kind, holder.name));
        }
        holders
    }
}

/// The addresses of a network, and who has them.
struct Pool<'a> {
    name: &'a str,
    network: &'a table::Network,
    addresses: HashMap<IpAddr, Owner>,
    macs: HashMap<Mac, Owner>,
    /// Where to go on searching. Addresses are only ever taken, so one that did not do never will.
    searched: HashMap<Search, (usize, u128)>,
    /// Addresses that were refused because the second follows from the first and is taken.
    told: HashSet<(IpAddr, IpAddr)>,
}

/// An address that a holder asks for, or had.
struct Claim {
    /// Which holder.
    index: usize,
    address: Given<IpAddr>,
    is_asked: bool,
}

/// Who has an address.
#[derive(Clone)]
struct Owner {
    who: String,
    /// Where it was asked for; none for a gateway.
    origin: Option<Origin>,
}

/// What is wanted of a free address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Search {
    v6: bool,
    /// The MAC address that follows from it is free too.
    with_mac: bool,
    /// The address of the other family that follows from it is free too.
    with_counterpart: bool,
}

impl<'a> Pool<'a> {
    fn new(name: &'a str, network: &'a table::Network) -> Self {
        let owner = Owner { who: format!("the gateway of the network {}", quoted(name)), origin: None };
        Self {
            name,
            network,
            addresses: network.gateways().map(|gateway| (gateway, owner.clone())).collect(),
            macs: network.gateway_mac().map(|mac| (mac, owner)).into_iter().collect(),
            searched: HashMap::new(),
            told: HashSet::new(),
        }
    }

    fn settle(&mut self, judge: &mut Judge<'_>, holders: &mut [Holder<'_>]) {
        self.take_asked(judge, holders);
        self.take_asked_macs(judge, holders);
        for holder in &mut *holders {
            self.derive(judge, holder);
        }
        for holder in &mut *holders {
            self.derive_mac(judge, holder);
        }
        let (file, commands) =
            holders.split_at_mut(holders.partition_point(|holder| holder.origin.is_file()));
        for holder in file {
            self.allocate(judge, holder);
        }
        for holder in &mut *commands {
            self.take_remembered(holder);
        }
        for holder in commands {
            self.allocate(judge, holder);
        }
    }

    /// Whether the network has addresses of a family.
    fn has(&self, v6: bool) -> bool {
        self.network.subnets.iter().any(|subnet| subnet.addr().is_ipv6() == v6)
    }

    fn own(&mut self, holder: &mut Holder<'_>, address: IpAddr, origin: &Origin) {
        match address {
            IpAddr::V4(v4) => holder.v4 = Some(v4),
            IpAddr::V6(v6) => holder.v6 = Some(v6),
        }
        self.addresses.insert(address, Owner { who: holder.who(), origin: Some(origin.clone()) });
    }

    /// The addresses that were asked for, and those that objects of the cluster have, whoever was first having them.
    fn take_asked(&mut self, judge: &mut Judge<'_>, holders: &mut [Holder<'_>]) {
        let mut claims: Vec<Claim> = Vec::new();
        for (index, holder) in holders.iter().enumerate() {
            let asked = |address: &Given<IpAddr>| Claim { index, address: address.clone(), is_asked: true };
            let had = |address: &IpAddr| Claim {
                index,
                address: Given::new(*address, holder.origin.clone()),
                is_asked: false,
            };
            claims.extend(holder.asked.iter().map(asked));
            claims.extend(holder.remembered.iter().filter(|_| holder.origin.is_cluster()).map(had));
        }
        claims.sort_by(|a, b| a.address.origin.cmp(&b.address.origin));
        for Claim { index, address, is_asked } in claims {
            let Some(holder) = holders.get_mut(index) else { continue };
            match self.unfit(holder, &address) {
                None if is_asked || !holder.refused => self.own(holder, address.value, &address.origin),
                Some(why) if is_asked => {
                    holder.refused = true;
                    let sentence =
                        format!("{} has the address {}, {why}", capital(&holder.who()), address.value);
                    match self.addresses.get(&address.value).and_then(|owner| owner.origin.as_ref()) {
                        Some(other) => judge.fault_between(&address.origin, other, sentence),
                        None => judge.fault(&address.origin, sentence),
                    }
                }
                _ => {}
            }
        }
    }

    /// Why a holder cannot have an address that it asks for, or had.
    fn unfit(&self, holder: &Holder<'_>, address: &Given<IpAddr>) -> Option<String> {
        let network = quoted(self.name);
        let Some(subnet) = self.network.subnets.iter().find(|subnet| subnet.contains(&address.value)) else {
            let subnets: Vec<String> = self.network.subnets.iter().map(ToString::to_string).collect();
            return Some(format!(
                "which is outside of the network {network}; give it one of {}.",
                listed(&subnets, "or")
            ));
        };
        if address.value == subnet.network() {
            return Some(format!("which stands for the subnet {subnet} itself; give it another."));
        }
        if address.value.is_ipv4() && address.value == subnet.broadcast() {
            return Some(format!("which is the broadcast address of {subnet}; give it another."));
        }
        let other = match address.value {
            IpAddr::V4(_) => holder.v4.map(IpAddr::V4),
            IpAddr::V6(_) => holder.v6.map(IpAddr::V6),
        };
        if let Some(other) = other {
            return Some(format!(
                "but also {other}; leave one {} address in the network {network}.",
                family(other)
            ));
        }
        let owner = self.addresses.get(&address.value)?;
        Some(match &owner.origin {
            None => format!("which is {}; give it another.", owner.who),
            Some(there) => format!(
                "which {} has too ({}); give it another.",
                owner.who,
                there.seen_from(&address.origin)
            ),
        })
    }

    fn take_asked_macs(&mut self, judge: &mut Judge<'_>, holders: &mut [Holder<'_>]) {
        let mut asked: Vec<(&mut Holder<'_>, &Given<Mac>)> =
            holders.iter_mut().filter_map(|holder| holder.mac.map(|mac| (holder, mac))).collect();
        asked.sort_by_key(|(_, mac)| &mac.origin);
        for (holder, mac) in asked {
            let who = capital(&holder.who());
            let shown = table::mac_text(mac.value);
            let [first, ..] = mac.value;
            if first & 1 != 0 || mac.value == [0; 6] {
                judge.fault(
                    &mac.origin,
                    format!(
                        "{who} cannot have the MAC address {shown}, which is not that of one interface; give it one such \
                         as 02:42:0a:00:09:0b."
                    ),
                );
            } else if let Some(owner) = self.macs.get(&mac.value) {
                let sentence = match &owner.origin {
                    None => format!("{who} has the MAC address {shown} of {}; give it another.", owner.who),
                    Some(there) => format!(
                        "{who} has the MAC address {shown}, which {} has too ({}); give it another.",
                        owner.who,
                        there.seen_from(&mac.origin)
                    ),
                };
                judge.fault(&mac.origin, sentence);
            } else {
                let owner = Owner { who: holder.who(), origin: Some(mac.origin.clone()) };
                self.macs.insert(mac.value, owner);
                holder.settled_mac = Some(mac.value);
            }
        }
    }

    /// The address of the other family that follows from one: the prefix of the first IPv6 subnet that has
    /// room for it, with the IPv4 address in its last four bytes.
    fn counterpart(&self, address: IpAddr) -> Option<IpAddr> {
        let subnets = self.network.subnets.iter();
        match address {
            IpAddr::V4(v4) => subnets.copied().find_map(|subnet| match subnet {
                IpNet::V6(subnet) => embed(subnet, v4).map(IpAddr::V6),
                IpNet::V4(_) => None,
            }),
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                let v4 = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
                let usable = subnets.clone().any(|subnet| {
                    subnet.contains(&v4)
                        && v4 != subnet.network()
                        && v4 != table::gateway(subnet)
                        && v4 != subnet.broadcast()
                });
                (usable && self.counterpart(v4) == Some(address)).then_some(v4)
            }
        }
    }

    /// What follows from an address that was asked for.
    fn derive(&mut self, judge: &mut Judge<'_>, holder: &mut Holder<'_>) {
        let given = match (holder.v4, holder.v6) {
            (Some(v4), None) if self.has(true) => IpAddr::V4(v4),
            (None, Some(v6)) if self.has(false) => IpAddr::V6(v6),
            _ => return,
        };
        // What follows from an address that it merely had is not promised to anybody.
        if holder.asked.is_empty() {
            return;
        }
        let Some(derived) = self.counterpart(given) else { return };
        let origin = holder.asked.first().map_or(holder.origin, |asked| &asked.origin);
        match self.addresses.get(&derived) {
            None => self.own(holder, derived, origin),
            Some(owner) => {
                let there = owner
                    .origin
                    .as_ref()
                    .map_or_else(String::new, |there| format!(" ({})", there.seen_from(origin)));
                let sentence = format!(
                    "{} has the address {given}, from which {derived} follows, which {} has{there}; give it an \
                     {} address of its own too.",
                    capital(&holder.who()),
                    owner.who,
                    family(derived)
                );
                holder.refused = true;
                // Two that each derive what the other has are told once.
                if self.told.insert((given, derived)) && !self.told.contains(&(derived, given)) {
                    judge.fault(origin, sentence);
                }
            }
        }
    }

    /// The address from which a holder's MAC address follows.
    fn base_of_mac(&self, holder: &Holder<'_>) -> Option<IpAddr> {
        if self.has(false) { holder.v4.map(IpAddr::V4) } else { holder.v6.map(IpAddr::V6) }
    }

    fn derive_mac(&mut self, judge: &mut Judge<'_>, holder: &mut Holder<'_>) {
        let Some(base) = self.base_of_mac(holder) else { return };
        if !holder.needs_mac() || holder.refused {
            return;
        }
        let mac = table::mac_of(base);
        let origin = holder.asked.first().map_or(holder.origin, |asked| &asked.origin);
        if holder.asked.is_empty() && self.macs.contains_key(&mac) {
            self.give_up(holder);
        } else if let Some(owner) = self.macs.get(&mac) {
            let there = owner
                .origin
                .as_ref()
                .map_or_else(String::new, |there| format!(" ({})", there.seen_from(origin)));
            let sentence = format!(
                "{} has the address {base}, from which the MAC address {} follows, which {} has{there}; give it a mac \
                 of its own.",
                capital(&holder.who()),
                table::mac_text(mac),
                owner.who
            );
            judge.fault(origin, sentence);
        } else {
            self.own_mac(holder, mac);
        }
    }

    /// Gives up the addresses that a holder had: others are allocated for it.
    fn give_up(&mut self, holder: &mut Holder<'_>) {
        for address in holder.addresses() {
            self.addresses.remove(&address);
        }
        (holder.v4, holder.v6) = (None, None);
    }

    fn own_mac(&mut self, holder: &mut Holder<'_>, mac: Mac) {
        self.macs.insert(mac, Owner { who: holder.who(), origin: Some(holder.origin.clone()) });
        holder.settled_mac = Some(mac);
    }

    fn is_free(&self, address: IpAddr) -> bool {
        !self.addresses.contains_key(&address)
    }

    /// What a holder had before, where nobody else has asked for it.
    fn take_remembered(&mut self, holder: &mut Holder<'_>) {
        for &address in holder.remembered {
            let missing = if address.is_ipv4() { holder.v4.is_none() } else { holder.v6.is_none() };
            let decides_mac = holder.needs_mac() && address.is_ipv4() == self.has(false);
            let usable = self.network.subnets.iter().any(|subnet| {
                let (first, last) = candidates(subnet);
                subnet.contains(&address) && (first..=last).contains(&bits(address))
            });
            if missing
                && usable
                && !holder.refused
                && self.is_free(address)
                && !(decides_mac && self.macs.contains_key(&table::mac_of(address)))
            {
                self.own(holder, address, holder.origin);
                if decides_mac {
                    self.own_mac(holder, table::mac_of(address));
                }
            }
        }
    }

    /// The first free addresses for what a holder still lacks.
    fn allocate(&mut self, judge: &mut Judge<'_>, holder: &mut Holder<'_>) {
        if holder.refused {
            return;
        }
        for v6 in [false, true] {
            let missing = if v6 { holder.v6.is_none() } else { holder.v4.is_none() };
            if !missing || !self.has(v6) {
                continue;
            }
            // What was just allocated has a free counterpart.
            if v6
                && let Some(derived) = holder.v4.and_then(|v4| self.counterpart(v4.into()))
                && self.is_free(derived)
            {
                self.own(holder, derived, holder.origin);
                continue;
            }
            let search = Search {
                v6,
                with_mac: holder.needs_mac() && v6 != self.has(false),
                with_counterpart: !v6 && holder.v6.is_none() && self.has(true),
            };
            let begin = judge.begin(holder.kind.noun(), holder.name, self.name);
            let found = match begin {
                Some(begin) => self.search_from(search, begin),
                None => self.search(search),
            };
            let Some(address) = found else {
                holder.refused = true;
                judge.fault_of_room(
                    holder.origin,
                    format!(
                        "The network {} has no free {} address left for {}; give the network a larger subnet.",
                        quoted(self.name),
                        if v6 { "IPv6" } else { "IPv4" },
                        holder.who()
                    ),
                );
                return;
            };
            self.own(holder, address, holder.origin);
            if search.with_mac {
                self.own_mac(holder, table::mac_of(address));
            }
        }
    }

    /// Whether an address is what is wanted.
    fn does(&self, address: IpAddr, search: Search) -> bool {
        self.is_free(address)
            && !(search.with_mac && self.macs.contains_key(&table::mac_of(address)))
            && !(search.with_counterpart
                && self.counterpart(address).is_some_and(|other| !self.is_free(other)))
    }

    /// A free address from a place on, and round to it again.
    fn search_from(&mut self, search: Search, begin: u64) -> Option<IpAddr> {
        let all_searched = (self.network.subnets.len(), 0);
        if self.searched.get(&search) == Some(&all_searched) {
            return None;
        }
        let subnets = self.network.subnets.iter().filter(|subnet| subnet.addr().is_ipv6() == search.v6);
        let ranges: Vec<(u128, u128)> =
            subnets.map(candidates).filter(|(first, last)| first <= last).collect();
        let total = ranges.iter().fold(0_u128, |sum, (first, last)| sum.saturating_add(last - first + 1));
        let at = |mut number: u128| {
            ranges.iter().find_map(|(first, last)| {
                let count = last - first + 1;
                if number < count {
                    return Some(first + number);
                }
                number -= count;
                None
            })
        };
        let begin = if total == 0 { 0 } else { u128::from(begin) % total };
        let found = (begin..total).chain(0..begin).find_map(|number| {
            let bits = at(number)?;
            let address = if search.v6 {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            } else {
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).ok()?))
            };
            self.does(address, search).then_some(address)
        });
        if found.is_none() {
            self.searched.insert(search, all_searched);
        }
        found
    }

    fn search(&mut self, search: Search) -> Option<IpAddr> {
        let (start, mut next) = self.searched.get(&search).copied().unwrap_or_default();
        for (index, subnet) in self.network.subnets.iter().enumerate().skip(start) {
            if subnet.addr().is_ipv6() != search.v6 {
                continue;
            }
            let (first, last) = candidates(subnet);
            if index > start || next < first {
                next = first;
            }
            while next <= last {
                let address = if search.v6 {
                    IpAddr::V6(Ipv6Addr::from_bits(next))
                } else {
                    IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(next).ok()?))
                };
                next += 1;
                if self.does(address, search) {
                    self.searched.insert(search, (index, next));
                    return Some(address);
                }
            }
        }
        self.searched.insert(search, (self.network.subnets.len(), 0));
        None
    }
}

/// An IPv6 subnet's prefix with an IPv4 address in its last four bytes.
fn embed(subnet: Ipv6Net, v4: Ipv4Addr) -> Option<Ipv6Addr> {
    const BITS_BEFORE_IT: u8 = 96;
    (subnet.prefix_len() <= BITS_BEFORE_IT)
        .then(|| Ipv6Addr::from_bits(subnet.network().to_bits() | u128::from(v4.to_bits())))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first and the last address of a subnet that can be allocated: what comes after the gateway, and before
/// IPv4's broadcast address.
fn candidates(subnet: &IpNet) -> (u128, u128) {
    let first = bits(table::gateway(subnet)).saturating_add(1);
    let last = bits(subnet.broadcast());
    // IPv6's very last address is none that a network may have; leaving it out here keeps the search finite.
    if subnet.addr().is_ipv4() { (first, last.saturating_sub(1)) } else { (first, last.min(u128::MAX - 1)) }
}

fn capital(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
