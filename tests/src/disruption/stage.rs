//! The stage: four nodes, a client behind a router that spreads its flows over entry nodes, a service, and its tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    Mode, Random, Script,
    census::Census,
    script::Step,
    server::{DOWNLOADS, PORT, Server, Servers},
};
use crate::lab::{Host, Lab, Mesh, forget_entries, write_whole};

/// The host that the flows come from.
pub(super) const CLIENT: &str = "client";
/// The host that spreads them.
const ROUTER: &str = "router";
/// The service's addresses, which the router knows several ways to.
const SERVICE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7))];
/// The client's addresses: those of the lab's host behind a router.
const OWN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2))];
/// The service's published port.
pub(super) const PUBLISHED: u16 = 7000;
/// The port by which bytes without end are published.
pub(super) const PUBLISHED_DOWNLOADS: u16 = 7019;
/// The service's name.
const NAME: &str = "echo";
/// How much later than another a node may learn of a change.
pub(super) const DISAGREEMENT: Duration = Duration::from_millis(200);
/// The nodes that the service's addresses may be routed to. They run tasks as well; one more node runs only tasks.
pub(super) const ENTRIES: [&str; 3] = ["n1", "n2", "n3"];

/// A task of the service.
#[derive(Debug)]
struct Task {
    node: String,
    number: u8,
    weight: u32,
    server: Server,
}

/// The lab with the service on it.
#[derive(Debug)]
pub struct Stage<'lab> {
    lab: &'lab mut Lab,
    /// What is in each node's file, but for the tasks.
    files: BTreeMap<String, Value>,
    tasks: BTreeMap<String, Task>,
    /// Tasks that died with their node.
    graves: Vec<(String, Task)>,
    born: u8,
    routes: Vec<(String, u32)>,
    /// Nodes that are lost.
    lost: BTreeSet<String>,
    servers: Servers,
    census: Census,
    random: Random,
}

/// The mesh that a stage needs.
#[must_use]
pub fn mesh(mode: Mode) -> Mesh {
    let ports = [
        format!("{PUBLISHED}:{PORT}"),
        format!("{PUBLISHED}:{PORT}/udp"),
        format!("{PUBLISHED_DOWNLOADS}:{DOWNLOADS}"),
    ];
    let ports = ports.each_ref().map(String::as_str);
    let mut mesh = Mesh::new(4)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .service(NAME, "blue", "10.0.9.2", "mh", &ports);
    mesh.clients = vec![ROUTER.to_owned()];
    // The default needs no mention.
    if mode == Mode::SecondChance { mesh } else { mesh.option("continuity", json!(mode.name())) }
}

impl<'lab> Stage<'lab> {
    /// Sets the stage in a lab of [`mesh`], with a task on each node and two entry nodes.
    ///
    /// # Errors
    /// If the kernel or a daemon refuses.
    pub fn set(lab: &'lab mut Lab, seed: u64) -> Result<Self> {
        lab.add_host_behind(ROUTER, CLIENT, 1500)?;
        let router = &lab.host(ROUTER).namespace;
        for family in ["ipv4", "ipv6"] {
            // By addresses and ports, as switches that serve balancers do.
            router.sysctl(&format!("net.{family}.fib_multipath_hash_policy"), "1")?;
        }
        let mut files = BTreeMap::new();
        for node in lab.mesh().nodes.clone() {
            let text = std::fs::read_to_string(lab.configuration(&node))?;
            files.insert(node, serde_yaml::from_str(&text)?);
        }
        for node in ENTRIES {
            for address in SERVICE {
                lab.host(node).namespace.ip(&format!("address add {address} dev lo"))?;
            }
        }
        let mut stage = Self {
            lab,
            files,
            tasks: BTreeMap::new(),
            graves: Vec::new(),
            born: 0,
            routes: Vec::new(),
            lost: BTreeSet::new(),
            servers: Servers::new()?,
            census: Census::default(),
            random: Random::new(seed),
        };
        for node in stage.nodes() {
            stage.add_task_on(&node)?;
        }
        let mut script = Script::default();
        script.at(Duration::ZERO, Step::Route(ways(&[("n1", 1), ("n2", 1)])));
        stage.tell(&mut script, Duration::ZERO)?;
        stage.play(script)?;
        Ok(stage)
    }

    pub(super) fn namespace_name(&self, host: &str) -> String {
        self.lab.namespace_name(host)
    }

    pub(super) fn census(&self) -> &Census {
        &self.census
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// The nodes that are there.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.files.keys().filter(|node| !self.lost.contains(*node)).cloned().collect()
    }

    /// The tasks that take new flows.
    pub(super) fn serving(&self) -> Vec<String> {
        self.tasks.iter().filter(|(_, task)| task.weight > 0).map(|(name, _)| name.clone()).collect()
    }

    /// The tasks on a node.
    pub(super) fn tasks_on(&self, node: &str) -> Vec<String> {
        self.tasks.iter().filter(|(_, task)| task.node == node).map(|(name, _)| name.clone()).collect()
    }

