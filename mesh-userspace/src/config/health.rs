//! The health check of a service.

use std::num::{NonZeroU8, NonZeroU16};

use super::{keys::Keys, reader::Reader, yaml::Node};
use crate::{
    spec::{Given, HealthCheck},
    table::Period,
};

/// A health check; none where it could not be read.
pub(super) fn health_check(reader: &mut Reader, node: &Node, of: &str) -> Option<Given<HealthCheck>> {
    let who = format!("The health check of {of}");
    let want = "a mapping such as {http: /healthz, port: 8080} or {tcp: 8080}";
    let mut keys = Keys::of(reader, node, who.clone(), want)?;
    let before = reader.faults.count();
    let mut check = HealthCheck::default();
    if let Some(node) = keys.take("http") {
        let want = "a path such as /healthz";
        check.http = reader.value(node, &format!("{who}'s http"), want, |text| Some(text.to_owned()));
    }
    if let Some(node) = keys.take("tcp") {
        check.tcp = port(reader, node, &format!("{who}'s tcp"));
    }
    if let Some(node) = keys.take("command") {
        let what = format!("{who}'s command");
        let words =
            reader.list(node, &what, "a list of words such as [curl, -f, \"http://localhost:8080/\"]");
        let word = |word| {
            reader.value(word, &format!("A word of {}", super::lower(&what)), "a text", |text| {
                Some(text.to_owned())
            })
        };
        let words: Vec<Given<String>> = words.iter().filter_map(word).collect();
        check.command = Some(reader.given(node.at, words.into_iter().map(|word| word.value).collect()));
    }
    if let Some(node) = keys.take("port") {
        check.port = port(reader, node, &format!("{who}'s port"));
    }
    if let Some(node) = keys.take("interval") {
        check.interval = period(reader, node, &format!("{who}'s interval"));
    }
    if let Some(node) = keys.take("timeout") {
        check.timeout = period(reader, node, &format!("{who}'s timeout"));
    }
    if let Some(node) = keys.take("rise") {
        check.rise = times(reader, node, &format!("{who}'s rise"));
    }
    if let Some(node) = keys.take("fall") {
        check.fall = times(reader, node, &format!("{who}'s fall"));
    }
    // What could not be read was to be something, so the rules must not take it for missing.
    let is_sound = keys.finish(reader) && reader.faults.count() == before;
    is_sound.then(|| reader.given(node.at, check))
}

fn port(reader: &mut Reader, node: &Node, what: &str) -> Option<Given<NonZeroU16>> {
    reader.number(node, what, "a port from 1 to 65535")
}

fn times(reader: &mut Reader, node: &Node, what: &str) -> Option<Given<NonZeroU8>> {
    reader.number(node, what, "a number of checks from 1 to 255")
}

fn period(reader: &mut Reader, node: &Node, what: &str) -> Option<Given<Period>> {
    reader.value(node, what, "a time with its unit, such as 500ms, 2s or 1m", |text| text.parse().ok())
}
