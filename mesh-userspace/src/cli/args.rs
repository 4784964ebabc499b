//! Arguments that are more than a word: addresses, subnets, published ports, virtual IPs, ends of flows.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ipnet::IpNet;
use serde::de::{DeserializeOwned, IntoDeserializer, value::Error as WordError};

use crate::{
    api::types::{Place, Vip},
    spec::{self, host_ip},
    table::{Protocol, PublishedPort},
};

/// One of a few words, each of which is a value of `T` as it stands in the file and in the API.
pub(super) fn words<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|text| word::<T>(&text))
}

fn word<T: DeserializeOwned>(text: &str) -> Result<T, WordError> {
    T::deserialize(text.into_deserializer())
}

/// A port that nodes answer on, in Docker's short form (`53:5353/udp`, `192.0.2.1:53:5353`) or its long one
/// (`published=53,target=5353,protocol=udp,mode=host,host_ip=192.0.2.1,node=n1,source=10.0.0.0/8`).
pub(super) fn port(text: &str) -> Result<PublishedPort, String> {
    if text.contains('=') { long_port(text) } else { short_port(text) }
}

fn short_port(text: &str) -> Result<PublishedPort, String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, protocol_of(protocol)?),
        None => (text, Protocol::default()),
    };
    let (host_ip, ports) = match host_ip(ports, text)? {
        Some((address, ports)) => (Some(address), ports),
        None => (None, ports),
    };
    let (published, target) = ports
        .split_once(':')
        .ok_or_else(|| format!("it names one port; write PUBLISHED:TARGET, such as {text}:{text}"))?;
    Ok(PublishedPort {
        published: port_number(published)?,
        target: port_number(target)?,
        protocol,
        host_ip,
        ..PublishedPort::default()
    })
}

fn long_port(text: &str) -> Result<PublishedPort, String> {
    let (mut published, mut target) = (None, None);
    let mut port = PublishedPort::default();
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("published", value)) => published = Some(port_number(value)?),
            Some(("target", value)) => target = Some(port_number(value)?),
            Some(("protocol", value)) => port.protocol = protocol_of(value)?,
            Some(("mode", value)) => {
                port.mode = word(value).map_err(|_| format!("`{value}` is no mode; use ingress or host"))?;
            }
            Some(("host_ip", value)) => port.host_ip = Some(address(value)?),
            Some(("interface", value)) => port.interface = Some(value.to_owned()),
            Some(("node", value)) => port.nodes.push(value.to_owned()),
            Some(("source", value)) => port.sources.push(source(value)?),
            _ => {
                return Err(format!(
                    "`{field}` is none of published=, target=, protocol=, mode=, host_ip=, interface=, node= and \
                     source="
                ));
            }
        }
    }
    let published = published.ok_or("the published port is missing; add published=PORT")?;
    Ok(PublishedPort { published, target: target.unwrap_or(published), ..port })
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no port; ports go from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

fn protocol_of(text: &str) -> Result<Protocol, String> {
    word(text).map_err(|_| format!("`{text}` is no protocol that can be published; use tcp or udp"))
}

/// A range of clients.
pub(super) fn source(text: &str) -> Result<IpNet, String> {
    spec::source(text).map_err(|mend| format!("`{text}` is no range of clients; {mend}"))
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "it is no address; write one such as 10.0.9.14 or fd00:9::e".to_owned())
}

/// A subnet.
pub(super) fn subnet(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        "it is no subnet; write an address and a prefix length, such as 10.0.9.0/24 or fd00:9::/64".to_owned()
    })
}

/// A number of things, at least one.
pub(super) fn count(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("write a number from 1 to {}", u32::MAX))
}

/// A length of time: a number with `s`, `m` or `h`, and no unit for seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, text.get(number.len()..).unwrap_or_default()),
        None => (text, "s"),
    };
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        _ => 1_u64,
    };
    let is_plain = number.bytes().all(|digit| digit.is_ascii_digit());
    let number: Option<u64> = if is_plain { number.parse().ok() } else { None };
    // A century is enough for everybody, and far from where clocks end.
    let length = number.and_then(|number| number.checked_mul(seconds)).filter(|length| *length < 1 << 32);
    length.map(Duration::from_secs).ok_or_else(|| "write a time such as 90s, 10m or 1h".to_owned())
}

