//! What moves, and what is lost.

use crate::{
    api::types::{DropCount, Flow, FlowKind, Flows, MapUse, Stats, TraceLine},
    cli::{
        screen::{Entry, Paint, Tone, table},
        units::{age, bytes, count, percent},
    },
};

/// The flows of a node.
pub(in crate::cli) fn flows(flows: &Flows, paint: Paint) -> String {
    if flows.flows.is_empty() {
        return match flows.total {
            0 => "This node keeps no flow: none of its tasks speaks to a virtual IP, to clients or to the world outside.\n"
                .to_owned(),
            total => format!("No flow of {} matches: `meshctl flows ls` without filters lists them.\n", count(whole(total))),
        };
    }
    let mut text = table(
        paint,
        ["KIND", "PROTOCOL", "SOURCE", "DESTINATION", "BECOMES", "SERVICE", "BACKEND", "IDLE"],
        flows.flows.iter().map(|flow| {
            [
                kind(flow).into(),
                flow.protocol.as_str().into(),
                flow.source.to_string().into(),
                flow.destination.to_string().into(),
                becomes(flow).into(),
                flow.service.as_deref().unwrap_or("–").into(),
                flow.backend.as_deref().unwrap_or("–").into(),
                idle(flow),
            ]
        }),
    );
    if flows.matching > flows.flows.len() {
        text.push_str(&format!(
            "and {} more: --limit 0 lists all, --service, --backend, --client, --protocol and --network choose\n",
            count(whole(flows.matching - flows.flows.len()))
        ));
    }
    text
}

fn kind(flow: &Flow) -> String {
    let (name, network) = match flow.kind {
        FlowKind::Network => ("task", flow.network.as_deref()),
        FlowKind::Published => ("client", flow.network.as_deref()),
        FlowKind::Entry => ("entry", None),
        FlowKind::Outside => ("outside", flow.network.as_deref()),
        FlowKind::Moved => ("moved", None),
        FlowKind::Session => ("session", None),
    };
    let reply = if flow.reply { " answer" } else { "" };
    match network {
        Some(network) => format!("{name}{reply} ({network})"),
        None => format!("{name}{reply}"),
    }
}

/// What changes of a packet's two ends.
fn becomes(flow: &Flow) -> String {
    let mut changes = Vec::new();
    if let Some(source) = flow.new_source.filter(|source| *source != flow.source) {
        changes.push(format!("from {source}"));
    }
    if let Some(destination) = flow.new_destination.filter(|destination| *destination != flow.destination) {
        changes.push(format!("to {destination}"));
    }
    if let Some(entry) = &flow.entry {
        changes.push(format!("{} {entry}", if flow.reply { "through" } else { "by" }));
    }
    if changes.is_empty() { "–".to_owned() } else { changes.join(" ") }
}

fn idle(flow: &Flow) -> Entry {
    if flow.closing {
        Entry::new(Tone::Faint, format!("{}, closing", age(flow.idle)))
    } else if flow.new {
        Entry::new(Tone::Faint, format!("{}, new", age(flow.idle)))
    } else {
        age(flow.idle).into()
    }
}

/// What was lost.
pub(in crate::cli) fn drops(drops: &[DropCount], paint: Paint) -> String {
    if drops.is_empty() {
        return "No packet was dropped: `meshctl drops --all` lists what would be counted.\n".to_owned();
    }
    table(
        paint,
        ["REASON", "PACKETS", "MEANING"],
        drops.iter().map(|drop| {
            let tone = if drop.packets == 0 { Tone::Faint } else { Tone::Plain };
            [
                Entry::new(tone, drop.reason.as_str()),
                Entry::new(tone, count(drop.packets)),
                Entry::new(tone, drop.sentence.as_str()),
            ]
        }),
    )
}

/// The counters.
pub(in crate::cli) fn stats(stats: &Stats, paint: Paint) -> String {
    let mut text = format!("packets dropped: {}", count(stats.dropped));
    text.push_str(if stats.dropped == 0 { "\n" } else { " (`meshctl drops` says why)\n" });
    text.push('\n');
    if !stats.hooks.is_empty() {
        text.push_str(&table(
            paint,
            ["FROM", "OUTCOME", "PACKETS", "BYTES"],
            stats.hooks.iter().map(|hook| {
                [
                    hook.hook.as_str().into(),
                    hook.outcome.as_str().into(),
                    count(hook.packets).into(),
                    bytes(hook.bytes).into(),
                ]
            }),
        ));
        text.push('\n');
    }
    text.push_str(&maps(&stats.maps, paint));
    text
}

