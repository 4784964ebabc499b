//! What commands change about backends: who is one, and with which weight.

use super::changes::conflict;
use crate::{
    api::{
        Refusal, RefusalKind,
        backends::{backend, candidate, service},
        types::BackendAdd,
    },
    spec::{Membership, Origin, Spec},
    table::Table,
};

/// Makes an endpoint a backend of a service; returns the endpoint's name.
pub(super) fn add(spec: &mut Spec, table: &Table, of: &str, asked: &BackendAdd) -> Result<String, Refusal> {
    service(table, of)?;
    if let Some(forward) = &asked.forward {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            format!(
                "the forwarding method {forward:?} is for outside backends, which come with directors and are not \
                 supported yet"
            ),
            "leave it away",
        ));
    }
    let networks: Vec<&str> = spec.services.get(of).map_or_else(Vec::new, |service| {
        service.networks.iter().map(|network| network.value.as_str()).collect()
    });
    let (name, endpoint) = candidate(table, of, &networks, &asked.backend)?;
    if let Some(node) = asked.node.as_ref().filter(|node| **node != endpoint.node) {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            format!("{name} is on the node {}, not on {node:?}", endpoint.node),
            "leave the node away, or name another endpoint",
        ));
    }
    if let Some(there) = &endpoint.service {
        let mend = match there == of {
            true => format!("`meshctl backends weight {of} {name} N` changes its weight"),
            false => format!("`meshctl backends rm {there} {name}` takes it out there"),
        };
        return Err(Refusal::new(
            RefusalKind::Conflict,
            format!("{name} is a backend of {there} already"),
            mend,
        ));
    }
    let now = Membership { service: Some(of.to_owned()), weight: asked.weight };
    set(spec, name, now, "meshctl backends add")
}

/// Takes a backend out of its service; the endpoint stays on its network.
pub(super) fn remove(spec: &mut Spec, table: &Table, of: &str, text: &str) -> Result<String, Refusal> {
    let (name, _) = backend(table, of, text)?;
    set(spec, name, Membership::default(), "meshctl backends rm")
}

/// Gives a backend another weight.
pub(super) fn weigh(
    spec: &mut Spec,
    table: &Table,
    of: &str,
    text: &str,
    weight: u16,
) -> Result<String, Refusal> {
    let (name, _) = backend(table, of, text)?;
    let now = Membership { service: Some(of.to_owned()), weight: Some(weight) };
    set(spec, name, now, "meshctl backends weight")
}

fn set(spec: &mut Spec, name: &str, now: Membership, command: &'static str) -> Result<String, Refusal> {
    spec.set_membership(name, now, &Origin::command(command)).map_err(|fault| conflict(&fault))?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, spec::resolve};

    const FILE: &str = r#"
nodes:
  n1: {address: 192.0.2.1}
  n2: {address: 192.0.2.2}
networks:
  blue: {vni: 4097, subnets: [10.0.9.0/24, "fd00:9::/64"]}
  green: {vni: 4098, subnets: [10.0.9.0/24]}
  red: {vni: 4099, subnets: [10.0.7.0/24]}
services:
  search: {networks: [blue, green], ports: ["9200:80"]}
  quiet: {networks: [red]}
endpoints:
  - {name: search.1, node: n1, service: search, network: blue, address: 10.0.9.11, weight: 4}
  - {name: extra, node: n2, network: blue, address: 10.0.9.20}
  - {name: twin, node: n2, network: green, address: 10.0.9.20}
  - {name: apart, node: n1, network: red, address: 10.0.7.9}
