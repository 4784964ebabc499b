//! Where a flow would go.

use super::services::scheduler;
use crate::{
    api::types::{Choice, Explanation, Verdict, protocol_name},
    cli::{
        screen::{Paint, Tone, facts},
        units::percent,
    },
};

/// The way of a flow, and why.
pub(in crate::cli) fn explanation(explanation: &Explanation, paint: Paint) -> String {
    let flow = format!("{} {} → {}", protocol_name(explanation.protocol), explanation.from, explanation.to);
    let tone = match explanation.verdict {
        Verdict::Delivered | Verdict::Answered => Tone::Good,
        Verdict::Outside | Verdict::Passed => Tone::Plain,
        Verdict::Dropped => Tone::Bad,
    };
    let mut text = format!("{}: {}\n", paint.heading(&flow), paint.tone(tone, &explanation.summary));
    let mut pairs = Vec::new();
    if let Some(choice) = &explanation.choice {
        pairs.push(("service", format!("{}, {}", choice.service, choice.by)));
        pairs.push(("scheduler", how(choice)));
        if let (Some(backend), Some(node)) = (&choice.backend, &choice.node) {
            pairs.push(("backend", format!("{backend} on {node}")));
        }
        let shares = choice.shares.iter().map(|share| {
            format!(
                "{} on {}: {}",
                share.backend,
                share.node,
                percent(share.slots.into(), choice.slots.into())
            )
        });
        if !choice.shares.is_empty() {
            pairs.push(("backends", shares.collect::<Vec<_>>().join("\n")));
        }
    }
    if let Some(path) = &explanation.path {
        pairs.push(("path", path.clone()));
    }
    if !pairs.is_empty() {
        text.push('\n');
        text.push_str(&facts(pairs));
    }
    text.push_str(&list(paint, "Why", &explanation.why));
    text.push_str(&list(paint, "What would pass", &explanation.instead));
    text
}

fn how(choice: &Choice) -> String {
    let name = scheduler(choice.scheduler);
    match (choice.hash, choice.slot) {
        (Some(hash), Some(slot)) => format!("{name}, slot {slot} of {} (hash {hash:#010x})", choice.slots),
        _ => format!("{name}, {} slots", choice.slots),
    }
}

fn list(paint: Paint, heading: &str, sentences: &[String]) -> String {
    if sentences.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{}\n", paint.heading(heading));
    for sentence in sentences {
        text.push_str(&format!("- {sentence}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::types::Share,
        table::{Protocol, Scheduler},
    };

    fn sample() -> Explanation {
        Explanation {
            from: "198.51.100.9:40000".parse().unwrap(),
            to: "192.0.2.1:9200".parse().unwrap(),
            protocol: Protocol::Tcp,
            verdict: Verdict::Delivered,
            summary: "delivered to search.3 on n3".to_owned(),
            choice: Some(Choice {
                service: "search".to_owned(),
                by: "published port 9200/tcp, on every node".to_owned(),
                scheduler: Scheduler::Mh,
                hash: Some(0x0000_beef),
                slot: Some(213),
                slots: 1024,
                backend: Some("search.3".to_owned()),
                node: Some("n3".to_owned()),
                shares: vec![],
            }),
            path: Some(
                "n1 → VXLAN 4097 → n3, delivered as 10.0.9.13:9200; the answer returns through n1".to_owned(),
            ),
            why: vec!["192.0.2.1 is an address of n1: it enters the mesh there".to_owned()],
            instead: vec![],
        }
    }

    #[test]
    fn a_flow_that_is_delivered() {
        assert_eq!(
            explanation(&sample(), Paint::plain()),
            "\
tcp 198.51.100.9:40000 → 192.0.2.1:9200: delivered to search.3 on n3

service    search, published port 9200/tcp, on every node
scheduler  mh, slot 213 of 1024 (hash 0x0000beef)
backend    search.3 on n3
path       n1 → VXLAN 4097 → n3, delivered as 10.0.9.13:9200; the answer returns through n1

Why
- 192.0.2.1 is an address of n1: it enters the mesh there
"
        );
    }

    #[test]
    fn shares_in_the_place_of_a_choice() {
        let share = |backend: &str, node: &str, slots| Share {
            backend: backend.to_owned(),
            node: node.to_owned(),
            slots,
        };
        let mut shared = sample();
        shared.path = None;
        shared.choice = shared.choice.map(|choice| Choice {
            hash: None,
            slot: None,
            backend: None,
            node: None,
            shares: vec![share("search.1", "n1", 512), share("search.2", "n2", 512)],
            ..choice
        });
        assert_eq!(
            explanation(&shared, Paint::plain()).lines().skip(2).take(4).collect::<Vec<_>>(),
            [
                "service    search, published port 9200/tcp, on every node",
                "scheduler  mh, 1024 slots",
                "backends   search.1 on n1: 50.0 %",
                "           search.2 on n2: 50.0 %",
            ]
        );
    }

    #[test]
    fn a_flow_that_is_dropped() {
        let dropped = Explanation {
            verdict: Verdict::Dropped,
            summary: "dropped as internal: the network is internal".to_owned(),
            choice: None,
            path: None,
            instead: vec!["a network that is not internal".to_owned()],
            ..sample()
        };
        assert_eq!(
            explanation(&dropped, Paint::plain()),
            "\
tcp 198.51.100.9:40000 → 192.0.2.1:9200: dropped as internal: the network is internal

Why
- 192.0.2.1 is an address of n1: it enters the mesh there

What would pass
- a network that is not internal
"
        );
    }
}
