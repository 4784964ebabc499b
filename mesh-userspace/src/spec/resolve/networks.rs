//! The rules of networks, and the allocation of VNIs and subnets.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh_common::abi::VNI_MAX;

use super::{Judge, in_order};
use crate::{
    spec::{Given, Network, Origin, quoted},
    table,
};

/// The first VNI that is allocated, as in Docker Swarm.
const FIRST_VNI: u32 = 4096;
/// How many subnets a network may have: nobody needs more, and each address is held against all of them.
const MOST_SUBNETS: usize = 16;
/// The smallest MTU of IPv4 (RFC 791: every host takes 576 bytes).
const LEAST_MTU: u32 = 576;
/// The smallest MTU of IPv6 (RFC 8200, section 5).
const LEAST_MTU_V6: u32 = 1280;
/// The longest IP packet whose length fits its header.
const GREATEST_MTU: u32 = 65535;

/// Where an overlay network cannot be, and why.
const RESERVED: [(IpNet, &str); 12] = {
    const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> IpNet {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix))
    }
    const fn v6(a: u16, b: u16, c: u16, f: u16, prefix: u8) -> IpNet {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, f, 0, 0), prefix))
    }
    [
        (v4(0, 0, 0, 8), "addresses of \"this host\""),
        (v4(127, 0, 0, 8), "loopback addresses"),
        (v4(169, 254, 0, 16), "link-local addresses"),
        (v4(224, 0, 0, 4), "multicast addresses"),
        (v4(240, 0, 0, 4), "addresses reserved by IPv4"),
        (v6(0, 0, 0, 0, 96), "loopback and IPv4-compatible addresses"),
        (v6(0, 0, 0, 0xffff, 96), "IPv4 addresses written as IPv6"),
        (v6(0xfe80, 0, 0, 0, 10), "link-local addresses"),
        (v6(0xff00, 0, 0, 0, 8), "multicast addresses"),
        (v6(0xfdfe, 0x6d65, 0x7368, 0, 64), "addresses that the mesh uses inside of each node"),
        (v6(0x64, 0xff9b, 0, 0, 96), "addresses of NAT64"),
        (v6(0x100, 0, 0, 0, 64), "addresses that are discarded"),
    ]
};

impl<'a> Judge<'a> {
    pub(super) fn networks(&mut self) -> BTreeMap<String, table::Network> {
        let spec = self.spec;
        let vnis = self.vnis();
        let nodes: NodesByAddress<'_> = spec
            .nodes
            .iter()
            .map(|(name, node)| (node.address.value, (name.as_str(), &node.address.origin)))
            .collect();
        for (name, network) in &spec.networks {
            self.subnets(name, network, &nodes);
            self.mtu(name, network);
        }
        let allocated = self.allocated_subnets(&nodes);
        spec.networks
            .iter()
            .map(|(name, network)| {
                let subnets = if network.subnets.is_empty() {
                    allocated.get(name.as_str()).copied().into_iter().collect()
                } else {
                    network.subnets.iter().map(|subnet| subnet.value).collect()
                };
                (
                    name.clone(),
                    table::Network {
                        vni: vnis.get(name.as_str()).copied().unwrap_or_default(),
                        subnets,
                        internal: network.internal,
                        mtu: network.mtu.as_ref().map(|mtu| mtu.value),
                    },
                )
            })
            .collect()
    }

