//! The state of a node.

use super::{node_state, traffic};
use crate::{
    api::types::{Cluster, MapUse, NodeState, Peer, Program, Status},
    cli::{
        screen::{Entry, Paint, Tone, facts, table},
        units::{age, plural},
    },
};

/// The daemon and its node.
pub(in crate::cli) fn status(status: &Status, paint: Paint) -> String {
    let counts = &status.counts;
    let address = status.address.map_or_else(String::new, |address| format!(" ({address})"));
    let mut text = facts([
        ("node", format!("{}{address}", status.node)),
        ("meshd", format!("{}, up for {}", status.version, age(status.uptime))),
        ("revision", status.revision.to_string()),
        (
            "mesh",
            [
                plural(counts.nodes, "node", "nodes"),
                plural(counts.networks, "network", "networks"),
                plural(counts.services, "service", "services"),
                format!(
                    "{} ({} here)",
                    plural(counts.endpoints, "endpoint", "endpoints"),
                    counts.local_endpoints
                ),
            ]
            .join(", "),
        ),
    ]);
    text.push_str(&section(paint, "Programs"));
    text.push_str(&programs(&status.programs, paint));
    text.push_str(&section(paint, "Peers"));
    text.push_str(&peers(&status.peers, paint));
    if let Some(cluster) = &status.cluster {
        text.push_str(&section(paint, "Cluster"));
        text.push_str(&members(cluster, paint));
    }
    text.push_str(&section(paint, "Maps"));
    text.push_str(&maps_in_use(&status.maps, paint));
    text.push_str(&section(paint, "Problems"));
    if status.problems.is_empty() {
        text.push_str(&paint.tone(Tone::Good, "none"));
        text.push('\n');
    }
    for problem in &status.problems {
        text.push_str(&format!("{}: {}\n", paint.tone(Tone::Bad, &problem.subject), problem.message));
    }
    text
}

fn section(paint: Paint, name: &str) -> String {
    format!("\n{}\n", paint.heading(name))
}

fn programs(programs: &[Program], paint: Paint) -> String {
    if programs.is_empty() {
        return "none is attached: the problems below say why, or meshd is still starting\n".to_owned();
    }
    // Interfaces first; what hangs in one place stands together.
    let mut programs: Vec<&Program> = programs.iter().collect();
    programs.sort_by_key(|program| (program.mode == "cgroup", &program.target, &program.name));
    table(
        paint,
        ["ATTACHED TO", "PROGRAM", "MODE", "ID"],
        programs.into_iter().map(|program| {
            [
                program.target.as_str().into(),
                program.name.as_str().into(),
                program.mode.as_str().into(),
                program.id.to_string().into(),
            ]
        }),
    )
}

fn members(cluster: &Cluster, paint: Paint) -> String {
    let mut text = table(
        paint,
        ["MEMBER", "ADDRESS", "STATE"],
        cluster.members.iter().map(|member| {
            let state = format!("{} for {}", node_state(member.state), age(member.seconds));
            let tone = if member.state == NodeState::Alive { Tone::Good } else { Tone::Bad };
            [member.name.as_str().into(), member.address.to_string().into(), Entry::new(tone, state)]
        }),
    );
    text.push_str(&format!("store {}\n", cluster.digest));
    text
}

fn maps_in_use(maps: &[MapUse], paint: Paint) -> String {
    let is_used = |map: &&MapUse| map.lost > 0 || map.entries.is_some_and(|entries| entries > 0);
    let mut used = maps.iter().filter(is_used).peekable();
    if used.peek().is_none() {
        return "none is in use\n".to_owned();
    }
    traffic::maps(used, paint)
}

