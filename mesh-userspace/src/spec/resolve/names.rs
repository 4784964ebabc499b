//! Which names things may have.

use std::collections::{HashMap, HashSet};

use super::Judge;
use crate::spec::{Given, Origin, article, quoted};

/// Linux's IFNAMSIZ without the closing zero.
const LONGEST_INTERFACE: usize = 15;
/// Linux's HOST_NAME_MAX.
const LONGEST_NODE: usize = 64;
/// A label's length in DNS (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;
/// A task's name is its service's, a number, and what an engine adds to it.
const LONGEST_ENDPOINT: usize = 128;

impl Judge<'_> {
    pub(super) fn names(&mut self) {
        let spec = self.spec;
        self.names_of("node", LONGEST_NODE, spec.nodes.iter().map(|(name, node)| (name, &node.origin)));
        let networks = spec.networks.iter().map(|(name, network)| (name, &network.origin));
        self.names_of("network", LONGEST_LABEL, networks);
        let services = spec.services.iter().map(|(name, service)| (name, &service.origin));
        self.names_of("service", LONGEST_LABEL, services);
        let endpoints = spec.endpoints.iter().map(|endpoint| (&endpoint.name.value, &endpoint.name.origin));
        self.names_of("endpoint", LONGEST_ENDPOINT, endpoints);
        for (name, service) in &spec.services {
            self.aliases_of(&format!("The service {}", quoted(name)), &service.aliases);
        }
        for endpoint in &spec.endpoints {
            self.aliases_of(&format!("The endpoint {}", quoted(&endpoint.name.value)), &endpoint.aliases);
        }
    }

    /// Several may share an alias, as in Compose: it then stands for all of them.
    fn aliases_of(&mut self, who: &str, aliases: &[Given<String>]) {
        let mut seen = HashSet::new();
        for alias in aliases {
            if !well_formed(&alias.value) || alias.value.len() > LONGEST_ENDPOINT {
                self.fault(
                    &alias.origin,
                    format!(
                        "{who} cannot have the alias {}; take up to {LONGEST_ENDPOINT} letters, digits, \".\", \"_\" and \
                         \"-\" that begin with a letter or a digit.",
                        quoted(&alias.value)
                    ),
                );
            } else if !seen.insert(alias.value.to_ascii_lowercase()) {
                let sentence = format!("{who} has the alias {} twice; write it once.", quoted(&alias.value));
                self.fault(&alias.origin, sentence);
            }
        }
    }

    /// Names of one kind: each well formed, and no two alike for DNS, which knows no case.
    fn names_of<'a>(
        &mut self,
        kind: &str,
        longest: usize,
        names: impl Iterator<Item = (&'a String, &'a Origin)>,
    ) {
        let mut names: Vec<_> = names.collect();
        names.sort_by_key(|(_, origin)| *origin);
        let mut seen: HashMap<String, (&str, &Origin)> = HashMap::new();
        for (name, origin) in names {
            if !well_formed(name) || name.len() > longest {
                self.fault(
                    origin,
                    format!(
                        "{} cannot be the name of {} {kind}; take up to {longest} letters, digits, \".\", \
                         \"_\" and \"-\" that begin with a letter or a digit.",
                        quoted(name),
                        article(kind)
                    ),
                );
            }
            match seen.get(&name.to_ascii_lowercase()) {
                None => {
                    seen.insert(name.to_ascii_lowercase(), (name, origin));
                }
                Some((first, there)) if first == name => self.fault(
                    origin,
                    format!(
                        "The {kind} {} is given twice (first: {}); give each a name of its own.",
                        quoted(name),
                        there.seen_from(origin)
                    ),
                ),
                Some((first, there)) => self.fault_between(
                    origin,
                    there,
                    format!(
                        "The {kind} {} differs from {} ({}) only by case, which DNS does not see; give it \
                         another name.",
                        quoted(name),
                        quoted(first),
                        there.seen_from(origin)
                    ),
                ),
            }
        }
    }

    pub(super) fn interface_name(&mut self, name: &str, origin: &Origin) {
        let well_formed = !name.is_empty()
            && name.len() <= LONGEST_INTERFACE
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if !well_formed {
            self.fault(
                origin,
                format!(
                    "{} cannot be the name of an interface; Linux allows 1 to {LONGEST_INTERFACE} bytes \
                     without \"/\", \":\" and spaces, as in eth0.",
                    quoted(name)
                ),
            );
        } else if name == "lo" || made_by_us(name) {
            self.fault(
                origin,
                format!(
                    "The interface {} cannot carry the mesh; name one that leads to the other nodes, such as \
                     eth0.",
                    quoted(name)
                ),
            );
        }
    }
}

fn well_formed(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether an interface is the daemon's own: the node's attachment, or the host side of a task's.
fn made_by_us(interface: &str) -> bool {
    matches!(interface, "mesh0" | "mesh0-gate")
        || interface
            .strip_prefix("mesh")
            .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|digit| digit.is_ascii_hexdigit()))
}
