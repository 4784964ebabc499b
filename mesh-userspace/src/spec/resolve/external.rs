//! The rules of external addresses: nobody else's, and there for something.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{Judge, nodes::unfit};
use crate::{
    spec::{Given, Origin, Service, quoted},
    table,
};

impl Judge<'_> {
    /// That what is routed to several nodes for a service is an address of none of them, nor of a network. Several
    /// services may share one, if not its ports.
    pub(super) fn external_rules(&mut self, networks: &BTreeMap<String, table::Network>) {
        let spec = self.spec;
        for (name, service) in &spec.services {
            let mut seen: HashMap<IpAddr, &Origin> = HashMap::new();
            for address in &service.external {
                let which =
                    format!("The service {} has the external address {}", quoted(name), address.value);
                if let Some(there) = seen.insert(address.value, &address.origin) {
                    self.fault(
                        &address.origin,
                        format!("{which} twice (first: {}); give it once.", there.seen_from(&address.origin)),
                    );
                    continue;
                }
                if let Some((other, why)) = self.why_not_external(address, networks) {
                    self.fault_between(
                        &address.origin,
                        &other,
                        format!(
                            "{which}, {why}; give it one that is routed to the nodes and is nobody else's."
                        ),
                    );
                } else if !self.answers_at(name, service, address.value) {
                    self.fault(
                        &address.origin,
                        format!(
                            "{which}, but publishes no port there; publish one, as in ports: [\"80:8080\"], or \
                             remove the address."
                        ),
                    );
                }
            }
        }
    }

    /// Why an address cannot be routed to several nodes for a service, and where what it clashes with was asked for.
    fn why_not_external(
        &self,
        address: &Given<IpAddr>,
        networks: &BTreeMap<String, table::Network>,
    ) -> Option<(Origin, String)> {
        let (value, origin) = (address.value, &address.origin);
        if let Some(why) = unfit(value) {
            return Some((origin.clone(), why.to_owned()));
        }
        if let Some((name, node)) = self.spec.nodes.iter().find(|(_, node)| node.address.value == value) {
            let place = node.address.origin.seen_from(origin);
            return Some((
                node.address.origin.clone(),
                format!("which is that of the node {} ({place})", quoted(name)),
            ));
        }
        let vips = self
            .spec
            .services
            .iter()
            .flat_map(|(name, service)| service.vips.values().flatten().map(move |vip| (name, vip)));
        for (name, vip) in vips {
            if vip.value == value {
                let place = vip.origin.seen_from(origin);
                return Some((
                    vip.origin.clone(),
                    format!("which is a VIP of the service {} ({place})", quoted(name)),
                ));
            }
        }
        networks.iter().find_map(|(name, network)| {
            let subnet = network.subnets.iter().find(|subnet| subnet.contains(&value))?;
            let asked = self.spec.networks.get(name)?;
            let sentence = format!("which lies in the subnet {subnet} of the network {}", quoted(name));
            Some((asked.origin.clone(), sentence))
        })
    }

    /// Whether a port of a service answers at an external address of its.
    fn answers_at(&self, name: &str, service: &Service, address: IpAddr) -> bool {
        let answers = |port: &table::PublishedPort| {
            port.host_ip.map_or(port.interface.is_none(), |host_ip| host_ip == address)
        };
        self.unreadable.services.contains(name) || service.ports.iter().any(|port| answers(&port.value))
    }
}
