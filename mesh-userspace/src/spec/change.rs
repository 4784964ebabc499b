//! Changes by commands: what is added to the file's wishes, and taken away again.

use std::collections::HashMap;

use super::{Endpoint, Fault, Faults, Network, Origin, Service, Spec, article, quoted};
use crate::table::Table;

impl Spec {
    /// Adds a network.
    ///
    /// # Errors
    /// A network of the name is there already.
    pub fn add_network(&mut self, name: &str, network: Network) -> Result<(), Fault> {
        free("network", name, self.networks.get(name).map(|there| &there.origin), &network.origin)?;
        self.networks.insert(name.to_owned(), network);
        Ok(())
    }

    /// Adds a service.
    ///
    /// # Errors
    /// A service of the name is there already.
    pub fn add_service(&mut self, name: &str, service: Service) -> Result<(), Fault> {
        free("service", name, self.services.get(name).map(|there| &there.origin), &service.origin)?;
        self.services.insert(name.to_owned(), service);
        Ok(())
    }

    /// Adds an endpoint.
    ///
    /// # Errors
    /// An endpoint of the name is there already.
    pub fn add_endpoint(&mut self, endpoint: Endpoint) -> Result<(), Fault> {
        let name = &endpoint.name.value;
        free("endpoint", name, self.endpoint(name).map(|there| &there.origin), &endpoint.origin)?;
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// Puts a service in the place of the one of the same name, which keeps its virtual IPs where it can.
    ///
    /// # Errors
    /// There is none of the name, or it stands in the file.
    pub fn replace_service(&mut self, name: &str, mut service: Service) -> Result<(), Fault> {
        let old = self.services.get_mut(name).ok_or_else(|| unknown("service", name))?;
        ours("service", name, &old.origin)?;
        service.remembered = std::mem::take(&mut old.remembered);
        *old = service;
        Ok(())
    }

    /// Removes a network.
    ///
    /// # Errors
    /// There is none of the name, it stands in the file, or services or endpoints are on it.
    pub fn remove_network(&mut self, name: &str) -> Result<Network, Fault> {
        let network = self.networks.get(name).ok_or_else(|| unknown("network", name))?;
        ours("network", name, &network.origin)?;
        let services = self
            .services
            .iter()
            .filter(|(_, service)| service.networks.iter().any(|network| network.value == name))
            .map(|(service, _)| format!("the service {}", quoted(service)));
        let endpoints = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.network.value == name)
            .map(|endpoint| format!("the endpoint {}", quoted(&endpoint.name.value)));
        unused("network", name, services.chain(endpoints))?;
        self.networks.remove(name).ok_or_else(|| unknown("network", name))
    }

