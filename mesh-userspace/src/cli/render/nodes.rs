//! Nodes.

use super::{names, node_state};
use crate::{
    api::types::{Node, NodeState},
    cli::{
        screen::{Entry, Paint, Tone, facts, table},
        units::age,
    },
};

/// A list.
pub(in crate::cli) fn nodes(nodes: &[Node], paint: Paint) -> String {
    if nodes.is_empty() {
        return "There are no nodes: add them under `nodes:` in meshd's configuration file.\n".to_owned();
    }
    let start = |node: &Node| [node.name.as_str().into(), node.address.to_string().into()];
    let end = |node: &Node| [route(node), node.endpoints.len().to_string().into()];
    if nodes.iter().all(|node| node.state.is_none()) {
        let rows = nodes.iter().map(|node| {
            let ([name, address], [route, endpoints]) = (start(node), end(node));
            [name, address, route, endpoints]
        });
        return table(paint, ["NAME", "ADDRESS", "ROUTE", "ENDPOINTS"], rows);
    }
    let rows = nodes.iter().map(|node| {
        let ([name, address], [route, endpoints]) = (start(node), end(node));
        [name, address, state(node), route, endpoints]
    });
    table(paint, ["NAME", "ADDRESS", "STATE", "ROUTE", "ENDPOINTS"], rows)
}

/// One in full.
pub(in crate::cli) fn node(node: &Node) -> String {
    facts([
        ("name", node.name.clone()),
        ("address", node.address.to_string()),
        ("interface", node.interface.clone().unwrap_or_else(|| "the one that holds the address".to_owned())),
        ("state", state_text(node)),
        ("route", route_text(node)),
        ("endpoints", names(&node.endpoints)),
    ])
}

fn state(node: &Node) -> Entry {
    let tone = match node.state {
        Some(NodeState::Alive) => Tone::Good,
        Some(NodeState::Suspect | NodeState::Restarting | NodeState::Dead) => Tone::Bad,
        Some(NodeState::Left) => Tone::Faint,
        None => Tone::Plain,
    };
    Entry::new(tone, state_text(node))
}

fn state_text(node: &Node) -> String {
    let Some(state) = node.state else { return "–".to_owned() };
    format!("{} for {}", node_state(state), age(node.seconds.unwrap_or_default()))
}

fn route(node: &Node) -> Entry {
    let tone = if node.this || node.route.is_some() { Tone::Plain } else { Tone::Bad };
    Entry::new(tone, route_text(node))
}

fn route_text(node: &Node) -> String {
    match &node.route {
        _ if node.this => "this node".to_owned(),
        Some(interface) => format!("by {interface}"),
        None => "no route".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Node> {
        let node = |name: &str, address: &str, this: bool, route: Option<&str>, endpoints: &[&str]| Node {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            interface: this.then(|| "eth0".to_owned()),
            this,
            state: None,
            seconds: None,
            route: route.map(str::to_owned),
            endpoints: endpoints.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![
            node("n1", "192.0.2.1", true, None, &["search.1", "web.1"]),
            node("n2", "2001:db8::2", false, Some("eth0"), &["search.2"]),
            node("n3", "192.0.2.3", false, None, &[]),
        ]
    }

    #[test]
    fn a_list() {
        assert_eq!(
            nodes(&sample(), Paint::plain()),
            "\
NAME  ADDRESS      ROUTE      ENDPOINTS
n1    192.0.2.1    this node  2
n2    2001:db8::2  by eth0    1
n3    192.0.2.3    no route   0
"
        );
        let mut members = sample();
        for (node, state) in members.iter_mut().zip([NodeState::Alive, NodeState::Dead]) {
            (node.state, node.seconds) = (Some(state), Some(75));
        }
        assert_eq!(
            nodes(&members, Paint::plain()),
            "\
NAME  ADDRESS      STATE                 ROUTE      ENDPOINTS
n1    192.0.2.1    alive for 1 min 15 s  this node  2
n2    2001:db8::2  dead for 1 min 15 s   by eth0    1
n3    192.0.2.3    –                     no route   0
"
        );
        assert!(nodes(&[], Paint::plain()).contains("`nodes:`"));
    }

    #[test]
    fn one_in_full() {
        assert_eq!(
            node(&sample()[0]),
            "\
name       n1
address    192.0.2.1
interface  eth0
state      –
route      this node
endpoints  search.1, web.1
"
        );
        assert_eq!(
            node(&sample()[2]),
            "\
name       n3
address    192.0.2.3
interface  the one that holds the address
state      –
route      no route
endpoints  –
"
        );
    }
}
