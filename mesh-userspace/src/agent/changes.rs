//! What commands change: requests of the API as changes of what is asked for.

use std::path::Path;

use mesh_cluster::{Key, Kind, Write};

use super::{backends, desired::Desired, replicated::Replicated};
use crate::{
    api::{
        Change, Refusal, RefusalKind,
        types::{Attach, NetworkCreate, ServiceCreate},
    },
    links::{LinkError, Namespace},
    spec::{Endpoint, Fault, Faults, Given, Membership, Network, Origin, Service, Spec, kind_name, netns},
};

/// What the agent is asked to change.
#[derive(Debug)]
pub(crate) enum Asked {
    /// What somebody asked for by the API.
    Change(Change),
    /// That this node's tasks take no new flow.
    Drain,
    /// That what this node brought to the cluster goes.
    Withdraw,
}

/// Changes the desired state and keeps the change for the next start; returns the name of what was changed.
pub(super) fn change(desired: &mut Desired, asked: Asked) -> Result<String, Refusal> {
    let Asked::Change(change) = asked else { return Err(no_cluster()) };
    let (name, spec) = changed(desired, change)?;
    desired.take_over(spec).map_err(|faults| refusal(RefusalKind::Invalid, &faults))?;
    desired.keep().map_err(|error| {
        Refusal::new(
            RefusalKind::Failed,
            format!(
                "it is done, but {} could not be written ({error}), so it will not outlive this daemon",
                desired.local().state_dir.display()
            ),
            "make the directory writable and repeat it after a restart",
        )
    })?;
    Ok(name)
}

/// What a change is to the cluster's store; with the name of what is changed. Refused where a rule forbids it, as it would be
/// without a cluster.
pub(super) fn writes(desired: &Desired, asked: Asked) -> Result<(String, Vec<Write>), Refusal> {
    let Some(replicated) = desired.replicated() else { return Err(no_cluster()) };
    let change = match asked {
        Asked::Change(change) => change,
        Asked::Drain => {
            let writes = replicated.draining().map_err(|error| {
                Refusal::new(RefusalKind::Failed, format!("it cannot be written down: {error}"), "")
            })?;
            return Ok((desired.node().to_owned(), writes));
        }
        Asked::Withdraw => return Ok((desired.node().to_owned(), replicated.removal_of(desired.node()))),
    };
    if let Change::RemoveNode(name) = change {
        return remove_node(desired, replicated, name);
    }
    if let Some(key) = removed(&change).filter(|key| replicated.aside(key.kind, &key.name).is_some()) {
        return Ok((key.name.clone(), vec![Write { key, value: None }]));
    }
    let (name, spec) = changed(desired, change)?;
    let writes = replicated.writes(spec).map_err(|faults| refusal(RefusalKind::Invalid, &faults))?;
    for write in &writes {
        let (kind, name) = (write.key.kind, &write.key.name);
        if let Some(why) = replicated.aside(kind, name) {
            let kind = kind_name(kind);
            return Err(Refusal::new(
                RefusalKind::Conflict,
                format!(
                    "there is a {kind} {name:?} already, which is set aside: {}",
                    why.trim_end_matches('.')
                ),
                "remove it first, or choose another name",
            ));
        }
    }
    Ok((name, writes))
}

/// What a change removes.
fn removed(change: &Change) -> Option<Key> {
    let (kind, name) = match change {
        Change::RemoveNetwork(name) => (Kind::Network, name),
        Change::RemoveService(name) => (Kind::Service, name),
        Change::Detach(name) => (Kind::Endpoint, name),
        _ => return None,
    };
    Some(Key::new(kind, name))
}

