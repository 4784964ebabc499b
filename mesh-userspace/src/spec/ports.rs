//! Published ports in Compose's short form.

use std::{net::IpAddr, ops::RangeInclusive};

use super::quoted;
use crate::table::{Protocol, PublishedPort};

/// The ports that a text such as `9200:80`, `53:5353/udp`, `8080-8090:80-90`, `192.0.2.1:9200:80` or
/// `[2001:db8::1]:9200:80` publishes, in ingress mode.
///
/// # Errors
/// A sentence that says what is wrong with the text, and what would be right.
pub fn published_ports(text: &str) -> Result<Vec<PublishedPort>, String> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, protocol)) => (ports, protocol_named(protocol)?),
    };
    let (host_ip, ports) = match host_ip(ports, text)? {
        Some((address, ports)) => (Some(address), ports),
        None => (None, ports),
    };
    let (published, target) = match ports.rsplit_once(':') {
        None => {
            range(ports, text)?;
            return Err(format!(
                "The port {} has no published port; write it before the task's port, as in \"9200:{ports}\".",
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
        .map(|(published, target)| PublishedPort {
            published,
            target,
            protocol,
            host_ip,
            ..PublishedPort::default()
        })
        .collect())
}

/// The address before the ports of a text, if there is one, and the ports.
///
/// # Errors
/// A sentence that says what is wrong with the text, and what would be right.
pub(crate) fn host_ip<'a>(ports: &'a str, text: &str) -> Result<Option<(IpAddr, &'a str)>, String> {
    let wrong = |address: &str| {
        format!(
            "The port {} names the address {}, which is none; write one before the ports, as in \
             \"192.0.2.1:9200:80\" or \"[2001:db8::1]:9200:80\".",
            quoted(text),
            quoted(address)
        )
    };
    let (address, ports, is_right) = if let Some(rest) = ports.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(|| wrong(rest))?;
        let ports = rest.strip_prefix(':').ok_or_else(|| wrong(address))?;
        (address, ports, address.contains(':'))
    } else {
        // From the end: an IPv6 address without brackets is still shown as one.
        let mut parts = ports.rsplitn(3, ':').skip(2);
        let Some(address) = parts.next() else { return Ok(None) };
        let ports = ports.get(address.len().saturating_add(1)..).unwrap_or_default();
        (address, ports, !address.contains(':'))
    };
    match address.parse() {
        Ok(address) if is_right => Ok(Some((address, ports))),
        _ => Err(wrong(address)),
    }
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
        let plain = |port: &PublishedPort| PublishedPort {
            published: port.published,
            target: port.target,
            protocol: port.protocol,
            ..PublishedPort::default()
        };
        assert!(ports.iter().all(|port| *port == plain(port)));
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
    fn addresses_before_the_ports() {
        for (text, address, count) in [
            ("192.0.2.1:9200:80", "192.0.2.1", 1),
            ("127.0.0.1:53:53/udp", "127.0.0.1", 1),
            ("[2001:db8::1]:9200-9201:80-81", "2001:db8::1", 2),
            ("[::1]:80:80", "::1", 1),
        ] {
            let ports = published_ports(text).unwrap();
            assert_eq!(ports.len(), count, "{text}");
            assert!(ports.iter().all(|port| port.host_ip == Some(address.parse().unwrap())), "{text}");
        }
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
            ("127.0.0:80:80", "the address \"127.0.0\", which is none"),
            ("[::1:80:80", "the address \"::1:80:80\""),
            ("[::1]80:80", "the address \"::1\""),
            ("[192.0.2.1]:80:80", "the address \"192.0.2.1\""),
            ("2001:db8::1:80:80", "the address \"2001:db8::1\""),
            (":80:80", "the address \"\""),
            ("192.0.2.1::80", "lacks a number"),
            ("192.0.2.1:80:", "lacks a number"),
        ] {
            let sentence = published_ports(text).unwrap_err();
            assert!(sentence.contains(piece) && sentence.ends_with('.'), "{text}: {sentence}");
        }
    }
}