"#;

    struct Case {
        spec: Spec,
        table: Table,
    }

    impl Case {
        fn new() -> Self {
            let spec = config::parse("mesh.yaml", FILE.as_bytes()).unwrap().spec;
            Self { table: resolve(&spec).unwrap(), spec }
        }

        fn resolved(mut self, name: Result<String, Refusal>) -> (Self, String) {
            self.table = resolve(&self.spec).unwrap();
            (self, name.unwrap())
        }

        fn add(&mut self, backend: &str) -> Result<String, Refusal> {
            let asked = BackendAdd { backend: backend.to_owned(), ..BackendAdd::default() };
            add(&mut self.spec, &self.table, "search", &asked)
        }
    }

    #[test]
    fn an_endpoint_joins_and_leaves() {
        for text in ["extra", "fd00:9::a00:914", "[fd00:9::a00:914]:80"] {
            let mut case = Case::new();
            let before = case.table.clone();
            let name = case.add(text);
            let (mut case, name) = case.resolved(name);
            assert_eq!(name, "extra", "{text}");
            let endpoint = &case.table.endpoints["extra"];
            assert_eq!((endpoint.service.as_deref(), endpoint.weight), (Some("search"), 1), "{text}");
            let name = remove(&mut case.spec, &case.table, "search", text);
            let (case, _) = case.resolved(name);
            assert_eq!(case.table, before, "{text}");
            assert!(case.spec.overrides.is_empty(), "the file says so again");
        }
    }

    #[test]
    fn weights_change_by_name_and_by_address() {
        for text in ["search.1", "10.0.9.11", "10.0.9.11:80"] {
            let mut case = Case::new();
            let name = weigh(&mut case.spec, &case.table, "search", text, 0);
            let (mut case, _) = case.resolved(name);
            assert_eq!(case.table.endpoints["search.1"].weight, 0, "{text}");
            let name = weigh(&mut case.spec, &case.table, "search", text, 4);
            let (case, _) = case.resolved(name);
            assert_eq!(case.table.endpoints["search.1"].weight, 4, "{text}");
            assert!(case.spec.overrides.is_empty(), "the file says so again");
        }
    }

    #[test]
    fn what_cannot_be_a_backend_is_told_why() {
        let mut case = Case::new();
        for (text, says) in [
            ("198.51.100.7", "outside backends come with directors, which are not supported yet"),
            ("198.51.100.7:80", "outside backends come with directors, which are not supported yet"),
            ("fd00:9::a00:914", ""),
            ("[fd00:9::a00:914]:81", "a backend with the port 81 of its own comes with directors"),
            ("10.0.9.20", "10.0.9.20 is the address of extra and of twin; give the endpoint's name"),
            ("apart", "apart is on red, and search is on blue and green"),
            ("10.0.7.9", "apart is on red, and search is on blue and green"),
            (
                "search.1",
                "search.1 is a backend of search already; `meshctl backends weight search search.1 N`",
            ),
            ("nobody", "\"nobody\" is neither an endpoint nor an address"),
        ] {
            let told = case.add(text).map_or_else(|refusal| refusal.to_string(), |_| String::new());
            assert!(told.contains(says) && told.is_empty() == says.is_empty(), "{text}: {told}");
        }
        let asked = |node: Option<&str>, forward: Option<&str>| BackendAdd {
            backend: "twin".to_owned(),
            node: node.map(str::to_owned),
            forward: forward.map(str::to_owned),
            weight: None,
        };
        let mut told = |service: &str, asked: BackendAdd| {
            add(&mut case.spec, &case.table, service, &asked).unwrap_err().to_string()
        };
        assert!(told("search", asked(Some("n1"), None)).contains("twin is on the node n2, not on \"n1\""));
        assert!(
            told("search", asked(None, Some("dr"))).contains("come with directors and are not supported")
        );
        assert!(told("nothing", asked(None, None)).contains("there is no service \"nothing\""));
    }

    #[test]
    fn what_is_no_backend_is_told() {
        let mut case = Case::new();
        for (service, text, says) in [
            ("search", "extra", "search has no backend \"extra\"; `meshctl backends ls search` lists them"),
            ("search", "10.0.9.20", "search has no backend \"10.0.9.20\""),
            ("search", "10.0.9.11:9200", "search's published ports go to 80; a backend with the port 9200"),
            ("quiet", "10.0.7.9:80", "quiet publishes no port, and its virtual IP keeps the client's"),
            ("nothing", "extra", "there is no service \"nothing\""),
        ] {
            let told = weigh(&mut case.spec, &case.table, service, text, 1).unwrap_err().to_string();
            assert!(told.contains(says), "{service} {text}: {told}");
            assert!(remove(&mut case.spec, &case.table, service, text).is_err());
        }
    }
}