    /// The node that a task is on.
    ///
    /// # Errors
    /// If there is no such task.
    pub fn node_of(&self, task: &str) -> Result<String> {
        Ok(self.tasks.get(task).with_context(|| format!("there is no task {task}"))?.node.clone())
    }

    /// The task that takes new flows for the longest time: many of those that are open are with it.
    pub(super) fn oldest_serving(&self) -> Result<String> {
        let serving = self.tasks.iter().filter(|(_, task)| task.weight > 0);
        let oldest = serving.min_by_key(|(_, task)| task.number);
        Ok(oldest.context("no task takes flows")?.0.clone())
    }

    /// Starts a task on the node that has the fewest. The mesh is not told yet.
    pub(super) fn add_task(&mut self) -> Result<String> {
        let nodes = self.nodes();
        let node = nodes.into_iter().min_by_key(|node| self.tasks_on(node).len());
        self.add_task_on(&node.context("there is no node")?)
    }

    /// Starts a task on a node. The mesh is not told yet.
    pub(super) fn add_task_on(&mut self, node: &str) -> Result<String> {
        self.born = self.born.checked_add(1).context("the subnet has no more addresses")?;
        let name = format!("{NAME}.{}", self.born);
        let server = self.servers.serve(self.lab.add_host(&name)?)?;
        let task = Task { node: node.to_owned(), number: self.born, weight: 1, server };
        self.tasks.insert(name.clone(), task);
        Ok(name)
    }

    /// Gives a task another weight. The mesh is not told yet.
    pub(super) fn weigh(&mut self, task: &str, weight: u32) -> Result<()> {
        self.tasks.get_mut(task).with_context(|| format!("there is no task {task}"))?.weight = weight;
        Ok(())
    }

    /// A task dies without a word: its last packets are lost. The mesh is not told yet.
    pub(super) fn kill_task(&mut self, name: &str) -> Result<()> {
        let (task, host) = self.take_task(name)?;
        let links = host.namespace.ip("-json link show type veth")?;
        let links: Value = serde_json::from_str(&links).context("ip gave no JSON")?;
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        for link in names {
            host.namespace.ip(&format!("link delete {link}"))?;
        }
        drop(task.server);
        Ok(())
    }

    fn take_task(&mut self, name: &str) -> Result<(Task, Host)> {
        self.census.dies(name);
        let task = self.tasks.remove(name).with_context(|| format!("there is no task {name}"))?;
        Ok((task, self.lab.remove_host(name)?))
    }

    /// The tasks on a node die with it: the others will be told of none of them. What is left of them is for
    /// [`Self::bury`], when there is time.
    pub(super) fn lose_tasks(&mut self, node: &str) {
        for name in self.tasks_on(node) {
            self.census.dies(&name);
            if let Some(task) = self.tasks.remove(&name) {
                self.graves.push((name, task));
            }
        }
    }

    /// Takes away what is left of tasks that died with their node.
    pub(super) fn bury(&mut self) -> Result<()> {
        for (name, task) in std::mem::take(&mut self.graves) {
            drop(self.lab.remove_host(&name)?);
            drop(task.server);
        }
        Ok(())
    }

    /// Every node is told, each at a time of its own within [`DISAGREEMENT`] from `start`, what there is by now.
    pub(super) fn tell(&mut self, script: &mut Script, start: Duration) -> Result<()> {
        for (node, file) in self.files.clone() {
            let time = start + self.random.duration(DISAGREEMENT);
            script.at(time, Step::Write { text: self.text(file)?, node });
        }
        Ok(())
    }

    /// Tells every node as [`Self::tell`] does from the beginning, and at most `gap` later what a second change made of it.
    pub(super) fn tell_twice(
        &mut self,
        script: &mut Script,
        gap: Duration,
        second: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let mut first = Script::default();
        self.tell(&mut first, Duration::ZERO)?;
        second(self)?;
        for (time, step) in first.in_order() {
            if let Step::Write { node, .. } = &step
                && let Some(file) = self.files.get(node)
            {
                let text = self.text(file.clone())?;
                let later = time + self.random.duration(gap);
                script.at(later, Step::Write { node: node.clone(), text });
            }
            script.at(time, step);
        }
        Ok(())
    }

    fn text(&self, mut file: Value) -> Result<String> {
        let endpoints = self.tasks.iter().map(|(name, task)| {
            let address = format!("10.0.9.{}", 2 + u16::from(task.number));
            let netns = self.lab.namespace_name(name);
            let mut endpoint = json!({
                "name": name, "node": task.node, "service": NAME, "network": "blue", "address": address, "netns": netns,
            });
            if task.weight != 1 {
                endpoint["weight"] = json!(task.weight);
            }
            endpoint
        });
        file["endpoints"] = endpoints.collect();
        Ok(serde_yaml::to_string(&file)?)
    }