/// How full maps are.
pub(super) fn maps<'a>(maps: impl IntoIterator<Item = &'a MapUse>, paint: Paint) -> String {
    table(
        paint,
        ["MAP", "ENTRIES", "CAPACITY", "FULL", "NO ROOM"],
        maps.into_iter().map(|map| {
            let unknown = || Entry::new(Tone::Faint, "–");
            // A full map refuses what is new: time to look before it is.
            let is_nearly_full = |entries: u64| entries.saturating_mul(10) >= map.capacity.saturating_mul(9);
            let tone = |is_bad| if is_bad { Tone::Bad } else { Tone::Plain };
            [
                map.name.as_str().into(),
                map.entries.map_or_else(unknown, |entries| count(entries).into()),
                count(map.capacity).into(),
                map.entries.map_or_else(unknown, |entries| {
                    Entry::new(tone(is_nearly_full(entries)), percent(entries, map.capacity))
                }),
                Entry::new(tone(map.lost > 0), count(map.lost)),
            ]
        }),
    )
}

/// A traced packet, on one line.
pub(in crate::cli) fn trace(line: &TraceLine) -> String {
    let (seconds, micros) = (line.at / 1_000_000, line.at % 1_000_000);
    let day = seconds % 86_400;
    let mut text = format!(
        "{:02}:{:02}:{:02}.{micros:06}Z {} {}: {}",
        day / 3_600,
        day / 60 % 60,
        day % 60,
        line.hook,
        line.interface,
        line.outcome
    );
    if let Some(reason) = &line.reason {
        text.push_str(&format!(" as {reason}"));
    }
    if let Some(out) = &line.out {
        text.push_str(&format!(" to {out}"));
    }
    text.push_str(", ");
    if let Some(tunnel) = &line.tunnel {
        text.push_str(&format!("VXLAN {} {} → {}: ", tunnel.vni, tunnel.source, tunnel.destination));
    }
    match &line.packet {
        Some(packet) => {
            text.push_str(&packet.protocol);
            if let (Some(source), Some(destination)) = (packet.source, packet.destination) {
                text.push_str(&format!(" {source} → {destination}"));
            }
            if let Some(detail) = packet.detail.as_ref().filter(|detail| !detail.is_empty()) {
                text.push_str(&format!(" [{detail}]"));
            }
        }
        None => text.push_str("no frame that can be read"),
    }
    text.push_str(&format!(", {} bytes\n", line.length));
    text
}

