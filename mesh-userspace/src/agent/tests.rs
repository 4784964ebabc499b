//! Rounds on a real kernel, in namespaces of the tests' own.

use std::{collections::BTreeMap, fs, path::Path};

use mesh_common::abi::{Address, capacity};

use super::{
    round::{Kernel, Outcome, lock},
    testing::Directory,
};
use crate::{
    apply::{Endpoints, Maps, Peers, Services},
    datapath::Datapath,
    links::{KeptNamespaces, Links},
    plan::{host_interface, testing::*},
    scratch::Scratch,
    table::{Table, XdpMode},
};

/// A node with an interface, and a namespace for a task.
struct Case {
    node: Scratch,
    task: Scratch,
    directory: Directory,
}

impl Case {
    fn new() -> Self {
        let case =
            Self { node: Scratch::new("node"), task: Scratch::new("task"), directory: Directory::new() };
        case.node.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
        for arguments in [
            &["addr", "add", "192.0.2.1/24", "dev", "up0"][..],
            &["link", "set", "up0", "up"],
            &["link", "set", "up1", "up"],
        ] {
            case.node.ip(arguments);
        }
        case
    }

    /// `search` with a task in the namespace here, and another on `n2`.
    fn table(&self) -> Table {
        let mut table = table();
        table.options.xdp = XdpMode::Off;
        service(&mut table, "search", &[("blue", &["10.0.9.2"])], &[(9200, 9200)]);
        endpoint(&mut table, "search.1", "n1", "search", "blue", &["10.0.9.11", "fd00:9::11"]);
        endpoint(&mut table, "search.2", "n2", "search", "blue", &["10.0.9.12"]);
        self.put_in(&mut table, "search.1", self.task.0.as_str());
        table
    }

    fn put_in(&self, table: &mut Table, endpoint: &str, netns: &str) {
        let path = Path::new("/run/netns").join(netns);
        table.endpoints.get_mut(endpoint).unwrap().netns = Some(path);
    }

    /// Runs `work` with the node's kernel, inside its namespace: programs are attached by interface index.
    fn run<T: Send>(&self, work: impl AsyncFnOnce(&mut Kernel) -> T + Send) -> T {
        let namespace = self.node.namespace();
        let inside = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let object = fs::read(env!("MESH_EBPF_OBJECT")).unwrap();
                let links = Links::open().await.unwrap();
                let cookie = links.namespace().cookie().unwrap();
                let datapath = Datapath::open(&self.run_dir(), &object, cookie, capacity::SLOTS).unwrap();
                work(&mut Kernel::new(links, std::sync::Arc::new(datapath.into()), &self.run_dir())).await
            })
        };
        namespace.run_blocking(inside).unwrap()
    }

    fn run_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("run")
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if let Err(error) = Datapath::remove(&self.run_dir()) {
            eprintln!("{error}");
        }
        let mut namespaces = KeptNamespaces::in_directory(self.run_dir().join("netns"));
        if let Err(error) = namespaces.remove_all() {
            eprintln!("{error}");
        }
    }
}

fn subjects(outcome: &Outcome) -> Vec<&str> {
    outcome.problems.iter().map(|problem| problem.subject.as_str()).collect()
}

fn attached(outcome: &Outcome) -> BTreeMap<&str, usize> {
    outcome.programs.iter().fold(BTreeMap::new(), |mut counts, program| {
        *counts.entry(program.program.as_str()).or_default() += 1;
        counts
    })
}

#[test]
fn a_node_becomes_what_it_should_be_and_stays_so() {
    let case = Case::new();
    let table = case.table();
    let first = case.run(async |kernel| {
        let first = kernel.round(&table, "n1").await.unwrap();
        assert_eq!(subjects(&first), [""; 0], "{:?}", first.problems);
        let named = [("search.1".to_owned(), "eth0".to_owned())];
        assert_eq!(first.interfaces, BTreeMap::from(named));
        assert_eq!(first.gateways.keys().collect::<Vec<_>>(), ["blue"]);
        let again = kernel.round(&table, "n1").await.unwrap();
        assert_eq!((&again.contents, &again.facts), (&first.contents, &first.facts));
        assert_eq!(again.programs, first.programs);
        assert_eq!(kernel.repaired, 0);
        first
    });
    let addresses = case.task.ip(&["-br", "addr", "show", "eth0"]);
    assert!(addresses.contains("10.0.9.11/24") && addresses.contains("fd00:9::11/64"), "{addresses}");
    assert!(case.task.ip(&["route"]).contains("default via 10.0.9.1"));
    let attached = attached(&first);
    assert_eq!((attached["endpoint_tc"], attached["host_tc"], attached["underlay_tc"]), (2, 1, 2));

    // A restarted agent finds all as it should be, and gives nothing another number.
    case.run(async |kernel| {
        let taken_over = kernel.round(&table, "n1").await.unwrap();
        assert_eq!(taken_over.contents, first.contents);
        assert_eq!(taken_over.facts, first.facts);
        kernel.remove_links().await.unwrap();
    });
    let left = case.node.ip(&["-br", "link"]);
    assert!(!left.contains("mesh"), "{left}");
}