/// What is to be written for a node that does not come back.
fn remove_node(
    desired: &Desired,
    replicated: &Replicated,
    name: String,
) -> Result<(String, Vec<Write>), Refusal> {
    if name == desired.node() || replicated.is_living_member(&name) {
        return Err(Refusal::new(
            RefusalKind::Conflict,
            format!("the node {name} is alive"),
            format!("`meshctl nodes leave` on {name} has it leave"),
        ));
    }
    let writes = replicated.removal_of(&name);
    if writes.is_empty() {
        return Err(Refusal::new(
            RefusalKind::NotFound,
            format!("there is no node {name:?}"),
            "`meshctl nodes ls` lists them",
        ));
    }
    Ok((name, writes))
}

fn no_cluster() -> Refusal {
    Refusal::new(
        RefusalKind::Invalid,
        "this node is in no cluster",
        "add or remove nodes in the file of each node, or write a section `cluster` into it",
    )
}

/// What is asked for once a change is made, and the name of what it changes.
fn changed(desired: &Desired, change: Change) -> Result<(String, Spec), Refusal> {
    let mut spec = desired.spec().clone();
    let name = match change {
        Change::CreateNetwork(asked) => create_network(&mut spec, asked)?,
        Change::RemoveNetwork(name) => {
            remove(&name, "network", spec.networks.contains_key(&name), spec.remove_network(&name))?
        }
        Change::CreateService(asked) => create_service(&mut spec, asked)?,
        Change::RemoveService(name) => {
            remove(&name, "service", spec.services.contains_key(&name), release_and_remove(&mut spec, &name))?
        }
        Change::Attach(asked) => {
            // Another node may choose a name at the same time.
            let own = desired.replicated().is_some().then(|| desired.node());
            attach(&mut spec, desired.node(), own, asked)?
        }
        Change::Detach(name) => {
            remove(&name, "endpoint", spec.endpoint(&name).is_some(), spec.remove_endpoint(&name))?
        }
        Change::AddBackend { service, asked } => backends::add(&mut spec, desired.table(), &service, &asked)?,
        Change::RemoveBackend { service, backend } => {
            backends::remove(&mut spec, desired.table(), &service, &backend)?
        }
        Change::WeighBackend { service, backend, weight } => {
            backends::weigh(&mut spec, desired.table(), &service, &backend, weight)?
        }
        Change::RemoveNode(_) => return Err(no_cluster()),
    };
    Ok((name, spec))
}

fn create_network(spec: &mut Spec, asked: NetworkCreate) -> Result<String, Refusal> {
    let network = Network {
        origin: Origin::command("meshctl networks create"),
        vni: asked.vni.map(Given::from),
        subnets: asked.subnets.into_iter().map(Given::from).collect(),
        internal: asked.internal,
        ..Network::default()
    };
    spec.add_network(&asked.name, network).map_err(|fault| conflict(&fault))?;
    Ok(asked.name)
}

fn create_service(spec: &mut Spec, asked: ServiceCreate) -> Result<String, Refusal> {
    if asked.health_check.as_ref().is_some_and(|check| check.command.is_some()) {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            "a health check's command must stand in the file of each node that runs it, so that nobody else has a node run \
             programs",
            "write the service there, or check it by http or tcp",
        ));
    }
    let mut service = Service {
        origin: Origin::command("meshctl services create"),
        networks: asked.networks.iter().cloned().map(Given::from).collect(),
        scheduler: asked.scheduler,
        endpoint_mode: asked.endpoint_mode,
        on_no_backend: asked.on_no_backend,
        persistent: asked.persistent,
        health_check: asked.health_check.map(|check| Given::from(*check)),
        ports: asked.ports.into_iter().map(Given::from).collect(),
        ..Service::default()
    };
    for vip in asked.vips {
        let holds = |name: &&String| {
            spec.networks.get(*name).is_some_and(|network| {
                network.subnets.iter().any(|subnet| subnet.value.contains(&vip.address))
            })
        };
        let only = match asked.networks.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        let network = vip.network.clone().or_else(|| asked.networks.iter().find(holds).cloned()).or(only);
        let Some(network) = network else {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("the virtual IP {} is in no network of the service", vip.address),
                "name its network, or an address of a subnet of one of its networks",
            ));
        };
        service.vips.entry(network).or_default().push(Given::from(vip.address));
    }
    spec.add_service(&asked.name, service).map_err(|fault| conflict(&fault))?;
    Ok(asked.name)
}