    /// The networks' VNIs: those that are given; the first free for others of the file; then, for what came by
    /// commands, those that it had before, or the first free.
    fn vnis(&mut self) -> HashMap<&'a str, u32> {
        let given = self.given_vnis();
        let mut taken: HashSet<u32> = given.values().copied().collect();
        let mut vnis = given;
        let open: Vec<(&str, &Network)> =
            in_order(self.spec.networks.iter().filter(|(_, network)| network.vni.is_none()), |network| {
                &network.origin
            });
        let (file, commands) = open.split_at(open.partition_point(|(_, network)| network.origin.is_file()));
        let mut from = FIRST_VNI;
        // A specification cannot hold as many networks as there are VNIs, so some is free.
        let mut first_free = |name: &str, taken: &mut HashSet<u32>| {
            if let Some(begin) = self.begin("vni", name, "") {
                let begin =
                    FIRST_VNI + u32::try_from(begin % u64::from(VNI_MAX - FIRST_VNI)).unwrap_or_default();
                let all = (begin..=VNI_MAX).chain(FIRST_VNI..begin);
                return all.into_iter().find(|vni| taken.insert(*vni)).unwrap_or_default();
            }
            let vni = (from..=VNI_MAX).find(|vni| taken.insert(*vni)).unwrap_or_default();
            from = vni;
            vni
        };
        for (name, _) in file {
            vnis.insert(name, first_free(name, &mut taken));
        }
        for (name, network) in commands {
            if let Some(vni) = network.remembered.vni.filter(|vni| (1..=VNI_MAX).contains(vni))
                && !vnis.contains_key(name)
                && taken.insert(vni)
            {
                vnis.insert(name, vni);
            }
        }
        for (name, _) in commands {
            if !vnis.contains_key(name) {
                vnis.insert(name, first_free(name, &mut taken));
            }
        }
        vnis
    }

    /// The VNIs that are asked for, and in a cluster those that networks have, whoever was there first having each.
    fn given_vnis(&mut self) -> HashMap<&'a str, u32> {
        let spec = self.spec;
        let mut given: Vec<(&str, Given<u32>, bool)> = spec
            .networks
            .iter()
            .filter_map(|(name, network)| match (&network.vni, network.remembered.vni) {
                (Some(asked), _) => Some((name.as_str(), asked.clone(), true)),
                (None, Some(had)) if network.origin.is_cluster() => {
                    Some((name.as_str(), Given::new(had, network.origin.clone()), false))
                }
                (None, _) => None,
            })
            .collect();
        given.sort_by(|(_, a, _), (_, b, _)| a.origin.cmp(&b.origin));
        let mut vnis = HashMap::new();
        let mut holders: HashMap<u32, (&str, Origin)> = HashMap::new();
        for (name, vni, is_asked) in given {
            let is_free = (1..=VNI_MAX).contains(&vni.value) && !holders.contains_key(&vni.value);
            if !is_asked && !is_free {
                continue;
            }
            if vni.value == 0 || vni.value > VNI_MAX {
                self.fault(
                    &vni.origin,
                    format!(
                        "The network {} cannot have the VNI {}; take one from 1 to {VNI_MAX}.",
                        quoted(name),
                        vni.value
                    ),
                );
            } else if let Some((other, there)) = holders.get(&vni.value) {
                self.fault_between(
                    &vni.origin,
                    there,
                    format!(
                        "The network {} has the VNI {}, which the network {} has too ({}); each needs its own.",
                        quoted(name),
                        vni.value,
                        quoted(other),
                        there.seen_from(&vni.origin)
                    ),
                );
            } else {
                vnis.insert(name, vni.value);
                holders.insert(vni.value, (name, vni.origin));
            }
        }
        vnis
    }

    fn subnets(&mut self, name: &str, network: &Network, nodes: &NodesByAddress<'_>) {
        if let Some(subnet) = network.subnets.get(MOST_SUBNETS) {
            self.without_room.insert(name.to_owned());
            self.fault(
                &subnet.origin,
                format!(
                    "The network {} has more than {MOST_SUBNETS} subnets; give it fewer and larger ones.",
                    quoted(name)
                ),
            );
            return;
        }
        for subnet in &network.subnets {
            self.subnet(name, subnet, nodes);
        }
        // Two prefixes are either apart or one in the other, so it is enough to compare each, in the order of
        // their addresses, with the last one that it might lie in.
        let mut subnets: Vec<&Given<IpNet>> = network.subnets.iter().collect();
        subnets.sort_by_key(|subnet| (subnet.value.network(), subnet.value.prefix_len()));
        let mut outer: Option<&Given<IpNet>> = None;
        for subnet in subnets {
            match outer {
                Some(outer) if outer.value.contains(&subnet.value.network()) => {
                    let (first, second) =
                        if outer.origin <= subnet.origin { (outer, subnet) } else { (subnet, outer) };
                    self.fault(
                        &second.origin,
                        format!(
                            "The subnet {} of the network {} overlaps its subnet {} ({}); give it another or leave it away.",
                            second.value,
                            quoted(name),
                            first.value,
                            first.origin.seen_from(&second.origin)
                        ),
                    );
                }
                _ => outer = Some(subnet),
            }
        }
    }

    fn subnet(&mut self, name: &str, subnet: &Given<IpNet>, nodes: &NodesByAddress<'_>) {
        let net = subnet.value;
        if net.trunc() != net {
            self.fault(
                &subnet.origin,
                format!(
                    "The subnet {net} of the network {} is an address within a subnet; write {}.",
                    quoted(name),
                    net.trunc()
                ),
            );
        }
        let longest = if net.addr().is_ipv4() { 30 } else { 126 };
        if net.prefix_len() > longest {
            self.without_room.insert(name.to_owned());
            self.fault(
                &subnet.origin,
                format!(
                    "The subnet {net} of the network {} has no room for a gateway and a task; take a prefix of \
                     /{longest} or shorter.",
                    quoted(name)
                ),
            );
        }
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| overlap(*reserved, net)) {
            self.fault(
                &subnet.origin,
                format!(
                    "The subnet {net} of the network {} holds {why}; take a private one, such as {}.",
                    quoted(name),
                    if net.addr().is_ipv4() { "10.0.9.0/24" } else { "fd00:9::/64" }
                ),
            );
        }
        self.node_within(name, subnet.value, &subnet.origin, nodes);
    }

    /// That no node's address lies in a subnet. Where the subnet was there first, each node is told.
    fn node_within(&mut self, name: &str, net: IpNet, origin: &Origin, nodes: &NodesByAddress<'_>) {
        let within = || nodes.range(net.network()..=net.broadcast());
        let is_first = within().all(|(_, (_, there))| *there > origin);
        let told = if is_first { usize::MAX } else { 1 };
        let mut within: Vec<_> = within().collect();
        within.sort_by_key(|(address, (_, there))| (*there > origin, **address));
        for (address, (node, there)) in within.into_iter().take(told) {
            self.fault_between(
                origin,
                there,
                format!(
                    "The subnet {net} of the network {} holds the address {address} of the node {}; take one that \
                     is not in use outside the mesh.",
                    quoted(name),
                    quoted(node)
                ),
            );
        }
    }

    fn mtu(&mut self, name: &str, network: &Network) {
        let Some(mtu) = &network.mtu else { return };
        let v6 = network.subnets.iter().any(|subnet| subnet.value.addr().is_ipv6());
        let least = if v6 { LEAST_MTU_V6 } else { LEAST_MTU };
        if !(least..=GREATEST_MTU).contains(&mtu.value) {
            self.fault(
                &mtu.origin,
                format!(
                    "The network {} cannot have the MTU {}; {} needs one from {least} to {GREATEST_MTU} bytes.",
                    quoted(name),
                    mtu.value,
                    if v6 { "IPv6" } else { "IPv4" }
                ),
            );
        }
    }

    /// A /24 of 10.0.0.0/8 for each network that names no subnet.
    fn allocated_subnets(&mut self, by_address: &NodesByAddress<'_>) -> HashMap<&'a str, IpNet> {
        let spec = self.spec;
        let subnets = spec.networks.values().flat_map(|network| &network.subnets).map(|subnet| subnet.value);
        let nodes = spec.nodes.values().map(|node| IpNet::from(node.address.value));
        let mut pool = Pool::new(subnets.chain(nodes));
        let open = in_order(
            spec.networks.iter().filter(|(name, network)| {
                network.subnets.is_empty() && !self.unreadable.networks.contains(*name)
            }),
            |network| &network.origin,
        );
        let (file, commands) = open.split_at(open.partition_point(|(_, network)| network.origin.is_file()));
        let mut allocated = HashMap::new();
        for (name, network) in file {
            self.allocate_subnet(name, network, &mut pool, &mut allocated);
        }
        for (name, network) in commands {
            let Some(subnet) = network.remembered.subnet else { continue };
            if network.origin.is_cluster() {
                if !self.is_older_within(subnet, &network.origin, by_address) && pool.keep(subnet) {
                    allocated.insert(*name, subnet);
                    self.node_within(name, subnet, &network.origin, by_address);
                }
            } else if pool.take(subnet) {
                allocated.insert(*name, subnet);
            }
        }
        for (name, network) in commands {
            if !allocated.contains_key(name) {
                self.allocate_subnet(name, network, &mut pool, &mut allocated);
            }
        }
        allocated
    }

    /// Whether what was allocated for a network overlaps what somebody has who was there before it.
    fn is_older_within(&self, subnet: IpNet, origin: &Origin, nodes: &NodesByAddress<'_>) -> bool {
        let older = |there: &Origin| there < origin;
        let asked = self.spec.networks.values().flat_map(|network| &network.subnets);
        nodes.range(subnet.network()..=subnet.broadcast()).any(|(_, (_, there))| older(there))
            || asked.into_iter().any(|asked| older(&asked.origin) && overlap(asked.value, subnet))
    }

    fn allocate_subnet(
        &mut self,
        name: &'a str,
        network: &Network,
        pool: &mut Pool,
        allocated: &mut HashMap<&'a str, IpNet>,
    ) {
        let found = match self.begin("subnet", name, "") {
            Some(begin) => pool.next_from(begin),
            None => pool.next(),
        };
        match found {
            Some(subnet) => {
                allocated.insert(name, subnet);
            }
            None => {
                self.without_room.insert(name.to_owned());
                self.fault(
                    &network.origin,
                    format!(
                        "No /24 of 10.0.0.0/8 is left for the network {}; give it subnets.",
                        quoted(name)
                    ),
                );
            }
        }
    }
}

