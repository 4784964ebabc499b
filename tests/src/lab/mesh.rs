//! What a lab is built from, and the configuration file that says the same to the daemons.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::record::Record;

/// The port of gossip.
const GOSSIP: u16 = 7946;

/// The family of the addresses that the nodes know each other by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underlay {
    /// 192.0.2.N.
    #[default]
    V4,
    /// 2001:db8::N.
    V6,
}

/// A mesh as a test wants it: nodes, networks, services, and tasks in namespaces.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// How the nodes reach each other.
    pub underlay: Underlay,
    /// Bytes of the longest IP packet on the underlay.
    pub mtu: u32,
    /// The nodes, numbered from 1.
    pub nodes: Vec<String>,
    /// Nodes that run no daemon: a kernel's own `vxlan` device stands for them. Numbered after the others.
    pub kernel_nodes: Vec<String>,
    /// Nodes that are in the file alone, and not in the lab. Numbered after those.
    pub absent_nodes: Vec<String>,
    /// Hosts on the underlay that are no nodes, numbered from 101.
    pub clients: Vec<String>,
    /// The file's `options`.
    pub options: Map<String, Value>,
    /// The networks.
    pub networks: Vec<Network>,
    /// The services.
    pub services: Vec<Service>,
    /// The tasks' attachments.
    pub endpoints: Vec<Endpoint>,
    /// Whether the nodes are a cluster: each joins by all the others.
    pub cluster: bool,
    /// The whole file, where the lab was built from one; then it is not made from what stands above.
    given: Option<Value>,
}

/// A network of the file.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// Its subnets.
    pub subnets: Vec<String>,
    /// No way to the world outside.
    pub internal: bool,
}

/// A service of the file.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Its virtual IP on that network; allocated if `None`.
    pub vip: Option<String>,
    /// Whether its name stands for a virtual IP or for its tasks; the default if `None`.
    pub endpoint_mode: Option<String>,
    /// By IPVS's names.
    pub scheduler: String,
    /// As in the file: a string in the short form, or an object.
    pub ports: Vec<Value>,
    /// Addresses that are routed to several nodes.
    pub external: Vec<String>,
    /// What becomes of a request while it has no backend; the default if `None`.
    pub on_no_backend: Option<String>,
    /// For how many seconds a client comes back to its backend, if at all.
    pub persistent: Option<u32>,
    /// How its tasks are asked whether they are well, as in the file, if at all.
    pub health_check: Option<Value>,
}

/// A task's attachment in the file.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// The node that it is on.
    pub node: String,
    /// The service that it is a backend of.
    pub service: Option<String>,
    /// Its network.
    pub network: String,
    /// One of its addresses.
    pub address: String,
    /// The host of the lab whose namespace is the task's; `None` on a node without a daemon.
    pub task: Option<String>,
    /// Its weight as a backend; not said if `None`.
    pub weight: Option<u16>,
}

impl Mesh {
    /// A mesh of `n1` to `nN` over IPv4 and a client on the underlay, with nothing on it yet.
    #[must_use]
    pub fn new(nodes: u8) -> Self {
        Self {
            underlay: Underlay::V4,
            mtu: 1500,
            nodes: (1..=nodes).map(|number| format!("n{number}")).collect(),
            kernel_nodes: Vec::new(),
            absent_nodes: Vec::new(),
            clients: vec!["client".to_owned()],
            options: Map::new(),
            networks: Vec::new(),
            services: Vec::new(),
            endpoints: Vec::new(),
            cluster: false,
            given: None,
        }
    }

