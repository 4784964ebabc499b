//! What a task sends: the decisions of the pipeline's `from_endpoint`, in its order.

use mesh_common::{Reason, abi::Address};

use super::{End, Story, Target, wire::Caller};
use crate::{
    api::{
        types::{EndpointState, Verdict},
        views::{endpoint_at, state},
    },
    table::{Endpoint, Network, Protocol},
};

/// DNS's port.
const DNS: u16 = 53;

impl<'a> Story<'a> {
    /// A packet that a task sends.
    pub(super) fn sent_by_task(
        &mut self,
        name: &'a str,
        endpoint: &'a Endpoint,
        network_name: &'a str,
        network: &'a Network,
    ) -> End {
        let to = self.query.to.address;
        self.why.push(format!(
            "{} is {name}'s address on {network_name} (VNI {}), attached on {}",
            self.query.from.address, network.vni, endpoint.node
        ));
        if let EndpointState::Waiting(why) = state(self.snapshot, name, endpoint) {
            self.why.push(format!("{name} is not attached, so it can send nothing: {why}"));
            return End::dropped(Reason::NotAttached);
        }
        if Address::from(to).is_multicast() {
            return End::dropped(Reason::Multicast);
        }
        if let Some((target_name, target)) = endpoint_at(&self.snapshot.table, network_name, to) {
            self.why
                .push(format!("{to} is {target_name}'s address on {network_name}: no service is involved"));
            let target = Target { name: target_name, endpoint: target, address: to, vni: network.vni };
            return self.delivered(
                &endpoint.node,
                &target,
                self.port,
                None,
                "the answer comes straight back",
            );
        }
        if network.gateways().any(|gateway| gateway == to) {
            self.why.push(format!("{to} is the gateway of {network_name}"));
            return self.asked_gateway(endpoint, network_name, network);
        }
        if let Some(asked) = self.asked_vip(network_name, network) {
            return self.balanced(
                &endpoint.node,
                &asked,
                Caller::Client,
                "the answer comes back translated by the same node",
            );
        }
        if network.subnets.iter().any(|subnet| subnet.contains(&to)) {
            self.why.push(format!("{to} lies in a subnet of {network_name}, and nothing there has it"));
            self.instead.push(format!("`meshctl networks inspect {network_name}` shows what is on it"));
            return End::dropped(Reason::NoSuchEndpoint);
        }
        self.outward(network_name, network, &endpoint.node)
    }

    /// A task's packet to its network's gateway, which answers for names by the first address of each family.
    fn asked_gateway(&mut self, endpoint: &Endpoint, network_name: &str, network: &Network) -> End {
        let to = self.query.to.address;
        let first = network.gateways().find(|gateway| gateway.is_ipv4() == to.is_ipv4());
        if !self.snapshot.table.options.dns || endpoint.netns.is_none() || first != Some(to) {
            return End::dropped(Reason::Gateway);
        }
        if self.port != DNS {
            let refused = format!(
                "refused by the gateway of {network_name}, which answers ping, and questions for names at port {DNS}"
            );
            return End::plain(Verdict::Dropped, refused);
        }
        End {
            path: Some(format!("{}, without a tunnel", endpoint.node)),
            ..End::plain(Verdict::Answered, format!("answered by meshd of {} for names", endpoint.node))
        }
    }

    /// A task's packet to an address that is not of its network.
    fn outward(&mut self, network_name: &str, network: &Network, node: &'a str) -> End {
        let to = self.query.to.address;
        self.why.push(format!("{to} is in no subnet of {network_name}"));
        self.suggest_networks(to, network_name);
        if network.internal {
            return End::dropped(Reason::Internal);
        }
        let there = self.node_with(to);
        if self.query.protocol == Protocol::Udp
            && self.port == self.snapshot.table.options.vxlan_port
            && there.is_some()
        {
            return End::dropped(Reason::TunnelForged);
        }
        self.why.push(format!("{node} masquerades it: it goes on with {node}'s address and another port"));
        if let Some(there) = there
            && let Some((service, _)) = self.published()
        {
            self.instead.push(format!(
                "a task on a network of {service} reaches it by its virtual IP, in its own name"
            ));
            return self.entered(there, Caller::Masqueraded { by: node });
        }
        End {
            path: Some(format!("{node}'s own routes, masqueraded as {node}'s address")),
            ..End::plain(
                Verdict::Outside,
                format!("leaves {network_name} for the world outside through {node}"),
            )
        }
    }

    /// A packet that a task sends from an address which it has not.
    pub(super) fn sent_by_forger(&mut self, network: &str) -> End {
        let from = self.query.from.address;
        self.why.push(format!("no endpoint of {network} has {from}"));
        self.instead.push(format!("`meshctl endpoints ls` lists the addresses on {network}"));
        End::dropped(Reason::SourceForged)
    }
}