/// The nodes' names and places by their addresses.
type NodesByAddress<'a> = BTreeMap<IpAddr, (&'a str, &'a Origin)>;

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The /24s of 10.0.0.0/8, in their order.
struct Pool {
    /// The first and the last address of what is in use, by the first one; the last one is the greatest so far.
    used: Vec<(u32, u32)>,
    taken: HashSet<u32>,
    next: u32,
}

impl Pool {
    const FIRST: u32 = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    const LAST: u32 = Ipv4Addr::new(10, 255, 255, 0).to_bits();
    const STEP: usize = 1 << 8;

    /// The pool without what overlaps any of some subnets.
    fn new(used: impl Iterator<Item = IpNet>) -> Self {
        let mut used: Vec<(u32, u32)> = used
            .filter_map(|subnet| match subnet {
                IpNet::V4(subnet) => Some((subnet.network().to_bits(), subnet.broadcast().to_bits())),
                IpNet::V6(_) => None,
            })
            .collect();
        used.sort_unstable();
        let mut greatest = 0;
        for (_, last) in &mut used {
            greatest = greatest.max(*last);
            *last = greatest;
        }
        Self { used, taken: HashSet::new(), next: Self::FIRST }
    }

    fn is_free(&self, address: u32) -> bool {
        let begun = self.used.partition_point(|(first, _)| *first <= address | 0xff);
        let ended = self.used.get(..begun).and_then(<[_]>::last).is_none_or(|(_, last)| *last < address);
        ended && !self.taken.contains(&address)
    }