/// Adds an endpoint on this node; a name that is chosen has `own` in it, if any.
fn attach(spec: &mut Spec, node: &str, own: Option<&str>, asked: Attach) -> Result<String, Refusal> {
    let origin = Origin::command("meshctl attach");
    let Some(namespace) = netns(&asked.netns) else {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            format!("{:?} is no network namespace", asked.netns),
            "give a name under /run/netns, or an absolute path",
        ));
    };
    usable(&namespace)?;
    let name = match asked.name {
        Some(name) => name,
        None => {
            let stem = asked.service.as_deref().unwrap_or(&asked.network);
            match own {
                Some(own) => spec.free_endpoint_name(&format!("{stem}.{own}")),
                None => spec.free_endpoint_name(stem),
            }
        }
    };
    let endpoint = Endpoint {
        name: Given::new(name.clone(), origin.clone()),
        node: Given::new(node.to_owned(), origin.clone()),
        service: asked.service.map(Given::from),
        weight: asked.weight.map(Given::from),
        network: Given::from(asked.network),
        addresses: asked.address.into_iter().map(Given::from).collect(),
        mac: None,
        netns: Some(Given::from(namespace)),
        aliases: Vec::new(),
        remembered: Vec::new(),
        origin,
    };
    spec.add_endpoint(endpoint).map_err(|fault| conflict(&fault))?;
    Ok(name)
}

/// Refuses a namespace that no task can be attached in: it would wait forever.
fn usable(namespace: &Path) -> Result<(), Refusal> {
    let shown = namespace.display();
    let unusable = |error: String, mend: &str| Refusal::new(RefusalKind::Invalid, error, mend);
    match Namespace::open(namespace) {
        Ok(found) if Namespace::current().is_ok_and(|own| own.id() == found.id()) => Err(unusable(
            format!("{shown} is the node's own network namespace"),
            "give the task one of its own, made with `ip netns add`",
        )),
        Ok(_) => Ok(()),
        Err(LinkError::NoNamespace { mend, .. }) => Err(Refusal::new(
            RefusalKind::NotFound,
            format!("there is no network namespace {shown}"),
            format!("{mend}, or name another one"),
        )),
        Err(LinkError::NotANamespace { .. }) => Err(unusable(
            format!("{shown} is no network namespace"),
            "name one that `ip netns add` made, or the path of one, such as /proc/PID/ns/net",
        )),
        Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string(), "name another one")),
    }
}

/// A service that goes leaves its tasks on their networks, but for those that the file gives it.
fn release_and_remove(spec: &mut Spec, name: &str) -> Result<Service, Fault> {
    let is_given =
        |endpoint: &Endpoint| endpoint.origin.is_file() && !spec.overrides.contains_key(&endpoint.name.value);
    let tasks = spec.endpoints.iter().filter(|endpoint| endpoint.is_backend_of(name) && !is_given(endpoint));
    let released: Vec<String> = tasks.map(|endpoint| endpoint.name.value.clone()).collect();
    for endpoint in released {
        spec.set_membership(&endpoint, Membership::default(), &Origin::command("meshctl services rm"))?;
    }
    spec.remove_service(name)
}

fn remove<T>(name: &str, kind: &str, is_there: bool, removed: Result<T, Fault>) -> Result<String, Refusal> {
    match removed {
        Ok(_) => Ok(name.to_owned()),
        Err(_) if !is_there => Err(Refusal::new(
            RefusalKind::NotFound,
            format!("there is no {kind} {name:?}"),
            format!("`meshctl {kind}s ls` lists them"),
        )),
        Err(fault) => Err(conflict(&fault)),
    }
}

pub(super) fn conflict(fault: &Fault) -> Refusal {
    refusal(RefusalKind::Conflict, &Faults::from(fault.clone()))
}