/// A virtual IP, with or without its network.
pub(super) fn vip(text: &str) -> Result<Vip, String> {
    let (network, address) = match text.split_once('=') {
        Some((network, address)) => (Some(network.to_owned()), address),
        None => (None, text),
    };
    let address = address
        .parse::<IpAddr>()
        .map_err(|_| format!("`{address}` is no address; write ADDRESS or NETWORK=ADDRESS"))?;
    Ok(Vip { network, address })
}

/// An end of a flow that has a port.
pub(super) fn place_with_port(text: &str) -> Result<Place, String> {
    let place: Place = text.parse().map_err(|error| format!("{error}"))?;
    match place.port {
        Some(_) => Ok(place),
        None => Err(format!("it has no port; write {}, say", Place::new(place.address, 80))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::PublishMode;

    fn published(published: u16, target: u16, protocol: Protocol, mode: PublishMode) -> PublishedPort {
        PublishedPort { published, target, protocol, mode, ..PublishedPort::default() }
    }

    #[test]
    fn ports_in_both_forms() {
        use Protocol::{Tcp, Udp};
        use PublishMode::{Host, Ingress};
        assert_eq!(port("9200:80"), Ok(published(9200, 80, Tcp, Ingress)));
        assert_eq!(port("53:5353/udp"), Ok(published(53, 5353, Udp, Ingress)));
        assert_eq!(port("published=9100"), Ok(published(9100, 9100, Tcp, Ingress)));
        assert_eq!(
            port("mode=host,protocol=udp,target=5353,published=53"),
            Ok(published(53, 5353, Udp, Host))
        );
    }

    #[test]
    fn limits_of_ports() {
        let plain = published(80, 8080, Protocol::Tcp, PublishMode::Ingress);
        assert_eq!(
            port("192.0.2.1:80:8080"),
            Ok(PublishedPort { host_ip: Some("192.0.2.1".parse().unwrap()), ..plain.clone() })
        );
        assert_eq!(
            port("[2001:db8::1]:80:8080/tcp"),
            Ok(PublishedPort { host_ip: Some("2001:db8::1".parse().unwrap()), ..plain.clone() })
        );
        assert_eq!(
            port("published=80,target=8080,interface=eth0,node=n1,node=n2,source=10.0.0.0/8,source=::1"),
            Ok(PublishedPort {
                interface: Some("eth0".to_owned()),
                nodes: vec!["n1".to_owned(), "n2".to_owned()],
                sources: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
                ..plain
            })
        );
    }

    #[test]
    fn wrong_ports_say_what_would_be_right() {
        for (text, says) in [
            ("80", "write PUBLISHED:TARGET, such as 80:80"),
            ("0:80", "`0` is no port; ports go from 1 to 65535"),
            ("80:65536", "`65536` is no port"),
            ("80:80/sctp", "use tcp or udp"),
            ("target=80", "add published=PORT"),
            ("published=80,mode=all", "use ingress or host"),
            ("published=80,colour=1", "`colour=1` is none of"),
            ("published=80,source=1", "`1` is no range of clients"),
            ("2001:db8::1:80:80", "the address \"2001:db8::1\""),
            ("published=80,", "`` is none of"),
        ] {
            let error = port(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "-1s", "+1s", "1.5h", "1d", "ten", "9999999999h"] {
            assert!(duration(text).unwrap_err().contains("90s, 10m or 1h"), "{text}");
        }
    }

    #[test]
    fn vips_with_and_without_their_network() {
        assert_eq!(vip("10.0.9.2"), Ok(Vip { network: None, address: "10.0.9.2".parse().unwrap() }));
        let named = Vip { network: Some("blue".to_owned()), address: "fd00::2".parse().unwrap() };
        assert_eq!(vip("blue=fd00::2"), Ok(named));
        assert!(vip("blue").unwrap_err().contains("NETWORK=ADDRESS"));
    }
}
