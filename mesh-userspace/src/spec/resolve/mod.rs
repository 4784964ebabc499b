//! The rules: what is asked for, held against all of them, and what was left open allocated.
//!
//! A pure function: the same specification gives the same table on every node and at every time. Allocation goes
//! through names in their order, those of the file before those that came by commands, so a command never moves
//! what the file was given.

mod addresses;
mod endpoints;
mod external;
mod health;
mod names;
mod networks;
mod nodes;
mod ports;
mod services;

use std::collections::BTreeSet;

use super::{Fault, Faults, Origin, Spec};
use crate::table::{Options, Table};

/// Names that are given but whose content cannot be read, so that what depends on them is not judged.
#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    pub(crate) nodes: BTreeSet<String>,
    pub(crate) networks: BTreeSet<String>,
    pub(crate) services: BTreeSet<String>,
}

/// The table that a specification gives.
///
/// # Errors
/// Every rule that it breaks.
pub fn resolve(spec: &Spec) -> Result<Table, Faults> {
    let (table, faults) = judge(spec, &Unreadable::default());
    faults.or(table)
}

/// The rules that a specification breaks, of which parts could not be read.
pub(crate) fn faults_beside(spec: &Spec, unreadable: &Unreadable) -> Faults {
    judge(spec, unreadable).1
}

fn judge(spec: &Spec, unreadable: &Unreadable) -> (Table, Faults) {
    let mut judge = Judge { spec, unreadable, faults: Faults::default(), without_room: BTreeSet::new() };
    judge.names();
    let options = judge.options();
    let nodes = judge.nodes();
    let networks = judge.networks();
    judge.service_rules();
    judge.health_rules();
    judge.port_rules();
    judge.external_rules(&networks);
    judge.endpoint_rules();
    let (services, endpoints) = judge.addresses(&networks);
    (Table { options, nodes, networks, services, endpoints }, judge.faults)
}

/// The rules at work on a specification.
struct Judge<'a> {
    spec: &'a Spec,
    unreadable: &'a Unreadable,
    faults: Faults,
    /// Networks that no address can be had in, which has been said already.
    without_room: BTreeSet<String>,
}

impl Judge<'_> {
    fn fault(&mut self, origin: &Origin, sentence: impl Into<String>) {
        self.faults.push(Fault::new(origin.clone(), sentence));
    }

    fn options(&mut self) -> Options {
        let asked = &self.spec.options;
        let mut options = Options::default();
        if let Some(port) = &asked.vxlan_port {
            options.vxlan_port = port.value;
            if port.value == 0 || ports::masquerading().contains(&port.value) {
                self.fault(
                    &port.origin,
                    format!(
                        "The VXLAN port {} cannot be used; take one from 1 to {}, such as 4789.",
                        port.value,
                        ports::masquerading().start() - 1
                    ),
                );
            }
        }
        options.xdp = asked.xdp.unwrap_or_default();
        options.r#return = asked.r#return.unwrap_or_default();
        options.continuity = asked.continuity.unwrap_or_default();
        options.dns = asked.dns.unwrap_or(options.dns);
        let mut named = BTreeSet::new();
        for interface in &asked.interfaces {
            if !named.insert(interface.value.as_str()) {
                self.fault(
                    &interface.origin,
                    format!(
                        "The interface {} is named twice; name it once.",
                        super::quoted(&interface.value)
                    ),
                );
            } else {
                options.interfaces.push(interface.value.clone());
            }
            self.interface_name(&interface.value, &interface.origin);
        }
        options
    }
}

/// Names with what is asked for, in the order of allocation: those of the file first.
fn in_order<'a, T>(
    items: impl Iterator<Item = (&'a String, &'a T)>,
    origin: impl Fn(&T) -> &Origin,
) -> Vec<(&'a str, &'a T)> {
    let mut items: Vec<_> = items.map(|(name, item)| (name.as_str(), item)).collect();
    items.sort_by_key(|(name, item)| (origin(item).is_command(), *name));
    items
}
