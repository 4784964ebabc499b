//! Health in the cluster's store: each node reports how its own tasks are, and follows what the others report.

use std::collections::{BTreeMap, BTreeSet};

use mesh_cluster::{Entry, Key, Kind, NodeId, Stamp, Store, Write};

use super::reading::{self, Reading};
use crate::table::{Endpoint, Health, HealthState, Healths, Table};

/// What nodes have reported of their tasks; the entries have the endpoints' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports(BTreeMap<Key, Report>);

/// A report as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    stamp: Stamp,
    /// None where it cannot be read.
    health: Option<Health>,
}

impl Reading for Report {
    fn stamp(&self) -> Stamp {
        self.stamp
    }
}

impl Reports {
    /// Reads what has been written since; returns whether there is anything new.
    pub fn follow(&mut self, store: &Store) -> bool {
        let read = |_: &Key, entry: &Entry, value: &str| Report {
            stamp: entry.stamp,
            health: serde_json::from_str(value).ok(),
        };
        reading::follow(&mut self.0, store, |kind| kind == Kind::Health, read)
    }

    /// How a task is, as its node has reported.
    fn health(&self, endpoint: &str) -> Option<&Health> {
        self.0.get(&Key::new(Kind::Health, endpoint)).and_then(|report| report.health.as_ref())
    }

    /// How the tasks on other members are. One that is checked and of which nothing is reported has yet to start.
    #[must_use]
    pub fn of_others(&self, table: &Table, me: &str, members: &BTreeSet<&str>) -> Healths {
        if table.services.values().all(|service| service.health_check.is_none()) {
            return Healths::new();
        }
        let others = table.endpoints.iter().filter(|(_, endpoint)| {
            endpoint.node != me && members.contains(endpoint.node.as_str()) && is_checked(table, endpoint)
        });
        let health = |name: &String| {
            self.health(name).cloned().unwrap_or(Health {
                state: HealthState::Starting,
                since: 0,
                reason: None,
            })
        };
        others.map(|(name, _)| (name.clone(), health(name))).collect()
    }

    /// What a node has to report, given how its own tasks are.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn writes(
        &self,
        own: &Healths,
        table: &Table,
        (me, id): (&str, NodeId),
    ) -> Result<Vec<Write>, serde_json::Error> {
        let mut writes = Vec::new();
        let is_ours = |name: &str| {
            table
                .endpoints
                .get(name)
                .is_some_and(|endpoint| endpoint.node == me && is_checked(table, endpoint))
        };
        for (name, health) in own.iter().filter(|(name, _)| is_ours(name)) {
            if self.health(name).map(|reported| reported.state) != Some(health.state) {
                let value = serde_json::to_string(health)?;
                writes.push(Write { key: Key::new(Kind::Health, name), value: Some(value.into()) });
            }
        }
        for (key, report) in &self.0 {
            let is_of_somebody =
                table.endpoints.get(&key.name).is_some_and(|endpoint| is_checked(table, endpoint));
            if report.stamp.node == id && !is_of_somebody {
                writes.push(Write { key: key.clone(), value: None });
            }
        }
        Ok(writes)
    }
}

fn is_checked(table: &Table, endpoint: &Endpoint) -> bool {
    let service = endpoint.service.as_ref().and_then(|service| table.services.get(service));
    service.is_some_and(|service| service.health_check.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, spec::resolve};

    const ME: NodeId = NodeId(1);

    fn table(check: &str) -> Table {
        let text = format!(
            "nodes: {{n1: {{address: 192.0.2.1}}, n2: {{address: 192.0.2.2}}, kernel: {{address: 192.0.2.3}}}}\n\
             networks: {{blue: {{subnets: [10.0.9.0/24]}}}}\nservices: {{web: {{networks: [blue]{check}}}}}\nendpoints:\n  \
             - {{name: web.1, node: n1, service: web, network: blue}}\n  \
             - {{name: web.2, node: n2, service: web, network: blue}}\n  \
             - {{name: web.3, node: kernel, service: web, network: blue}}\n"
        );
        resolve(&config::parse("mesh.yaml", text.as_bytes()).unwrap().spec).unwrap()
    }

    fn health(state: HealthState) -> Health {
        Health { state, since: 7, reason: None }
    }

    fn written(store: &mut Store, time: u64, node: NodeId, writes: Vec<Write>) {
        for (count, write) in (0..).zip(writes) {
            store.write(write, Stamp { time, count, node }).unwrap();
        }
    }

    #[test]
    fn a_node_reports_its_own_tasks_once_and_takes_back_what_is_nobodys() {
        let checked = table(", health_check: {tcp: 80}");
        let own: Healths = [("web.1", HealthState::Healthy), ("web.2", HealthState::Healthy)]
            .into_iter()
            .map(|(name, state)| (name.to_owned(), health(state)))
            .collect();
        let (mut store, mut reports) = (Store::default(), Reports::default());
        let writes = reports.writes(&own, &checked, ("n1", ME)).unwrap();
        assert_eq!(writes.iter().map(|write| write.key.name.as_str()).collect::<Vec<_>>(), ["web.1"]);
        written(&mut store, 1, ME, writes);
        assert!(reports.follow(&store));
        assert!(!reports.follow(&store), "nothing new");
        assert!(reports.writes(&own, &checked, ("n1", ME)).unwrap().is_empty());

        let sick = own.update("web.1".to_owned(), health(HealthState::Unhealthy));
        assert_eq!(reports.writes(&sick, &checked, ("n1", ME)).unwrap().len(), 1);

        let unchecked = table("");
        assert!(
            reports.writes(&own, &unchecked, ("n2", NodeId(2))).unwrap().is_empty(),
            "who wrote it takes it back"
        );
        let withdrawn = reports.writes(&own, &unchecked, ("n1", ME)).unwrap();
        assert_eq!(withdrawn.iter().map(|write| &write.value).collect::<Vec<_>>(), [&None]);
        written(&mut store, 2, ME, withdrawn);
        assert!(reports.follow(&store));
        assert_eq!(reports, Reports::default());
    }

    #[test]
    fn a_task_elsewhere_is_as_its_node_says_and_starts_until_it_says_so() {
        let checked = table(", health_check: {tcp: 80}");
        let members = BTreeSet::from(["n1", "n2"]);
        let (mut store, mut reports) = (Store::default(), Reports::default());
        let others = |reports: &Reports| -> Vec<(String, HealthState)> {
            let others = reports.of_others(&checked, "n1", &members);
            others.iter().map(|(name, health)| (name.clone(), health.state)).collect()
        };
        // Nobody checks the tasks of a node without meshd.
        assert_eq!(others(&reports), [("web.2".to_owned(), HealthState::Starting)]);
        let own: Healths = [("web.2".to_owned(), health(HealthState::Healthy))].into_iter().collect();
        written(&mut store, 1, NodeId(2), reports.writes(&own, &checked, ("n2", NodeId(2))).unwrap());
        reports.follow(&store);
        assert_eq!(others(&reports), [("web.2".to_owned(), HealthState::Healthy)]);
        written(
            &mut store,
            2,
            NodeId(2),
            vec![Write { key: Key::new(Kind::Health, "web.2"), value: Some("{".into()) }],
        );
        reports.follow(&store);
        assert_eq!(
            others(&reports),
            [("web.2".to_owned(), HealthState::Starting)],
            "what cannot be read says nothing"
        );
        assert!(reports.of_others(&table(""), "n1", &members).is_empty());
    }
}
