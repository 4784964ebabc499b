//! The lab: nodes, tasks and clients in network namespaces of one kernel, with real daemons and servers.
//!
//! A [`Mesh`] says what there is. [`Mesh::up`] builds it: a namespace for each node, joined by a switch; one for
//! each task and each client; the real `meshd` in every node's. Everything carries the lab's prefix, is written
//! down in a [`Record`] as it is made, and goes away with the [`Lab`], also when a test panics.

mod call;
mod command;
mod forget;
mod host;
mod keyboard;
mod members;
mod mesh;
mod namespace;
mod node;
mod pass;
mod prober;
mod process;
mod raw;
mod record;
mod router;
mod server;
mod sockets;
mod stream;
mod transfer;
mod underlay;
mod vxlan;
mod wait;

use std::{
    collections::BTreeMap,
    fs::Permissions,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

pub use self::{
    call::{Call, Greeter},
    command::{output, run},
    forget::forget_entries,
    host::Host,
    keyboard::typed,
    mesh::{Endpoint, Mesh, Network, Service, Underlay},
    namespace::Namespace,
    node::{Node, meshctl_path, meshd_path, other_meshd_path, take_programs_from},
    prober::{Probe, Prober},
    process::Process,
    raw::RawSocket,
    record::{Record, remains},
    router::{FAR, FARTHER},
    server::Web,
    sockets::{
        NameServer, TcpEcho, UdpEcho, ask_tcp, ask_udp, reachable_tcp, tcp_round_trip, udp_in_one_piece,
        udp_round_trip,
    },
    stream::{Delivery, Stream},
    transfer::{Summary, Transfer},
    vxlan::{VxlanDevice, mac_of},
    wait::eventually,
};

/// The prefix of the lab that `cargo xtask lab` and `cargo xtask demo` make.
pub const HANDS_ON: &str = "mesh";

/// The key that the nodes of a cluster seal with: 32 bytes of this letter.
const KEY: &str = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    mesh: Mesh,
    nodes: BTreeMap<String, Node>,
    hosts: BTreeMap<String, Host>,
    switch: Option<underlay::Switch>,
    /// Dropped last: it takes away what the others left.
    record: Arc<Record>,
}

impl Mesh {
    /// Builds the lab under a prefix of this process, runs `test` in it and takes it away. If the test fails,
    /// the logs of everything that ran are printed. One such lab exists at a time on a machine: the next one
    /// waits.
    ///
    /// # Errors
    /// What the test returns, or what kept the lab from being built.
    pub fn test(self, test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
        need_root()?;
        let _turn = record::take_turn()?;
        static LABS: AtomicU32 = AtomicU32::new(1);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let mut lab = Lab::bare(self, &format!("mesh{}.{number}", std::process::id()))?;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            lab.build()?;
            test(&mut lab)
        }));
        if !matches!(outcome, Ok(Ok(()))) {
            lab.print_logs();
        }
        drop(lab);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Builds the lab under a prefix and starts every node's daemon.
    ///
    /// # Errors
    /// If there is one of this prefix already, or something could not be made; what had been made is gone.
    pub fn up(self, prefix: &str) -> Result<Lab> {
        let mut lab = Lab::bare(self, prefix)?;
        if let Err(error) = lab.build() {
            lab.print_logs();
            return Err(error);
        }
        Ok(lab)
    }
}

impl Lab {
    fn bare(mesh: Mesh, prefix: &str) -> Result<Self> {
        need_root()?;
        record::sweep();
        let record = Arc::new(Record::create(prefix)?);
        Ok(Self { mesh, nodes: BTreeMap::new(), hosts: BTreeMap::new(), switch: None, record })
    }