/// Faults as "error; mend", as their sentences are built.
fn refusal(kind: RefusalKind, faults: &Faults) -> Refusal {
    let Some(first) = faults.iter().next() else {
        return Refusal::new(RefusalKind::Failed, "something is wrong", "see the daemon's log");
    };
    let (error, mend) = match first.sentence.rsplit_once("; ") {
        Some((error, mend)) => (error, mend),
        None => (first.sentence.as_str(), "correct it, and repeat the command"),
    };
    let more = match faults.count() {
        0 | 1 => String::new(),
        2 => " (and one more fault)".to_owned(),
        count => format!(" (and {} more faults)", count - 1),
    };
    Refusal::new(kind, format!("{}{more}", trimmed(error)), trimmed(mend))
}

/// A sentence to be put inside of another.
fn trimmed(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let mut letters = sentence.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), letters.as_str())
        }
        _ => sentence.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use mesh_cluster::{Identity, Member, MemberState, NodeId, Stamp, Store};

    use super::*;
    use crate::{agent::testing::Directory, gossip::Snapshot};

    /// The node n1 of a cluster with n2, which lives, n3, which does not, and what these entries say.
    fn cluster(entries: &[(Kind, &str, &str)]) -> (Directory, Desired) {
        let directory = Directory::new();
        let path = directory.path().display();
        let text = format!(
            "node: {{run_dir: {path}/run, state_dir: {path}/state}}\nnodes: {{n1: {{address: 192.0.2.1}}}}\ncluster: {{keyring: \
             /nowhere}}\n"
        );
        let file = directory.path().join("mesh.yaml");
        fs::write(&file, text).unwrap();
        let mut desired = Desired::open(&file, Some("n1"), "").unwrap();
        let mut store = Store::default();
        let nodes: Vec<(String, String)> = (1..=3)
            .map(|n| (format!("n{n}"), format!(r#"{{"address": "192.0.2.{n}", "member": true}}"#)))
            .collect();
        let nodes = nodes.iter().map(|(name, value)| (Kind::Node, name.as_str(), value.as_str()));
        for (time, (kind, name, value)) in (1..).zip(nodes.chain(entries.iter().copied())) {
            let write = Write { key: Key::new(kind, name), value: Some(value.into()) };
            store.write(write, Stamp { time, count: 0, node: NodeId(1) }).unwrap();
        }
        let member = |number: u8, state| Member {
            identity: Identity {
                name: format!("n{number}"),
                id: NodeId(number.into()),
                address: ([192, 0, 2, number], 7946).into(),
                incarnation: 1,
            },
            state,
            since: Duration::ZERO,
        };
        let members = vec![
            member(1, MemberState::Alive),
            member(2, MemberState::Suspect),
            member(3, MemberState::Dead),
        ];
        desired.follow(&Snapshot { version: 1, store, members, problems: Vec::new() });
        desired.look(Duration::ZERO, |_| false);
        (directory, desired)
    }

    fn keys(writes: &[Write]) -> Vec<(&str, bool)> {
        writes.iter().map(|write| (write.key.name.as_str(), write.value.is_some())).collect()
    }

    fn asked(desired: &Desired, change: Change) -> Result<(String, Vec<Write>), String> {
        writes(desired, Asked::Change(change)).map_err(|refusal| refusal.to_string())
    }

    const BLUE: (Kind, &str, &str) = (Kind::Network, "blue", r#"{"vni": 7, "subnets": ["10.0.9.0/30"]}"#);
    /// It has the same VNI, and came later.
    const RED: (Kind, &str, &str) = (Kind::Network, "red", r#"{"vni": 7, "subnets": ["10.0.8.0/24"]}"#);
    const TASK: (Kind, &str, &str) = (
        Kind::Endpoint,
        "far",
        r#"{"name": "far", "node": "n3", "network": "blue", "addresses": ["10.0.9.2"]}"#,
    );

    #[test]
    fn a_change_is_what_it_writes_and_is_refused_as_elsewhere() {
        let (_directory, desired) = cluster(&[BLUE]);
        let network =
            |name: &str, vni| NetworkCreate { name: name.to_owned(), vni, ..NetworkCreate::default() };
        let (name, made) = asked(&desired, Change::CreateNetwork(network("green", None))).unwrap();
        assert_eq!((name.as_str(), keys(&made)), ("green", vec![("green", true)]));
        let value = made[0].value.as_ref().unwrap();
        assert!(value.contains(r#""remembered":{"vni":"#), "what was allocated is written down: {value}");
        let refused = asked(&desired, Change::CreateNetwork(network("green", Some(7)))).unwrap_err();
        assert!(refused.contains("which the network \"blue\" has too"), "{refused}");
        let refused = asked(&desired, Change::RemoveNetwork("green".to_owned())).unwrap_err();
        assert!(refused.contains("there is no network \"green\""), "{refused}");
        let (_, removed) = asked(&desired, Change::RemoveNetwork("blue".to_owned())).unwrap();
        assert_eq!(keys(&removed), [("blue", false)]);
    }

    #[test]
    fn what_is_set_aside_can_be_removed_and_not_be_made_again() {
        let (_directory, desired) = cluster(&[BLUE, RED]);
        assert!(!desired.table().networks.contains_key("red"));
        let red = NetworkCreate { name: "red".to_owned(), ..NetworkCreate::default() };
        let refused = asked(&desired, Change::CreateNetwork(red)).unwrap_err();
        assert!(refused.contains("there is a network \"red\" already, which is set aside"), "{refused}");
        let (_, removed) = asked(&desired, Change::RemoveNetwork("red".to_owned())).unwrap();
        assert_eq!(keys(&removed), [("red", false)]);
    }

    #[test]
    fn a_full_network_is_an_error_to_who_asks() {
        let (_directory, desired) = cluster(&[BLUE, TASK]);
        let service = ServiceCreate {
            name: "web".to_owned(),
            networks: vec!["blue".to_owned()],
            ..ServiceCreate::default()
        };
        let refused = asked(&desired, Change::CreateService(service)).unwrap_err();
        assert!(refused.contains("has no free IPv4 address left for the service \"web\""), "{refused}");
    }

    #[test]
    fn a_node_that_does_not_come_back_goes_with_its_endpoints() {
        let (_directory, desired) = cluster(&[BLUE, TASK]);
        assert!(desired.table().endpoints.contains_key("far"), "it is in the store");
        assert!(desired.living().endpoints.is_empty(), "and not among what is planned");
        assert!(!desired.living().nodes.contains_key("n3") && desired.living().nodes.contains_key("n2"));
        for alive in ["n1", "n2"] {
            let refused = asked(&desired, Change::RemoveNode(alive.to_owned())).unwrap_err();
            assert!(refused.contains(&format!("the node {alive} is alive")), "{refused}");
        }
        let (_, removed) = asked(&desired, Change::RemoveNode("n3".to_owned())).unwrap();
        assert_eq!(keys(&removed), [("n3", false), ("far", false)]);
        assert!(asked(&desired, Change::RemoveNode("n9".to_owned())).is_err());
    }

    #[test]
    fn without_a_cluster_nobody_leaves_it() {
        let directory = Directory::new();
        let path = directory.path().display();
        let file = directory.path().join("mesh.yaml");
        let text = format!(
            "node: {{run_dir: {path}/run, state_dir: {path}/state}}\nnodes: {{n1: {{address: 192.0.2.1}}}}\n"
        );
        fs::write(&file, text).unwrap();
        let mut desired = Desired::open(&file, Some("n1"), "").unwrap();
        for asked in [Asked::Drain, Asked::Withdraw, Asked::Change(Change::RemoveNode("n1".to_owned()))] {
            let refused = change(&mut desired, asked).unwrap_err().to_string();
            assert!(refused.contains("this node is in no cluster"), "{refused}");
        }
    }
}