    /// The mesh of a configuration file as somebody wrote it: its nodes and a client on the underlay, and a host for
    /// each namespace that it names. The daemons read the same file, but for where they keep their own files and for
    /// the prefix of the namespaces. What is changed in the fields later, it does not say.
    ///
    /// # Errors
    /// If it is no such file, or names its nodes otherwise than by the lab's addresses: 192.0.2.1, 192.0.2.2 and so
    /// on, or 2001:db8::1 and so on, in the order of their names.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let file: Value = serde_yaml::from_str(text).context("the configuration is no YAML")?;
        let mut mesh = Self::new(0);
        let nodes = file["nodes"].as_object().context("the configuration has no nodes")?;
        mesh.nodes = nodes.keys().cloned().collect();
        for (name, node) in nodes {
            let address = node["address"].as_str().with_context(|| format!("{name} has no address"))?;
            let address: IpAddr = address.parse().with_context(|| format!("the address of {name}"))?;
            let underlay = if address.is_ipv4() { Underlay::V4 } else { Underlay::V6 };
            mesh.underlay = underlay;
            let own = mesh.address(name)?;
            ensure!(address == own, "in the lab, {name} has the address {own}, and here {address}");
        }
        for endpoint in file["endpoints"].as_array().into_iter().flatten() {
            let field = |key: &str| endpoint[key].as_str().map(str::to_owned);
            let needed = |key| field(key).with_context(|| format!("an endpoint has no {key}: {endpoint}"));
            mesh.endpoints.push(Endpoint {
                name: needed("name")?,
                node: needed("node")?,
                service: field("service"),
                network: needed("network")?,
                address: needed("address")?,
                task: field("netns"),
                weight: endpoint["weight"].as_u64().map(u16::try_from).transpose().context("a weight")?,
            });
        }
        mesh.given = Some(file);
        Ok(mesh)
    }

    /// As a cluster, whose nodes find one another by gossip.
    #[must_use]
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// Over the other family.
    #[must_use]
    pub fn underlay(mut self, underlay: Underlay) -> Self {
        self.underlay = underlay;
        self
    }

    /// With another MTU of the underlay, in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// With one more host on the underlay that is no node.
    #[must_use]
    pub fn client(mut self, name: &str) -> Self {
        self.clients.push(name.to_owned());
        self
    }

    /// With one more node that runs no daemon.
    #[must_use]
    pub fn kernel_node(mut self, name: &str) -> Self {
        self.kernel_nodes.push(name.to_owned());
        self
    }

    /// With one more node that is in the file alone: what goes there, the test takes.
    #[must_use]
    pub fn absent_node(mut self, name: &str) -> Self {
        self.absent_nodes.push(name.to_owned());
        self
    }

    /// With one of the file's options.
    #[must_use]
    pub fn option(mut self, name: &str, value: Value) -> Self {
        self.options.insert(name.to_owned(), value);
        self
    }

    /// With a network.
    #[must_use]
    pub fn network(mut self, name: &str, vni: u32, subnets: &[&str]) -> Self {
        let subnets = subnets.iter().map(|&subnet| subnet.to_owned()).collect();
        self.networks.push(Network { name: name.to_owned(), vni, subnets, internal: false });
        self
    }

    /// With a network that has no way to the world outside.
    #[must_use]
    pub fn internal_network(mut self, name: &str, vni: u32, subnets: &[&str]) -> Self {
        self = self.network(name, vni, subnets);
        if let Some(network) = self.networks.last_mut() {
            network.internal = true;
        }
        self
    }

    /// With a service; `ports` in the short form, as `9200:80` or `53:5353/udp`.
    #[must_use]
    pub fn service(mut self, name: &str, network: &str, vip: &str, scheduler: &str, ports: &[&str]) -> Self {
        self.services.push(Service {
            name: name.to_owned(),
            network: network.to_owned(),
            vip: Some(vip.to_owned()),
            endpoint_mode: None,
            scheduler: scheduler.to_owned(),
            ports: ports.iter().map(|&port| Value::from(port)).collect(),
            external: Vec::new(),
            on_no_backend: None,
            persistent: None,
            health_check: None,
        });
        self
    }

    /// With the service that was added last having no virtual IP: its name stands for its tasks' addresses.
    #[must_use]
    pub fn by_tasks(mut self) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.vip = None;
            service.endpoint_mode = Some("dnsrr".to_owned());
        }
        self
    }

    /// With a port of the service that was added last, in the long form.
    #[must_use]
    pub fn port(mut self, port: Value) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.ports.push(port);
        }
        self
    }

    /// With addresses of the service that was added last, which are routed to several nodes.
    #[must_use]
    pub fn external(mut self, addresses: &[&str]) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.external.extend(addresses.iter().map(|&address| address.to_owned()));
        }
        self
    }

    /// With clients of the service that was added last coming back to their backends for so many seconds.
    #[must_use]
    pub fn persistent(mut self, seconds: u32) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.persistent = Some(seconds);
        }
        self
    }

    /// With tasks of the service that was added last being asked so whether they are well.
    #[must_use]
    pub fn health_check(mut self, check: Value) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.health_check = Some(check);
        }
        self
    }

    /// With the service that was added last doing this with a request while it has no backend.
    #[must_use]
    pub fn on_no_backend(mut self, way: &str) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.on_no_backend = Some(way.to_owned());
        }
        self
    }

    /// With a task on a node, in a namespace of its own, that is of no service.
    #[must_use]
    pub fn task(self, name: &str, node: &str, network: &str, address: &str) -> Self {
        self.endpoint(name, node, network, address, name)
    }

    /// With a task that is a backend of a service.
    #[must_use]
    pub fn backend(mut self, service: &str, name: &str, node: &str, network: &str, address: &str) -> Self {
        self = self.task(name, node, network, address);
        if let Some(endpoint) = self.endpoints.last_mut() {
            endpoint.service = Some(service.to_owned());
        }
        self
    }

    /// With an attachment of the task `task`, which may have others.
    #[must_use]
    pub fn endpoint(mut self, name: &str, node: &str, network: &str, address: &str, task: &str) -> Self {
        let is_without_tasks =
            self.kernel_nodes.iter().chain(&self.absent_nodes).any(|without| without == node);
        self.endpoints.push(Endpoint {
            name: name.to_owned(),
            node: node.to_owned(),
            service: None,
            network: network.to_owned(),
            address: address.to_owned(),
            task: (!is_without_tasks).then(|| task.to_owned()),
            weight: None,
        });
        self
    }

    /// The address that the other nodes know a node by, or that a client has of the same family.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn address(&self, host: &str) -> Result<IpAddr> {
        match self.underlay {
            Underlay::V4 => self.address_v4(host),
            Underlay::V6 => self.address_v6(host),
        }
    }

    /// The IPv4 address of a node or client on the underlay.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn address_v4(&self, host: &str) -> Result<IpAddr> {
        Ok(format!("192.0.2.{}", self.number(host)?).parse()?)
    }

    /// The IPv6 address of a node or client on the underlay.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn address_v6(&self, host: &str) -> Result<IpAddr> {
        Ok(format!("2001:db8::{}", self.number(host)?).parse()?)
    }

    /// The last number of a host's underlay addresses.
    pub(super) fn number(&self, host: &str) -> Result<u8> {
        let nodes = self.nodes.iter().chain(&self.kernel_nodes).chain(&self.absent_nodes).zip(1..);
        let mut numbered = nodes.chain(self.clients.iter().zip(101..));
        let found = numbered.find(|(name, _)| *name == host);
        Ok(found.with_context(|| format!("no host {host} on the underlay"))?.1)
    }

    /// The tasks that have a namespace, each once.
    pub(super) fn tasks(&self) -> Vec<String> {
        let mut tasks: Vec<_> = self.endpoints.iter().filter_map(|e| e.task.clone()).collect();
        tasks.sort();
        tasks.dedup();
        tasks
    }

    /// Everything that has a namespace.
    pub(super) fn hosts(&self) -> Vec<String> {
        let underlay = self.nodes.iter().chain(&self.kernel_nodes).chain(&self.clients);
        underlay.cloned().chain(self.tasks()).collect()
    }

    /// The file for a node: the same for each, but for the directories of the node that reads it.
    pub(super) fn yaml(&self, record: &Record, node: &str) -> Result<String> {
        let mut file = match &self.given {
            Some(file) => file.clone(),
            None => self.file()?,
        };
        let own = record.directory().join(node);
        // Not the machine's own resolvers, which the lab does not reach: the lab's, where a test writes any.
        file["node"] = json!({
            "run_dir": own.join("run"),
            "state_dir": own.join("state"),
            "resolv_conf": own.join("resolv.conf"),
        });
        if self.cluster {
            let places =
                self.nodes.iter().map(|name| Ok(SocketAddr::new(self.address(name)?, GOSSIP).to_string()));
            let join = places.collect::<Result<Vec<_>>>()?;
            file["cluster"] = json!({ "join": join, "keyring": own.join("keyring") });
        }
        for endpoint in file["endpoints"].as_array_mut().into_iter().flatten() {
            if let Some(Value::String(netns)) = endpoint.get_mut("netns") {
                *netns = record.namespace_name(netns);
            }
        }
        Ok(serde_yaml::to_string(&file)?)
    }

    /// What is in the file of every node.
    fn file(&self) -> Result<Value> {
        let all_nodes = self.nodes.iter().chain(&self.kernel_nodes).chain(&self.absent_nodes);
        let nodes = all_nodes.map(|name| Ok((name.clone(), json!({ "address": self.address(name)? }))));
        let networks = self.networks.iter().map(|network| {
            let mut entry = json!({ "vni": network.vni, "subnets": network.subnets });
            if network.internal {
                entry["internal"] = json!(true);
            }
            (network.name.clone(), entry)
        });
        let services = self.services.iter().map(|service| {
            let mut entry = json!({ "networks": [service.network], "scheduler": service.scheduler });
            if let Some(mode) = &service.endpoint_mode {
                entry["endpoint_mode"] = json!(mode);
            }
            if let Some(vip) = &service.vip {
                entry["vip"] = json!({ &service.network: vip });
            }
            if let Some(way) = &service.on_no_backend {
                entry["on_no_backend"] = json!(way);
            }
            if let Some(seconds) = service.persistent {
                entry["persistent"] = json!(seconds);
            }
            if let Some(check) = &service.health_check {
                entry["health_check"] = check.clone();
            }
            if !service.ports.is_empty() {
                entry["ports"] = json!(service.ports);
            }
            if !service.external.is_empty() {
                entry["external"] = json!(service.external);
            }
            (service.name.clone(), entry)
        });
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let mut entry = json!({
                "name": endpoint.name,
                "node": endpoint.node,
                "network": endpoint.network,
                "address": endpoint.address,
            });
            if let Some(service) = &endpoint.service {
                entry["service"] = json!(service);
            }
            if let Some(task) = &endpoint.task {
                entry["netns"] = json!(task);
            }
            if let Some(weight) = endpoint.weight {
                entry["weight"] = json!(weight);
            }
            entry
        });
        let mut file = json!({
            "nodes": nodes.collect::<Result<Map<_, _>>>()?,
            "networks": networks.collect::<Map<_, _>>(),
            "services": services.collect::<Map<_, _>>(),
            "endpoints": endpoints.collect::<Vec<_>>(),
        });
        if !self.options.is_empty() {
            file["options"] = json!(self.options);
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_is_read_from_a_file() {
        let mesh = Mesh::from_yaml(
            "nodes: {n1: {address: \"2001:db8::1\"}, n2: {address: \"2001:db8::2\"}}\n\
             endpoints: [{name: a, node: n2, network: blue, address: 10.0.9.11, netns: b}]",
        )
        .unwrap();
        assert_eq!(
            (mesh.underlay, mesh.nodes.as_slice()),
            (Underlay::V6, ["n1".into(), "n2".into()].as_slice())
        );
        assert_eq!(mesh.hosts(), ["n1", "n2", "client", "b"]);
    }

    #[test]
    fn a_file_with_addresses_that_the_lab_does_not_have_is_refused() {
        let error = Mesh::from_yaml("nodes: {n1: {address: 192.0.2.7}}").unwrap_err().to_string();
        assert_eq!(error, "in the lab, n1 has the address 192.0.2.1, and here 192.0.2.7");
        assert!(Mesh::from_yaml("networks: {}").is_err());
    }
}
