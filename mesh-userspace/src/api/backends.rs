//! Backends as people name them: by their endpoint, or by an address with or without a port.

use super::{Refusal, RefusalKind, types::Place};
use crate::table::{Endpoint, Service, Table};

/// A service.
///
/// # Errors
/// There is none of the name.
pub(crate) fn service<'t>(table: &'t Table, name: &str) -> Result<&'t Service, Refusal> {
    table.services.get(name).ok_or_else(|| {
        Refusal::new(
            RefusalKind::NotFound,
            format!("there is no service {name:?}"),
            "`meshctl services ls` lists them",
        )
    })
}

/// A backend of a service, by the name of its endpoint or by an address of it.
///
/// # Errors
/// There is no such service or backend, or more than one, or the port is not the service's.
pub(crate) fn backend<'t>(
    table: &'t Table,
    of: &str,
    text: &str,
) -> Result<(&'t String, &'t Endpoint), Refusal> {
    let service = service(table, of)?;
    let is_its = |endpoint: &Endpoint| endpoint.service.as_deref() == Some(of);
    if let Some(found) = table.endpoints.get_key_value(text).filter(|(_, endpoint)| is_its(endpoint)) {
        return Ok(found);
    }
    let missing = || {
        Refusal::new(
            RefusalKind::NotFound,
            format!("{of} has no backend {text:?}"),
            format!("`meshctl backends ls {of}` lists them"),
        )
    };
    let place: Place = text.parse().map_err(|_| missing())?;
    check_port(of, service, place)?;
    only(text, table.endpoints.iter().filter(|(_, e)| is_its(e) && e.addresses.contains(&place.address)))?
        .ok_or_else(missing)
}

/// The endpoint that is to become a backend of a service on these networks.
///
/// # Errors
/// As [`backend`]; also when it is no endpoint on one of the networks, as outside addresses are not.
pub(crate) fn candidate<'t>(
    table: &'t Table,
    of: &str,
    networks: &[&str],
    text: &str,
) -> Result<(&'t String, &'t Endpoint), Refusal> {
    let service = service(table, of)?;
    let on = || if networks.is_empty() { "no network".to_owned() } else { networks.join(" and ") };
    let elsewhere = |name: &str, endpoint: &Endpoint| {
        Refusal::new(
            RefusalKind::Invalid,
            format!("{name} is on {}, and {of} is on {}", endpoint.network, on()),
            "attach the task to a network of the service",
        )
    };
    if let Some((name, endpoint)) = table.endpoints.get_key_value(text) {
        let is_there = networks.contains(&endpoint.network.as_str());
        return if is_there { Ok((name, endpoint)) } else { Err(elsewhere(name, endpoint)) };
    }
    let place: Place = text.parse().map_err(|_| {
        Refusal::new(
            RefusalKind::NotFound,
            format!("{text:?} is neither an endpoint nor an address"),
            "`meshctl endpoints ls` lists the endpoints",
        )
    })?;
    let holders = || table.endpoints.iter().filter(|(_, e)| e.addresses.contains(&place.address));
    let found = only(text, holders().filter(|(_, e)| networks.contains(&e.network.as_str())))?;
    match (found, holders().next()) {
        (Some(found), _) => {
            check_port(of, service, place)?;
            Ok(found)
        }
        (None, Some((name, endpoint))) => Err(elsewhere(name, endpoint)),
        (None, None) => Err(Refusal::new(
            RefusalKind::Invalid,
            format!(
                "{} is no endpoint of the mesh, and outside backends come with directors, which are not supported yet",
                place.address
            ),
            format!("attach a task with `meshctl attach --network NETWORK --netns NAMESPACE --service {of}`"),
        )),
    }
}

/// The one endpoint that was meant, if there is one.
fn only<'t>(
    text: &str,
    mut found: impl Iterator<Item = (&'t String, &'t Endpoint)>,
) -> Result<Option<(&'t String, &'t Endpoint)>, Refusal> {
    match (found.next(), found.next()) {
        (Some((one, _)), Some((other, _))) => Err(Refusal::new(
            RefusalKind::Invalid,
            format!("{text} is the address of {one} and of {other}"),
            "give the endpoint's name",
        )),
        (first, _) => Ok(first),
    }
}

/// A backend of the mesh has no port of its own: the service's ports say where they go.
fn check_port(of: &str, service: &Service, place: Place) -> Result<(), Refusal> {
    let Some(port) = place.port else { return Ok(()) };
    let targets: Vec<String> = service.ports.iter().map(|published| published.target.to_string()).collect();
    if service.ports.iter().any(|published| published.target == port) {
        return Ok(());
    }
    let goes = match targets.as_slice() {
        [] => format!("{of} publishes no port, and its virtual IP keeps the client's"),
        targets => format!("{of}'s published ports go to {}", targets.join(", ")),
    };
    Err(Refusal::new(
        RefusalKind::Invalid,
        format!(
            "{goes}; a backend with the port {port} of its own comes with directors, which are not supported yet"
        ),
        "leave the port away",
    ))
}