    /// The entry node that the router sends a TCP flow to.
    pub(super) fn entry_of(&self, local: SocketAddr, remote: SocketAddr) -> Result<String> {
        let (from, to) = (local.ip(), remote.ip());
        let (sport, dport) = (local.port(), remote.port());
        let words = format!("route get {to} from {from} iif far ipproto tcp sport {sport} dport {dport}");
        let answer = self.lab.host(ROUTER).namespace.ip(&words)?;
        let mut words = answer.split_whitespace().skip_while(|word| *word != "via");
        let gateway: IpAddr = words.nth(1).with_context(|| format!("no way: {answer}"))?.parse()?;
        let mesh = self.lab.mesh();
        let is_it = |node: &&str| {
            [mesh.address_v4(node), mesh.address_v6(node)].into_iter().flatten().any(|own| own == gateway)
        };
        Ok(ENTRIES.into_iter().find(is_it).with_context(|| format!("{gateway} is no entry node"))?.to_owned())
    }

    /// The router's ways to the service.
    pub(super) fn routes(&self) -> &[(String, u32)] {
        &self.routes
    }

    /// Does what a script says, and waits until the daemons that it started are ready.
    pub(super) fn play(&mut self, script: Script) -> Result<()> {
        let began = Instant::now();
        let mut started = Vec::new();
        for (time, step) in script.in_order() {
            sleep((began + time).saturating_duration_since(Instant::now()));
            self.step(step, &mut started)?;
        }
        self.census.told();
        for node in started {
            self.lab.node_mut(&node).wait_until_ready()?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step, started: &mut Vec<String>) -> Result<()> {
        match step {
            Step::Write { node, text } => {
                write_whole(&self.lab.configuration(&node), &text)?;
                let is_starting = started.contains(&node);
                let node = self.lab.node_mut(&node);
                // At once, where one that only watches its file would wait for the writer to come to rest. One that is
                // starting takes no signals yet, and reads the file anyway.
                if node.runs() && !is_starting {
                    node.reload()?;
                }
            }
            Step::Route(ways) => {
                self.route(&ways)?;
                self.routes = ways;
            }
            Step::Forget(node) => {
                forget_entries(self.lab.node(&node))?;
            }
            Step::Kill(node) => self.lab.node_mut(&node).kill()?,
            Step::Start(node) => {
                self.lab.node_mut(&node).launch()?;
                started.push(node);
            }
            Step::Replace(node) => {
                self.lab.node_mut(&node).stop()?;
                self.lab.node_mut(&node).launch()?;
                started.push(node);
            }
            Step::Unplug(node) => {
                self.lab.carrier(&node, false)?;
                self.lost.insert(node);
            }
        }
        Ok(())
    }

    fn route(&self, ways: &[(String, u32)]) -> Result<()> {
        let mesh = self.lab.mesh();
        for service in SERVICE {
            let mut words = format!("route replace {service}");
            for (node, weight) in ways {
                let gateway = if service.is_ipv4() { mesh.address_v4(node)? } else { mesh.address_v6(node)? };
                write!(words, " nexthop via {gateway} weight {weight}")?;
            }
            self.lab.host(ROUTER).namespace.ip(&words)?;
        }
        Ok(())
    }

    /// Plugs a lost node in again and starts its daemon.
    pub(super) fn restore(&mut self, node: &str) -> Result<()> {
        ensure!(self.lost.remove(node), "{node} was not lost");
        self.lab.carrier(node, true)?;
        self.lab.node_mut(node).start()
    }

    /// Ends the tasks that take no new flows, as an engine stops containers: their servers close what is open, then the mesh
    /// is told, then they are taken away. Tells whether there were any.
    ///
    /// # Errors
    /// If the kernel or a daemon refuses.
    pub fn tidy(&mut self) -> Result<bool> {
        let drained = self.tasks.iter().filter(|(_, task)| task.weight == 0).map(|(name, _)| name.clone());
        let drained: Vec<_> = drained.collect();
        for name in &drained {
            self.census.dies(name);
            if let Some(task) = self.tasks.remove(name) {
                drop(task.server);
            }
        }
        if drained.is_empty() {
            return Ok(false);
        }
        let mut script = Script::default();
        self.tell(&mut script, Duration::ZERO)?;
        self.play(script)?;
        for name in &drained {
            drop(self.lab.remove_host(name)?);
        }
        Ok(true)
    }
}

/// The two ends of a flow from one of the client's ports to a published one.
pub(super) const fn ends(is_v6: bool, port: u16, published: u16) -> (SocketAddr, SocketAddr) {
    let [(own4, own6), (service4, service6)] = [(OWN[0], OWN[1]), (SERVICE[0], SERVICE[1])];
    let (own, service) = if is_v6 { (own6, service6) } else { (own4, service4) };
    (SocketAddr::new(own, port), SocketAddr::new(service, published))
}

/// Ways of the router, by nodes and weights.
pub(super) fn ways(ways: &[(&str, u32)]) -> Vec<(String, u32)> {
    ways.iter().map(|(node, weight)| ((*node).to_owned(), *weight)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_host_behind_the_router() {
        assert_eq!(OWN.map(|address| address.to_string()), crate::lab::FAR);
    }
}