    /// Removes a service.
    ///
    /// # Errors
    /// There is none of the name, it stands in the file, or endpoints are its backends.
    pub fn remove_service(&mut self, name: &str) -> Result<Service, Fault> {
        let service = self.services.get(name).ok_or_else(|| unknown("service", name))?;
        ours("service", name, &service.origin)?;
        let endpoints = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.service.as_ref().is_some_and(|service| service.value == name))
            .map(|endpoint| format!("the endpoint {}", quoted(&endpoint.name.value)));
        unused("service", name, endpoints)?;
        self.services.remove(name).ok_or_else(|| unknown("service", name))
    }

    /// Removes an endpoint.
    ///
    /// # Errors
    /// There is none of the name, or it stands in the file.
    pub fn remove_endpoint(&mut self, name: &str) -> Result<Endpoint, Fault> {
        let (index, endpoint) = self
            .endpoints
            .iter()
            .enumerate()
            .find(|(_, endpoint)| endpoint.name.value == name)
            .ok_or_else(|| unknown("endpoint", name))?;
        ours("endpoint", name, &endpoint.origin)?;
        Ok(self.endpoints.remove(index))
    }

    /// The endpoint of a name.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name.value == name)
    }

    /// The first name `STEM.1`, `STEM.2`, … that no endpoint has.
    #[must_use]
    pub fn free_endpoint_name(&self, stem: &str) -> String {
        let mut number = 1_usize;
        loop {
            let name = format!("{stem}.{number}");
            if self.endpoint(&name).is_none() {
                return name;
            }
            number += 1;
        }
    }

    /// Takes over what came by commands from an earlier specification, after the file has been read again.
    ///
    /// # Errors
    /// The file now names something that a command has added; the specification is then not to be used.
    pub fn adopt(&mut self, earlier: &Self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let mut note = |result: Result<(), Fault>| {
            if let Err(fault) = result {
                faults.push(fault);
            }
        };
        for (name, network) in earlier.networks.iter().filter(|(_, network)| !network.origin.is_file()) {
            note(self.add_network(name, network.clone()));
        }
        for (name, service) in earlier.services.iter().filter(|(_, service)| !service.origin.is_file()) {
            note(self.add_service(name, service.clone()));
        }
        let there: HashMap<&str, &Origin> =
            self.endpoints.iter().map(|endpoint| (endpoint.name.value.as_str(), &endpoint.origin)).collect();
        let mut adopted = Vec::new();
        for endpoint in earlier.endpoints.iter().filter(|endpoint| !endpoint.origin.is_file()) {
            let name = &endpoint.name.value;
            note(free("endpoint", name, there.get(name.as_str()).copied(), &endpoint.origin));
            adopted.push(endpoint.clone());
        }
        self.endpoints.append(&mut adopted);
        self.adopt_overrides(earlier);
        faults.or(())
    }

    /// Only what came by commands: what the agent keeps in its state.
    #[must_use]
    pub fn by_command(&self) -> Self {
        let mut kept = self.clone();
        kept.options = super::Options::default();
        kept.nodes.retain(|_, node| !node.origin.is_file());
        kept.networks.retain(|_, network| !network.origin.is_file());
        kept.services.retain(|_, service| !service.origin.is_file());
        kept.endpoints.retain(|endpoint| !endpoint.origin.is_file());
        kept
    }

    /// Remembers what was allocated for that which came by commands, so that a later change moves nothing.
    ///
    /// What stands in the file is not remembered: there the same file must give the same table on every node,
    /// whatever it said before.
    pub fn remember(&mut self, table: &Table) {
        for (name, network) in self.networks.iter_mut().filter(|(_, network)| !network.origin.is_file()) {
            if let Some(settled) = table.networks.get(name) {
                network.remembered.vni = Some(settled.vni);
                network.remembered.subnet = settled.subnets.first().copied();
            }
        }
        for (name, service) in self.services.iter_mut().filter(|(_, service)| !service.origin.is_file()) {
            if let Some(settled) = table.services.get(name) {
                service.remembered.clone_from(&settled.vips);
            }
        }
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.origin.is_file()) {
            if let Some(settled) = table.endpoints.get(&endpoint.name.value) {
                endpoint.remembered.clone_from(&settled.addresses);
            }
        }
    }
}

fn free(kind: &str, name: &str, there: Option<&Origin>, here: &Origin) -> Result<(), Fault> {
    match there {
        None => Ok(()),
        Some(there) => Err(Fault::new(
            here.clone(),
            format!(
                "There is {} {kind} {} already ({}); choose another name.",
                article(kind),
                quoted(name),
                there.seen_from(here)
            ),
        )),
    }
}

pub(super) fn unknown(kind: &str, name: &str) -> Fault {
    Fault::new(
        Origin::default(),
        format!("There is no {kind} {}; `meshctl {kind}s ls` lists them.", quoted(name)),
    )
}

/// What stands in the file would come back with the next reload.
fn ours(kind: &str, name: &str, origin: &Origin) -> Result<(), Fault> {
    match origin {
        Origin::Cluster(_) | Origin::Command(_) => Ok(()),
        file @ Origin::File { .. } => Err(Fault::new(
            Origin::default(),
            format!("The {kind} {} stands in the file ({file}); change it there.", quoted(name)),
        )),
    }
}

fn unused(kind: &str, name: &str, mut users: impl Iterator<Item = String>) -> Result<(), Fault> {
    let Some(first) = users.next() else { return Ok(()) };
    let more = match users.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Fault::new(
        Origin::default(),
        format!("The {kind} {} is still used by {first}{more}; remove them first.", quoted(name)),
    ))
}