#[test]
fn what_cannot_be_done_is_told_and_keeps_nothing_back() {
    let case = Case::new();
    let mut table = case.table();
    endpoint(&mut table, "lost.1", "n1", "", "blue", &["10.0.9.99"]);
    let later = format!("{}-later", case.task.0);
    case.put_in(&mut table, "lost.1", &later);
    table.nodes.get_mut("n3").unwrap().address = ip("198.51.100.3");
    case.run(async |kernel| {
        let outcome = kernel.round(&table, "n1").await.unwrap();
        assert_eq!(subjects(&outcome), ["endpoint lost.1", "node n3"]);
        assert!(outcome.problems[0].message.starts_with("Network namespace "), "{:?}", outcome.problems);
        assert!(outcome.waiting.contains_key("lost.1"));
        // Its network's gateway is beside the other.
        assert_eq!(attached(&outcome)["endpoint_tc"], 2);

        // The namespace comes: it heals by itself.
        let _later = Scratch::named(&later);
        let outcome = kernel.round(&table, "n1").await.unwrap();
        assert_eq!(subjects(&outcome), ["node n3"]);
        assert_eq!(attached(&outcome)["endpoint_tc"], 3);
    });
}

#[test]
fn drift_of_maps_links_and_programs_is_put_right() {
    let case = Case::new();
    let table = case.table();
    case.run(async |kernel| {
        let before = kernel.round(&table, "n1").await.unwrap();
        {
            let datapath = lock(&kernel.datapath);
            let mut maps = datapath.kernel_maps();
            maps.remove::<Peers>(&Address::from(ip("192.0.2.2"))).unwrap();
            let (key, service) = before.contents.services.iter().next().unwrap();
            let altered = mesh_common::abi::Service { first_slot: 77, ..*service };
            maps.insert::<Services>(key, &altered).unwrap();
            datapath.detach(before.facts.gate.unwrap().host_ifindex).unwrap();
        }
        case.node.ip(&["link", "del", &host_interface("search.1")]);
        let after = kernel.round(&table, "n1").await.unwrap();
        assert_eq!(subjects(&after), [""; 0], "{:?}", after.problems);
        assert_eq!(kernel.repaired, 2);
        assert_eq!(attached(&after), attached(&before));
        assert_eq!(after.contents.services, before.contents.services);
        assert_eq!(after.contents.peers, before.contents.peers);
        // The pair is a new one, and the maps know it.
        let ifindex = after.facts.attached["search.1"];
        let datapath = lock(&kernel.datapath);
        let endpoints = datapath.kernel_maps().entries::<Endpoints>().unwrap();
        assert_eq!(endpoints.iter().filter(|(_, endpoint)| endpoint.ifindex == ifindex).count(), 2);
    });
    assert!(case.task.ip(&["-br", "addr", "show", "eth0"]).contains("10.0.9.11/24"));
}

#[test]
fn what_leaves_the_table_leaves_the_kernel() {
    let case = Case::new();
    let mut table = case.table();
    case.run(async |kernel| {
        kernel.round(&table, "n1").await.unwrap();
        table.endpoints.remove("search.1");
        table.services.clear();
        let after = kernel.round(&table, "n1").await.unwrap();
        assert_eq!(subjects(&after), [""; 0], "{:?}", after.problems);
        assert!(!attached(&after).contains_key("endpoint_tc"));
        let datapath = lock(&kernel.datapath);
        let maps = datapath.kernel_maps();
        assert_eq!(maps.entries::<Services>().unwrap().len(), 0);
        assert!(maps.entries::<Endpoints>().unwrap().iter().all(|(_, endpoint)| endpoint.ifindex == 0));
    });
    let left = case.task.ip(&["-br", "link"]);
    assert!(!left.contains("eth0"), "{left}");
}
