//! The mesh that changes, and its changes.

use std::net::Ipv4Addr;

use anyhow::Result;
use mesh_tests::lab::{Lab, Mesh};

use super::{Case, nftables, timing::Sign};

/// The node that is asked, and that hears of the changes.
const NODE: &str = "n1";

/// Of each service that is there only to make the mesh great.
pub(super) const BACKENDS: u32 = 10;

/// Each task, and the host of one that is not attached yet.
pub(super) const TASKS: [&str; 4] = ["one", "two", "spare", "local"];
pub(super) const LATE: &str = "late";

/// An endpoint becomes a backend, by a command.
pub(super) const ADD: Case = Case {
    host: NODE,
    port: 7001,
    sign: Sign::Answers("spare"),
    make: |lab| on_node(lab, "backends add search spare"),
    undo: |lab| on_node(lab, "backends rm search spare"),
};

/// A backend drains.
pub(super) const DRAIN: Case = Case {
    host: NODE,
    port: 7002,
    sign: Sign::IsSilent("two"),
    make: |lab| on_node(lab, "backends drain search two"),
    undo: |lab| on_node(lab, "backends weight search two 1"),
};

/// A service is made, published, and given a backend.
pub(super) const CREATE: Case = Case {
    host: NODE,
    port: 7003,
    sign: Sign::Answers("local"),
    make: |lab| {
        on_node(lab, "services create made --network blue --publish 7003:7000/udp")?;
        on_node(lab, "backends add made local")
    },
    undo: |lab| {
        on_node(lab, "backends rm made local")?;
        on_node(lab, "services rm made")
    },
};

/// A task is attached.
pub(super) const ATTACH: Case = Case {
    host: NODE,
    port: 7004,
    sign: Sign::Answers(LATE),
    make: |lab| {
        let netns = lab.namespace_name(LATE);
        on_node(lab, &format!("attach --network blue --service search --name {LATE} --netns {netns}"))
    },
    undo: |lab| on_node(lab, &format!("detach {LATE}")),
};

/// The file says something else, and the agent is told so.
pub(super) const RELOAD: Case = Case {
    host: NODE,
    port: 7005,
    sign: Sign::Answers("spare"),
    make: |lab| rewrite(lab, Some("search")),
    undo: |lab| rewrite(lab, None),
};

/// Three nodes, and `services` services more than the one that changes, whose backends are on a fourth node.
pub(super) fn mesh(services: u32) -> Mesh {
    let ports = ["7001:7000/udp", "7002:7000/udp", "7004:7000/udp", "7005:7000/udp"];
    let mut mesh = Mesh::new(3)
        .network("blue", 4097, &["10.0.9.0/24"])
        .service("search", "blue", "10.0.9.2", "rr", &ports)
        .backend("search", "one", "n2", "blue", "10.0.9.11")
        .backend("search", "two", "n3", "blue", "10.0.9.12")
        .task("spare", "n3", "blue", "10.0.9.13")
        .task("local", NODE, "blue", "10.0.9.14");
    for host in nftables::HOSTS {
        mesh = mesh.client(host);
    }
    if services > 0 {
        mesh = mesh.kernel_node("far").network("wide", 4098, &["10.64.0.0/10"]);
    }
    for number in 0..services {
        let name = format!("s{number}");
        let vip = Ipv4Addr::from_bits(0x0a7f_0000 + number).to_string();
        mesh = mesh.service(&name, "wide", &vip, "mh", &[&format!("{}:80", 10_000 + number)]);
        for task in 0..BACKENDS {
            let address = Ipv4Addr::from_bits(0x0a40_0100 + number * BACKENDS + task).to_string();
            mesh = mesh.backend(&name, &format!("{name}.{task}"), "far", "wide", &address);
        }
    }
    mesh
}

fn on_node(lab: &mut Lab, words: &str) -> Result<()> {
    lab.node(NODE).meshctl_text(words).map(drop)
}

/// Gives `spare` to a service or takes it from one, in the file of every node, and tells the one that is asked.
fn rewrite(lab: &mut Lab, service: Option<&str>) -> Result<()> {
    lab.reconfigure(|mesh| {
        let spare = mesh.endpoints.iter_mut().filter(|endpoint| endpoint.name == "spare");
        spare.for_each(|endpoint| endpoint.service = service.map(str::to_owned));
    })?;
    lab.node_mut(NODE).reload()
}
