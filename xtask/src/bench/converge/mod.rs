//! `cargo xtask bench converge`: from a change to the first packet that obeys it.

mod mesh;
mod nftables;
mod timing;

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::{Lab, NameServer, Prober, remains};

use self::timing::{INTERVAL, Sign, Took};
use super::{
    PREFIX,
    figure::Figure,
    findings::{Column, Findings, Row, Table},
    machine::Machine,
    watch::Watch,
};

/// What `bench converge` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often each change is made
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Services of the great mesh, of ten backends each
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=5000))]
    services: u32,
}

/// A change as it is made somewhere, and how one sees that it holds.
#[derive(Clone, Copy)]
struct Case {
    /// Who is asked.
    host: &'static str,
    /// At a port of its own, so that no flow of another case is met.
    port: u16,
    sign: Sign,
    make: fn(&mut Lab) -> Result<()>,
    undo: fn(&mut Lab) -> Result<()>,
}

/// A change, by the mesh and by nftables, where it has such.
struct Change {
    what: &'static str,
    mesh: Case,
    nftables: Option<Case>,
}

const CHANGES: [Change; 5] = [
    Change { what: "a backend is added", mesh: mesh::ADD, nftables: Some(nftables::ADD) },
    Change { what: "a backend drains", mesh: mesh::DRAIN, nftables: Some(nftables::DRAIN) },
    Change {
        what: "a service is made, published, and given a backend",
        mesh: mesh::CREATE,
        nftables: Some(nftables::CREATE),
    },
    Change { what: "a task is attached", mesh: mesh::ATTACH, nftables: None },
    Change { what: "the file is written, and the agent told", mesh: mesh::RELOAD, nftables: None },
];

/// What each of [`CHANGES`] took in one lab: by the mesh, and by nftables.
type Measured = Vec<[Vec<Took>; 2]>;

/// Measures a small mesh and a great one.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    let services = arguments.services;
    let labs = [
        ("small mesh".to_owned(), measure_lab("a small mesh", 0, arguments.rounds)?),
        (format!("{services} services"), measure_lab("a great mesh", services, arguments.rounds)?),
    ];
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    let findings = Findings {
        suite: "converge".to_owned(),
        title: "From a change to the first packet that obeys it".to_owned(),
        method: method(services),
        command: "cargo xtask bench converge".to_owned(),
        machine: Machine::this(),
        took_seconds: 0.0,
        tables: vec![
            table(
                "converge",
                "From the beginning of the command to the first packet that obeys",
                &labs,
                |took| took.since_begin,
            ),
            table(
                "returned",
                "From the command's return to the first packet that obeys; below 0, it was sent before",
                &labs,
                |took| took.since_end,
            ),
        ],
        targets: vec![],
        remarks: vec![],
    };
    Ok((findings, Ok(())))
}

fn method(services: u32) -> Vec<String> {
    vec![
        format!(
            "Three nodes, and a client that asks a published UDP port of one of them every {} ms, each time by a new flow. The \
             change is made on this node by `meshctl`, or by writing its file and a SIGHUP; what counts is when the \
             client sent the first datagram that the new backend answered, or, where a backend drains, the first one after the last \
             that it answered. The great mesh has {services} services of {} backends each besides, in its file.",
            INTERVAL.as_secs_f64() * 1000.0,
            mesh::BACKENDS
        ),
        "The baseline is nftables, as kube-proxy uses it: a map from ports to chains, and in each chain a destination NAT that \
         takes the backends in turn; `nft -f` replaces a chain's rule in one step. Its servers stand beside the host that \
         has the rules. Both are started as commands, and the time that takes is in the figures. The services take backends in \
         turn, so that the second new flow at the latest shows the change."
            .to_owned(),
    ]
}

fn measure_lab(name: &str, services: u32, rounds: u32) -> Result<Measured> {
    let watch = Watch::new(name);
    watch.now("building the lab");
    let mut lab = mesh::mesh(services).up(PREFIX)?;
    let measured = measure_changes(&mut lab, services, rounds, &watch);
    if measured.is_err() {
        lab.print_logs();
    }
    measured.with_context(|| name.to_owned())
}

fn measure_changes(lab: &mut Lab, services: u32, rounds: u32, watch: &Watch) -> Result<Measured> {
    lab.add_host(mesh::LATE)?;
    nftables::set_up(lab, services, mesh::BACKENDS)?;
    let hosts = mesh::TASKS.iter().chain([&mesh::LATE]).chain(&nftables::SERVERS);
    let servers: Vec<_> =
        hosts.map(|host| NameServer::start(lab.host(host), ([0; 4], 7000).into())).collect::<Result<_>>()?;
    let mut measured = Measured::new();
    for change in &CHANGES {
        let mut measure = |case: Case, by: &str| {
            watch.now(&format!("{}, by {by}", change.what));
            case.measure(lab, rounds).with_context(|| format!("{}, by {by}", change.what))
        };
        let by_mesh = measure(change.mesh, "the mesh")?;
        let by_nftables = change.nftables.map(|case| measure(case, "nftables")).transpose()?;
        measured.push([by_mesh, by_nftables.unwrap_or_default()]);
    }
    drop(servers);
    Ok(measured)
}

impl Case {
    fn measure(self, lab: &mut Lab, rounds: u32) -> Result<Vec<Took>> {
        let server = SocketAddr::new(lab.mesh().address_v4(self.host)?, self.port);
        let mut prober = Prober::start(lab.host("client"), server, INTERVAL)?;
        let mut measured = Vec::new();
        for _ in 0..rounds {
            measured.push(self.sign.time(&mut prober, || (self.make)(lab))?);
            (self.undo)(lab)?;
        }
        Ok(measured)
    }
}

fn table(name: &str, title: &str, labs: &[(String, Measured)], of: impl Fn(&Took) -> f64) -> Table {
    let columns = labs
        .iter()
        .flat_map(|(lab, _)| ["mesh", "nftables"].map(|by| Column::new(format!("{by}, {lab}"), "ms")));
    let row = |(number, change): (usize, &Change)| {
        let of_lab = |measured: &Measured| {
            measured.get(number).map_or([None, None], |by| {
                by.each_ref().map(|took| Figure::of(&took.iter().map(&of).collect::<Vec<_>>()))
            })
        };
        Row {
            name: change.what.to_owned(),
            cells: labs.iter().flat_map(|(_, measured)| of_lab(measured)).collect(),
        }
    };
    Table {
        name: name.to_owned(),
        title: title.to_owned(),
        rows_are: "change".to_owned(),
        columns: columns.collect(),
        rows: CHANGES.iter().enumerate().map(row).collect(),
        is_drawn: name == "converge",
    }
}