fn peers(peers: &[Peer], paint: Paint) -> String {
    if peers.is_empty() {
        return "none: this node is the whole mesh\n".to_owned();
    }
    table(
        paint,
        ["NODE", "ADDRESS", "ROUTE", "MTU"],
        peers.iter().map(|peer| {
            [
                peer.name.as_str().into(),
                peer.address.to_string().into(),
                match &peer.interface {
                    Some(interface) => format!("by {interface}").into(),
                    None => Entry::new(Tone::Bad, "no route"),
                },
                peer.mtu.map_or_else(|| "–".to_owned(), |mtu| mtu.to_string()).into(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Counts, Member, Problem};

    fn sample() -> Status {
        let program = |target: &str, name: &str, mode: &str, id| Program {
            target: target.to_owned(),
            name: name.to_owned(),
            mode: mode.to_owned(),
            id,
        };
        Status {
            node: "n1".to_owned(),
            address: Some("192.0.2.1".parse().unwrap()),
            version: "0.1.0".to_owned(),
            uptime: 302,
            revision: 7,
            counts: Counts { nodes: 3, networks: 1, services: 1, endpoints: 4, local_endpoints: 2 },
            programs: vec![
                program("cgroup", "connect4", "cgroup", 43),
                program("eth0", "underlay_xdp", "xdp native", 41),
                program("eth0", "underlay_tc", "tcx ingress", 42),
            ],
            peers: vec![
                Peer {
                    name: "n2".to_owned(),
                    address: "192.0.2.2".parse().unwrap(),
                    interface: Some("eth0".to_owned()),
                    mtu: Some(1500),
                },
                Peer {
                    name: "n3".to_owned(),
                    address: "192.0.2.3".parse().unwrap(),
                    interface: None,
                    mtu: None,
                },
            ],
            cluster: None,
            maps: vec![
                MapUse { name: "FLOWS".to_owned(), entries: Some(1_000), capacity: 262_144, lost: 0 },
                MapUse { name: "DIALLED".to_owned(), entries: None, capacity: 16_384, lost: 0 },
                MapUse { name: "UPLINKS".to_owned(), entries: Some(0), capacity: 256, lost: 0 },
            ],
            problems: vec![Problem {
                subject: "node n3".to_owned(),
                message: "This node has no route to 192.0.2.3. Add one.".to_owned(),
            }],
        }
    }

    #[test]
    fn a_node_with_a_problem() {
        assert_eq!(
            status(&sample(), Paint::plain()),
            "\
node      n1 (192.0.2.1)
meshd     0.1.0, up for 5 min 2 s
revision  7
mesh      3 nodes, 1 network, 1 service, 4 endpoints (2 here)

Programs
ATTACHED TO  PROGRAM       MODE         ID
eth0         underlay_tc   tcx ingress  42
eth0         underlay_xdp  xdp native   41
cgroup       connect4      cgroup       43

Peers
NODE  ADDRESS    ROUTE     MTU
n2    192.0.2.2  by eth0   1500
n3    192.0.2.3  no route  –

Maps
MAP    ENTRIES  CAPACITY  FULL   NO ROOM
FLOWS  1,000    262,144   0.4 %  0

Problems
node n3: This node has no route to 192.0.2.3. Add one.
"
        );
    }

    #[test]
    fn a_cluster_is_told_with_its_members() {
        let member = |name: &str, state| Member {
            name: name.to_owned(),
            address: "192.0.2.1:7946".parse().unwrap(),
            state,
            seconds: 7,
        };
        let cluster = Cluster {
            members: vec![member("n1", NodeState::Alive), member("n2", NodeState::Suspect)],
            digest: "0123".to_owned(),
        };
        let text = status(&Status { cluster: Some(cluster), ..sample() }, Paint::plain());
        let expected = "\
Cluster
MEMBER  ADDRESS         STATE
n1      192.0.2.1:7946  alive for 7 s
n2      192.0.2.1:7946  suspect for 7 s
store 0123

Maps
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_lonely_node() {
        let lonely = Status {
            address: None,
            programs: vec![],
            peers: vec![],
            maps: vec![],
            problems: vec![],
            counts: Counts { nodes: 1, ..Counts::default() },
            ..sample()
        };
        assert_eq!(
            status(&lonely, Paint::plain()),
            "\
node      n1
meshd     0.1.0, up for 5 min 2 s
revision  7
mesh      1 node, 0 networks, 0 services, 0 endpoints (0 here)

Programs
none is attached: the problems below say why, or meshd is still starting

Peers
none: this node is the whole mesh

Maps
none is in use

Problems
none
"
        );
    }
}