/// A length as a count.
fn whole(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Datagram, HookCount, MapUse, Place, Tunnel};

    fn place(text: &str) -> Place {
        text.parse().unwrap()
    }

    fn flow() -> Flow {
        Flow {
            kind: FlowKind::Published,
            network: Some("blue".to_owned()),
            protocol: "tcp".to_owned(),
            source: place("198.51.100.9:40000"),
            destination: place("192.0.2.2:9200"),
            new_source: Some(place("198.51.100.9:40000")),
            new_destination: Some(place("10.0.9.11:80")),
            reply: false,
            service: Some("search".to_owned()),
            backend: Some("search.1".to_owned()),
            entry: Some("n2".to_owned()),
            idle: 3,
            closing: false,
            new: false,
        }
    }

    #[test]
    fn flows_of_each_kind() {
        let answer = Flow {
            kind: FlowKind::Network,
            source: place("10.0.9.11:80"),
            destination: place("198.51.100.9:40000"),
            new_source: Some(place("192.0.2.2:9200")),
            new_destination: Some(place("198.51.100.9:40000")),
            reply: true,
            closing: true,
            idle: 65,
            ..flow()
        };
        let entry = Flow {
            kind: FlowKind::Entry,
            new_source: None,
            new_destination: None,
            entry: None,
            idle: 0,
            new: true,
            ..flow()
        };
        let list =
            Flows { flows: vec![entry, flow(), answer], matching: 1_003, total: 2_000, capacity: 65_536 };
        assert_eq!(
            flows(&list, Paint::plain()),
            "\
KIND                PROTOCOL  SOURCE              DESTINATION         BECOMES                         SERVICE  BACKEND   IDLE
entry               tcp       198.51.100.9:40000  192.0.2.2:9200      –                               search   search.1  0 s, new
client (blue)       tcp       198.51.100.9:40000  192.0.2.2:9200      to 10.0.9.11:80 by n2           search   search.1  3 s
task answer (blue)  tcp       10.0.9.11:80        198.51.100.9:40000  from 192.0.2.2:9200 through n2  search   search.1  1 min 5 s, closing
and 1,000 more: --limit 0 lists all, --service, --backend, --client, --protocol and --network choose
"
        );
    }

    #[test]
    fn no_flows() {
        let none = Flows { flows: vec![], matching: 0, total: 0, capacity: 65_536 };
        assert!(flows(&none, Paint::plain()).starts_with("This node keeps no flow"));
        let unmatched = Flows { total: 1_234, ..none };
        assert_eq!(
            flows(&unmatched, Paint::plain()),
            "No flow of 1,234 matches: `meshctl flows ls` without filters lists them.\n"
        );
    }

    #[test]
    fn what_was_lost() {
        let drop = |reason: &str, packets, sentence: &str| DropCount {
            reason: reason.to_owned(),
            sentence: sentence.to_owned(),
            packets,
        };
        assert_eq!(
            drops(
                &[
                    drop("not_a_peer", 12_345, "a tunnel packet came from a stranger"),
                    drop("no_route", 1, "no route")
                ],
                Paint::plain()
            ),
            "\
REASON      PACKETS  MEANING
not_a_peer  12,345   a tunnel packet came from a stranger
no_route    1        no route
"
        );
        assert!(drops(&[], Paint::plain()).contains("`meshctl drops --all`"));
    }

    #[test]
    fn counters() {
        let map = |name: &str, entries, capacity| MapUse {
            name: name.to_owned(),
            entries,
            capacity,
            lost: entries.map_or(7, |_| 0),
        };
        let hook = |outcome: &str, packets, bytes| HookCount {
            hook: "underlay".to_owned(),
            outcome: outcome.to_owned(),
            packets,
            bytes,
        };
        let hooks = vec![hook("pass", 12, 840), hook("transmit", 1_200_000, 1_740_000_000)];
        let full = Stats {
            dropped: 4,
            hooks,
            maps: vec![
                map("FLOWS", Some(65_000), 65_536),
                map("SERVICES", Some(3), 65_536),
                map("DIALLED", None, 16_384),
            ],
        };
        assert_eq!(
            stats(&full, Paint::plain()),
            "\
packets dropped: 4 (`meshctl drops` says why)

FROM      OUTCOME   PACKETS    BYTES
underlay  pass      12         840 B
underlay  transmit  1,200,000  1.7 GB

MAP       ENTRIES  CAPACITY  FULL    NO ROOM
FLOWS     65,000   65,536    99.2 %  0
SERVICES  3        65,536    0.0 %   0
DIALLED   –        16,384    –       7
"
        );
        assert!(
            stats(&Stats { dropped: 0, hooks: vec![], maps: vec![] }, Paint::plain())
                .starts_with("packets dropped: 0\n")
        );
    }

    #[test]
    fn traced_packets() {
        let line = TraceLine {
            at: 1_700_000_000_000_042,
            hook: "underlay".to_owned(),
            interface: "eth0".to_owned(),
            length: 74,
            outcome: "transmit".to_owned(),
            reason: None,
            out: Some("eth0".to_owned()),
            tunnel: Some(Tunnel {
                vni: 4097,
                source: "192.0.2.2".parse().unwrap(),
                destination: "192.0.2.3".parse().unwrap(),
            }),
            packet: Some(Datagram {
                protocol: "tcp".to_owned(),
                source: Some(place("198.51.100.9:40000")),
                destination: Some(place("192.0.2.2:9200")),
                detail: Some("SYN".to_owned()),
            }),
        };
        assert_eq!(
            trace(&line),
            "22:13:20.000042Z underlay eth0: transmit to eth0, VXLAN 4097 192.0.2.2 → 192.0.2.3: \
             tcp 198.51.100.9:40000 → 192.0.2.2:9200 [SYN], 74 bytes\n"
        );
        let dropped = TraceLine {
            outcome: "drop".to_owned(),
            reason: Some("not_a_peer".to_owned()),
            out: None,
            tunnel: None,
            packet: None,
            length: 12,
            ..line
        };
        assert_eq!(
            trace(&dropped),
            "22:13:20.000042Z underlay eth0: drop as not_a_peer, no frame that can be read, 12 bytes\n"
        );
    }
}
