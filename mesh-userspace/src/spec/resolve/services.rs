//! The rules of services, but for their ports and addresses.

use std::collections::{HashMap, HashSet};

use super::Judge;
use crate::{
    spec::{Origin, Service, quoted},
    table::{EndpointMode, PublishMode},
};

impl Judge<'_> {
    pub(super) fn service_rules(&mut self) {
        for (name, service) in &self.spec.services {
            self.service_networks(name, service);
            self.service_vips(name, service);
            self.service_ports(name, service);
        }
    }

    fn service_networks(&mut self, name: &str, service: &Service) {
        if service.networks.is_empty() && !self.unreadable.services.contains(name) {
            let network = self.spec.networks.keys().next().map_or("blue", String::as_str);
            self.fault(
                &service.origin,
                format!(
                    "The service {} is on no network; name at least one, as in {}.",
                    quoted(name),
                    if !service.origin.is_file() {
                        format!("--network {network}")
                    } else {
                        format!("networks: [{network}]")
                    }
                ),
            );
        }
        let mut seen: HashMap<&str, &Origin> = HashMap::new();
        for network in &service.networks {
            self.network_exists(&format!("The service {}", quoted(name)), network);
            if seen.insert(&network.value, &network.origin).is_some() {
                self.fault(
                    &network.origin,
                    format!(
                        "The service {} names the network {} twice; name it once.",
                        quoted(name),
                        quoted(&network.value)
                    ),
                );
            }
        }
    }

    fn service_vips(&mut self, name: &str, service: &Service) {
        let on: HashSet<&str> = service.networks.iter().map(|network| network.value.as_str()).collect();
        for (network, vips) in &service.vips {
            let Some(first) = vips.first() else { continue };
            if service.endpoint_mode == EndpointMode::Dnsrr {
                self.fault(
                    &first.origin,
                    format!(
                        "The service {} has a VIP, but the endpoint mode dnsrr, which knows none; remove one of \
                         the two.",
                        quoted(name)
                    ),
                );
            } else if !self.unreadable.services.contains(name) && !on.contains(network.as_str()) {
                self.fault(
                    &first.origin,
                    format!(
                        "The service {} has a VIP in the network {}, which it is not on; add that to its networks or \
                         remove the VIP.",
                        quoted(name),
                        quoted(network)
                    ),
                );
            }
        }
    }

    fn service_ports(&mut self, name: &str, service: &Service) {
        let networks: Vec<_> =
            service.networks.iter().map(|network| self.spec.networks.get(&network.value)).collect();
        let internal = !networks.is_empty()
            && networks.iter().all(|network| network.is_some_and(|network| network.internal));
        for port in &service.ports {
            if service.endpoint_mode == EndpointMode::Dnsrr && port.value.mode == PublishMode::Ingress {
                self.fault(
                    &port.origin,
                    format!(
                        "The service {} publishes port {} in ingress mode, which needs a VIP, but has the endpoint \
                         mode dnsrr; publish it in mode host, or use the endpoint mode vip.",
                        quoted(name),
                        port.value.published
                    ),
                );
            }
            if internal {
                self.fault(
                    &port.origin,
                    format!(
                        "The service {} publishes port {}, but is on internal networks only, from which no answer \
                         reaches a client; put it on another network too.",
                        quoted(name),
                        port.value.published
                    ),
                );
            }
        }
    }
}