    /// Takes a /24 of the pool if it is free.
    fn take(&mut self, subnet: IpNet) -> bool {
        Self::number(subnet).is_some_and(|address| self.is_free(address) && self.taken.insert(address))
    }

    /// Takes a /24 of the pool if nobody else has taken it.
    fn keep(&mut self, subnet: IpNet) -> bool {
        Self::number(subnet).is_some_and(|address| self.taken.insert(address))
    }

    /// The address of a /24 of the pool.
    fn number(subnet: IpNet) -> Option<u32> {
        let IpNet::V4(subnet) = subnet else { return None };
        let address = subnet.addr().to_bits();
        let ours = subnet.prefix_len() == 24
            && subnet.trunc() == subnet
            && (Self::FIRST..=Self::LAST).contains(&address);
        ours.then_some(address)
    }

    /// Takes the first free /24 from a place on, and round to it again.
    fn next_from(&mut self, begin: u64) -> Option<IpNet> {
        let count = (Self::LAST - Self::FIRST) / 256 + 1;
        let begin = Self::FIRST + u32::try_from(begin % u64::from(count)).unwrap_or_default() * 256;
        let all = (begin..=Self::LAST).step_by(Self::STEP).chain((Self::FIRST..begin).step_by(Self::STEP));
        let address = all.into_iter().find(|address| self.is_free(*address))?;
        self.taken.insert(address);
        Some(Ipv4Net::new(Ipv4Addr::from_bits(address), 24).ok()?.into())
    }

    /// Takes the first free /24.
    fn next(&mut self) -> Option<IpNet> {
        let address = (self.next..=Self::LAST).step_by(Self::STEP).find(|address| self.is_free(*address))?;
        self.taken.insert(address);
        self.next = address;
        Some(Ipv4Net::new(Ipv4Addr::from_bits(address), 24).ok()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(used: &[&str]) -> Pool {
        Pool::new(used.iter().map(|subnet| subnet.parse().expect("a subnet")))
    }

    fn next(pool: &mut Pool) -> String {
        pool.next().map_or_else(|| "none".to_owned(), |subnet| subnet.to_string())
    }

    #[test]
    fn the_pool_gives_what_is_in_use_nowhere() {
        let mut free = pool(&["10.0.0.0/16", "10.0.9.0/24", "10.1.1.128/25", "10.1.3.7/32", "fd00::/64"]);
        assert_eq!(next(&mut free), "10.1.0.0/24");
        assert_eq!(next(&mut free), "10.1.2.0/24");
        assert_eq!(next(&mut free), "10.1.4.0/24");
        assert!(free.take("10.1.6.0/24".parse().expect("a subnet")));
        assert_eq!(next(&mut free), "10.1.5.0/24");
        assert_eq!(next(&mut free), "10.1.7.0/24");
        for not_ours in
            ["10.1.7.0/24", "10.0.3.0/24", "10.2.0.0/16", "10.2.0.1/24", "11.0.0.0/24", "fd00::/24"]
        {
            assert!(!free.take(not_ours.parse().expect("a subnet")), "{not_ours}");
        }
    }

    #[test]
    fn the_pool_ends() {
        let mut free = pool(&["0.0.0.0/5", "8.0.0.0/7", "10.0.0.0/9", "10.128.0.0/10", "10.192.0.0/11"]);
        assert_eq!(next(&mut free), "10.224.0.0/24");
        let rest = std::iter::from_fn(|| free.next()).count();
        assert_eq!(rest, 32 * 256 - 1);
        assert_eq!(next(&mut pool(&["10.0.0.0/8"])), "none");
        assert_eq!(next(&mut pool(&["0.0.0.0/0"])), "none");
    }
}
