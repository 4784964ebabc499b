//! The rules: what is asked for, held against all of them, and what was left open allocated.
//!
//! A pure function: the same specification gives the same table on every node and at every time. Allocation goes
//! through names in their order, those of the file before those that came by commands, so a command never moves
//! what the file was given. In a cluster it goes through objects in the order in which they came to be; what one was
//! given counts as asked for then, but is given anew where somebody older has it.

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

/// Where the search for something free begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// At the beginning: whoever reads a file sees the same order in the table.
    #[default]
    InOrder,
    /// At a place that follows from the name, so that nodes that do not hear of each other seldom give away the same.
    Scattered,
}

/// The table that a specification gives.
///
/// # Errors
/// Every rule that it breaks.
pub fn resolve(spec: &Spec) -> Result<Table, Faults> {
    resolve_with(spec, Allocation::InOrder)
}

/// The table that a specification gives, with what it left open found in this way.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(spec: &Spec, allocation: Allocation) -> Result<Table, Faults> {
    let (table, faults) = judge(spec, &Unreadable::default(), allocation);
    faults.or(table)
}

/// The rules that a specification breaks, of which parts could not be read.
pub(crate) fn faults_beside(spec: &Spec, unreadable: &Unreadable) -> Faults {
    judge(spec, unreadable, Allocation::InOrder).1
}

fn judge(spec: &Spec, unreadable: &Unreadable, allocation: Allocation) -> (Table, Faults) {
    let mut judge =
        Judge { spec, unreadable, allocation, faults: Faults::default(), without_room: BTreeSet::new() };
    judge.names();
    let options = judge.options();
    let nodes = judge.nodes();
    let networks = judge.networks();
    judge.service_rules();
    judge.health_rules();
    judge.port_rules();
    judge.external_rules(&networks);
    judge.endpoint_rules();
    // In a cluster who is at fault goes, and leaves its addresses to the others: until then they lack nothing.
    if allocation == Allocation::Scattered && !judge.faults.is_empty() {
        return (Table::default(), judge.faults);
    }
    let (services, endpoints) = judge.addresses(&networks);
    (Table { options, nodes, networks, services, endpoints }, judge.faults)
}

/// The rules at work on a specification.
struct Judge<'a> {
    spec: &'a Spec,
    unreadable: &'a Unreadable,
    allocation: Allocation,
    faults: Faults,
    /// Networks that no address can be had in, which has been said already.
    without_room: BTreeSet<String>,
}

impl Judge<'_> {
    fn fault(&mut self, origin: &Origin, sentence: impl Into<String>) {
        self.faults.push(Fault::new(origin.clone(), sentence));
    }

    /// A fault of two things that cannot both be, as which the later of them counts, wherever it is reported.
    fn fault_between(&mut self, origin: &Origin, other: &Origin, sentence: impl Into<String>) {
        let against = Some(other.clone());
        self.faults.push(Fault { against, ..Fault::new(origin.clone(), sentence) });
    }

    /// A fault of somebody for whom nothing is left.
    fn fault_of_room(&mut self, origin: &Origin, sentence: impl Into<String>) {
        self.faults.push(Fault { lacks_room: true, ..Fault::new(origin.clone(), sentence) });
    }

    /// Where the search for something free begins, as a number of any size; none for the beginning.
    fn begin(&self, kind: &str, name: &str, within: &str) -> Option<u64> {
        (self.allocation == Allocation::Scattered).then(|| scattered(&[kind, name, within]))
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

/// A number that follows from some words, the same on every node: FNV-1a, its bits mixed once more, because it is the last of them
/// that count.
fn scattered(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0xff]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Names with what is asked for, in the order of allocation.
fn in_order<'a, T>(
    items: impl Iterator<Item = (&'a String, &'a T)>,
    origin: impl Fn(&T) -> &Origin,
) -> Vec<(&'a str, &'a T)> {
    let mut items: Vec<_> = items.map(|(name, item)| (name.as_str(), item)).collect();
    items.sort_by_key(|(name, item)| (origin(item).turn(), *name));
    items
}