    fn build(&mut self) -> Result<()> {
        let switch = underlay::Switch::create(&self.record, self.mesh.mtu)?;
        let names = self.mesh.nodes.iter().chain(&self.mesh.kernel_nodes);
        for name in names.chain(&self.mesh.clients).cloned().collect::<Vec<_>>() {
            let host = Host::create(&self.record, &name)?;
            switch.plug(&host.namespace, &name, self.mesh.number(&name)?)?;
            self.hosts.insert(name, host);
        }
        self.switch = Some(switch);
        for name in self.mesh.tasks() {
            let host = Host::create(&self.record, &name)?;
            self.hosts.insert(name, host);
        }
        self.write_configuration()?;
        for name in self.mesh.nodes.clone() {
            let node = Node::new(&self.record, self.host(&name).namespace.reopen()?, &name);
            self.nodes.insert(name, node);
        }
        // All at once, so that the slowest of them is all one waits for.
        for node in self.nodes.values_mut() {
            node.launch()?;
        }
        for node in self.nodes.values_mut() {
            node.wait_until_ready()?;
        }
        Ok(())
    }

    /// The host of a name: a node, a task or a client.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("this lab has no host {name}"))
    }

    /// Each host's name: nodes, tasks and clients.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// The node of a name, with its daemon.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).unwrap_or_else(|| panic!("this lab has no node {name}"))
    }

    /// The node of a name, to start and stop its daemon.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap_or_else(|| panic!("this lab has no node {name}"))
    }

    /// What the lab was built from.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The lab's own directory, with everything that it wrote.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.record.directory()
    }

    /// What the names of all that it made begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.record.prefix()
    }

    /// The name that a host's namespace has under `/run/netns`.
    #[must_use]
    pub fn namespace_name(&self, host: &str) -> String {
        self.record.namespace_name(host)
    }

    /// Changes what the mesh should be and writes every node's file anew; the daemons notice by themselves.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Mesh)) -> Result<()> {
        change(&mut self.mesh);
        self.write_configuration()
    }

    /// Makes a namespace for one more task, which nothing is attached to yet.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn add_host(&mut self, name: &str) -> Result<&Host> {
        let host = Host::create(&self.record, name)?;
        Ok(self.hosts.entry(name.to_owned()).or_insert(host))
    }

    /// Takes a task's namespace away, as when its container ends, and makes it anew, empty.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn recreate_host(&mut self, name: &str) -> Result<&Host> {
        drop(self.hosts.remove(name).with_context(|| format!("this lab has no host {name}"))?);
        self.record.delete_namespace(name)?;
        self.add_host(name)
    }

    /// Takes a task's namespace away, as when its container ends, and hands over what still holds it: it lives on, without a
    /// name, until that is dropped.
    ///
    /// # Errors
    /// If there is none.
    pub fn remove_host(&mut self, name: &str) -> Result<Host> {
        let host = self.hosts.remove(name).with_context(|| format!("this lab has no host {name}"))?;
        self.record.delete_namespace(name)?;
        Ok(host)
    }

    /// Pulls a host's cable out of the switch, or puts it back in: its interface stays, and has no carrier.
    ///
    /// # Errors
    /// If it is not plugged in.
    pub fn carrier(&self, host: &str, present: bool) -> Result<()> {
        self.switch.as_ref().context("the lab was not built")?.carrier(host, present)
    }

    /// Parts these hosts from the others: they are joined by a second switch, which no cable leads to.
    ///
    /// # Errors
    /// If one is not plugged in.
    pub fn part(&self, hosts: &[&str]) -> Result<()> {
        let switch = self.switch.as_ref().context("the lab was not built")?;
        hosts.iter().try_for_each(|host| switch.move_to(host, underlay::FAR_SWITCH))
    }

    /// Brings these hosts back to the others.
    ///
    /// # Errors
    /// If one is not plugged in.
    pub fn heal(&self, hosts: &[&str]) -> Result<()> {
        let switch = self.switch.as_ref().context("the lab was not built")?;
        hosts.iter().try_for_each(|host| switch.move_to(host, underlay::SWITCH))
    }

    /// Pulls a host's cable: its interface is gone.
    ///
    /// # Errors
    /// If there is none.
    pub fn unplug(&self, host: &str) -> Result<()> {
        self.host(host).namespace.ip("link delete eth0").map(drop)
    }

    /// Plugs a host in again, by a new interface of the same name and addresses.
    ///
    /// # Errors
    /// If it is plugged in.
    pub fn replug(&self, host: &str) -> Result<()> {
        let switch = self.switch.as_ref().context("the lab was not built")?;
        switch.plug(&self.host(host).namespace, host, self.mesh.number(host)?)
    }

    /// Takes two hosts from the switch and joins them by a cable of their own that cuts nothing: a frame that stands for many
    /// arrives as it left, with all that is unfinished about it.
    ///
    /// # Errors
    /// If one of them is not plugged in.
    pub fn join_directly(&self, one: &str, other: &str) -> Result<()> {
        let mtu = self.mesh.mtu;
        self.unplug(one)?;
        self.unplug(other)?;
        let far = self.namespace_name(other);
        let add = format!("link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {far}");
        self.host(one).namespace.ip(&add)?;
        for name in [one, other] {
            let (namespace, number) = (&self.host(name).namespace, self.mesh.number(name)?);
            namespace.ip("link set eth0 up")?;
            namespace.ip(&format!("address add 192.0.2.{number}/24 dev eth0"))?;
            namespace.ip(&format!("address add 2001:db8::{number}/64 dev eth0 nodad"))?;
        }
        Ok(())
    }

    /// Gives a host's cable a card that cuts long segments to pieces itself, and then cannot take what XDP sends.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn offload(&self, host: &str) -> Result<()> {
        let switch = self.switch.as_ref().context("the lab was not built")?;
        switch.offload(&self.host(host).namespace, host)
    }

    /// The node's end of the veth pair whose other end is a task's interface with an address.
    ///
    /// # Errors
    /// If the task has no such interface, or its other end is not on the node.
    pub fn host_side(&self, task: &str, address: IpAddr, node: &str) -> Result<String> {
        let task = self.host(task);
        let interface = task.interface_of(address)?;
        let links = |host: &Host, which: &str| -> Result<Value> {
            let text = host.namespace.ip(&format!("-json link show {which}"))?;
            serde_json::from_str(&text).context("ip gave no JSON")
        };
        let peer = links(task, &interface)?[0]["link_index"].as_u64();
        let peer = peer.with_context(|| format!("{interface} of {} is no veth", task.name()))?;
        let on_node = links(self.host(node), "")?;
        let found =
            on_node.as_array().into_iter().flatten().find(|link| link["ifindex"].as_u64() == Some(peer));
        let name = found.and_then(|link| link["ifname"].as_str()).map(str::to_owned);
        name.with_context(|| format!("{node} has no link {peer}, the peer of {interface} of {}", task.name()))
    }

    /// The file of a node's configuration.
    #[must_use]
    pub fn configuration(&self, node: &str) -> PathBuf {
        self.record.directory().join(node).join("mesh.yaml")
    }

    fn write_configuration(&self) -> Result<()> {
        for node in &self.mesh.nodes {
            let text = self.mesh.yaml(&self.record, node)?;
            write_whole(&self.configuration(node), &text)?;
            let keyring = self.record.directory().join(node).join("keyring");
            if self.mesh.cluster && !keyring.exists() {
                std::fs::write(&keyring, format!("{KEY}\n"))?;
                std::fs::set_permissions(&keyring, Permissions::from_mode(0o600))?;
            }
        }
        Ok(())
    }

    /// Leaves the lab running when this value goes.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn keep(self) -> Result<()> {
        self.record.keep(&self.mesh)?;
        for host in self.hosts.into_values() {
            host.keep();
        }
        for node in self.nodes.into_values() {
            node.keep();
        }
        Ok(())
    }

    /// Prints the end of each log to standard error.
    pub fn print_logs(&self) {
        for log in self.record.logs() {
            let Ok(text) = std::fs::read_to_string(&log) else { continue };
            let lines: Vec<_> = text.lines().collect();
            let shown = lines.len().saturating_sub(60);
            eprintln!("──── {} ({} lines)", log.display(), lines.len());
            for line in lines.iter().skip(shown) {
                eprintln!("{line}");
            }
        }
    }
}

fn need_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab makes network namespaces, so it needs root: run the same command with sudo"
    );
    Ok(())
}

/// Replaces a file in one step, so that a daemon that watches it never reads half of it.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let Some(parent) = path.parent() else { bail!("{} has no directory", path.display()) };
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let next = path.with_extension("next");
    std::fs::write(&next, text).with_context(|| format!("cannot write {}", next.display()))?;
    std::fs::rename(&next, path).with_context(|| format!("cannot replace {}", path.display()))
}
