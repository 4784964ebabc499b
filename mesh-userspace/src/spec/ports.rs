//! Published ports in Compose's short form.

use std::ops::RangeInclusive;

use super::quoted;
use crate::table::{Protocol, PublishMode, PublishedPort};

/// The ports that a text such as `9200:80`, `53:5353/udp` or `8080-8090:80-90` publishes, in ingress mode.
///
/// # Errors
/// A sentence that says what is wrong with the text, and what would be right.
pub fn published_ports(text: &str) -> Result<Vec<PublishedPort>, String> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, protocol)) => (ports, protocol_named(protocol)?),
    };
    let (published, target) = match ports.rsplit_once(':') {
        None => {
            range(ports, text)?;
            return Err(format!(
                "The port {} has no published port; write it before the task's port, as in \"9200:{ports}\".",
                quoted(text)
            ));
        }
        Some((published, _)) if published.contains([':', '.', ']']) => {
            return Err(format!(
                "The port {} names an address, but a published port answers on each address of a node; write \
                 only the ports, as in \"9200:80\".",
                quoted(text)
            ));
        }
        Some((published, target)) => (range(published, text)?, range(target, text)?),
    };
    if published.len() != target.len() {
        return Err(format!(
            "The port {} publishes {} as {}; both ranges must be equally long, as in \"8080-8089:80-89\".",
            quoted(text),
            count(target.len()),
            count(published.len())
        ));
    }
    Ok(published
        .zip(target)
        .map(|(published, target)| PublishedPort { published, target, protocol, mode: PublishMode::Ingress })
        .collect())
}

fn count(ports: usize) -> String {
    match ports {
        1 => "1 port".to_owned(),
        ports => format!("{ports} ports"),
    }
}

fn protocol_named(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => {
            Err(format!("The protocol {} is not one that can be published; write tcp or udp.", quoted(text)))
        }
    }
}

/// A port, or two with a hyphen between them; `whole` is the text that it is part of.
fn range(text: &str, whole: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = match text.split_once('-') {
        None => (port(text, whole)?, port(text, whole)?),
        Some((first, last)) => (port(first, whole)?, port(last, whole)?),
    };
    if first > last {
        return Err(format!(
            "The port {} has a range that runs backwards; write \"{last}-{first}\".",
            quoted(whole)
        ));
    }
    Ok(first..=last)
}

fn port(text: &str, whole: &str) -> Result<u16, String> {
    if text.is_empty() {
        return Err(format!("The port {} lacks a number; write both, as in \"9200:80\".", quoted(whole)));
    }
    match text.parse() {
        // A sign would be parsed too.
        Ok(port) if port > 0 && text.bytes().all(|digit| digit.is_ascii_digit()) => Ok(port),
        _ => Err(format!(
            "The port {} holds {}, which is not a port's number; write one from 1 to 65535, as in \"9200:80\".",
            quoted(whole),
            quoted(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<(u16, u16, Protocol)> {
        let ports = published_ports(text).unwrap();
        assert!(ports.iter().all(|port| port.mode == PublishMode::Ingress));
        ports.iter().map(|port| (port.published, port.target, port.protocol)).collect()
    }

    #[test]
    fn the_short_forms_of_compose() {
        assert_eq!(shown("9200:80"), [(9200, 80, Protocol::Tcp)]);
        assert_eq!(shown("9200:80/tcp"), [(9200, 80, Protocol::Tcp)]);
        assert_eq!(shown("53:5353/udp"), [(53, 5353, Protocol::Udp)]);
        assert_eq!(shown("65535:65535"), [(65535, 65535, Protocol::Tcp)]);
        assert_eq!(
            shown("8080-8082:80-82"),
            [(8080, 80, Protocol::Tcp), (8081, 81, Protocol::Tcp), (8082, 82, Protocol::Tcp)]
        );
        assert_eq!(shown("1-65535:1-65535").len(), 65535);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_is_right() {
        for (text, piece) in [
            ("80", "no published port"),
            ("80:80/sctp", "tcp or udp"),
            ("0:80", "holds \"0\""),
            ("80:65536", "holds \"65536\""),
            ("+80:80", "holds \"+80\""),
            ("80: 80", "holds \" 80\""),
            ("-1:80", "lacks a number"),
            (":", "lacks a number"),
            ("10-20:10-19", "11 ports"),
            ("20-10:20-10", "\"10-20\""),
            ("127.0.0.1:80:80", "names an address"),
            ("[::1]:80:80", "names an address"),
        ] {
            let sentence = published_ports(text).unwrap_err();
            assert!(sentence.contains(piece) && sentence.ends_with('.'), "{text}: {sentence}");
        }
    }
}
