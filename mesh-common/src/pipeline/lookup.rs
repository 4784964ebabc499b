//! Questions to the tables, each in a function of its own: a program has a stack of 512 bytes, and their keys need not
//! lie on it while the rest of the pipeline runs.

use super::datagram::Datagram;
use crate::{
    Reason, Tables,
    abi::{
        Address, AllowedKey, Endpoint, EndpointKey, Service, ServiceKey, SubnetKey, TargetKey, local_flags,
        service_flags,
    },
    wire::protocol,
};

/// The endpoint that has an address of a network.
#[inline(never)]
pub(super) fn endpoint<'a, T: Tables>(tables: &'a T, vni: u32, address: &Address) -> Option<&'a Endpoint> {
    tables.endpoint(&EndpointKey { address: *address, vni, reserved: 0 })
}

/// The service whose virtual IP an address of a network is.
#[inline(never)]
pub(super) fn vip<'a, T: Tables>(tables: &'a T, vni: u32, address: &Address) -> Option<&'a Service> {
    tables.service(&ServiceKey {
        address: *address,
        scope: vni,
        port: [0, 0],
        protocol: 0,
        family: address.family() as u8,
    })
}

/// The service published at a port of an address with these [`local_flags`], by the packet's family and protocol.
#[inline(never)]
pub(super) fn published<'a, T: Tables>(
    tables: &'a T,
    datagram: &Datagram,
    address: &Address,
    port: [u8; 2],
    flags: u32,
) -> Option<&'a Service> {
    if flags == 0 || !datagram.is_transport() || !datagram.has_ports && !datagram.is_fragment {
        return None;
    }
    let mut key = ServiceKey {
        address: *address,
        scope: 0,
        port,
        protocol: datagram.key.protocol,
        family: datagram.family as u8,
    };
    if flags & local_flags::OWN != 0
        && let Some(service) = tables.service(&key)
    {
        return Some(service);
    }
    if flags & local_flags::SERVES == 0 {
        return None;
    }
    key.address = Address::UNSPECIFIED;
    tables.service(&key)
}

/// The service that was asked for at a port of an address of another node, or of a host alias: it may be published at
/// addresses that this node knows nothing of.
#[inline(never)]
pub(super) fn asked<'a, T: Tables>(
    tables: &'a T,
    datagram: &Datagram,
    address: &Address,
    port: [u8; 2],
) -> Option<&'a Service> {
    let here = published(tables, datagram, address, port, local_flags::OWN | local_flags::SERVES);
    if here.is_some() || !datagram.is_transport() || !datagram.has_ports && !datagram.is_fragment {
        return here;
    }
    let mut key = ServiceKey {
        address: *address,
        scope: ServiceKey::ELSEWHERE,
        port,
        protocol: datagram.key.protocol,
        family: datagram.family as u8,
    };
    if let Some(service) = tables.service(&key) {
        return Some(service);
    }
    key.address = Address::UNSPECIFIED;
    tables.service(&key)
}

/// Refuses a client that may not ask for a service.
#[inline(always)]
pub(super) fn admit<T: Tables>(tables: &T, service: &Service, client: &Address) -> Result<(), Reason> {
    if service.flags & service_flags::RESTRICTED != 0 && !is_allowed(tables, service.id, client) {
        return Err(Reason::NotAllowed);
    }
    Ok(())
}

#[inline(never)]
fn is_allowed<T: Tables>(tables: &T, service: u32, client: &Address) -> bool {
    tables.is_allowed(&AllowedKey { service: service.to_be_bytes(), address: client.octets() })
}

/// Whether a task's packet to the world outside, of no known flow, is the answer to a client whose flow was forgotten: it would
/// leave with a source that the client never spoke to. Only TCP tells a conversation's first packet from the others.
#[inline(never)]
pub(super) fn is_lost_answer<T: Tables>(tables: &T, vni: u32, datagram: &Datagram) -> bool {
    let key = &datagram.key;
    key.protocol == protocol::TCP
        && !datagram.is_syn()
        && tables.is_target(&TargetKey { vni, port: key.source_port, protocol: key.protocol, reserved: 0 })
}

/// Whether packets to an address end at this node: its own addresses, and what stands for it where its own packets enter
/// the mesh and where tasks' packets reach it.
#[inline(never)]
pub(super) fn is_here<T: Tables>(tables: &T, address: &Address) -> bool {
    address.is_host_alias() || tables.is_local(*address)
}

/// What an address is to a network.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Of none of its subnets.
    Outside,
    /// A subnet's first address, which is the network's own.
    Gateway,
    /// Any other of a subnet.
    Inside,
}

/// What an address is to a network, as far as its subnets tell.
#[inline(never)]
pub(super) fn place<T: Tables>(tables: &T, vni: u32, address: &Address) -> Place {
    match tables.subnet(&SubnetKey { vni: vni.to_be_bytes(), address: address.octets() }) {
        None => Place::Outside,
        Some(host_bits) if is_first(address, host_bits) => Place::Gateway,
        Some(_) => Place::Inside,
    }
}

/// Whether an address's last bits, so many of them, say one.
#[inline(always)]
fn is_first(address: &Address, host_bits: u32) -> bool {
    let [high, low] = address.0.map(u64::from_be);
    // In the kernel as here, a shift counts modulo 64.
    let mask = (1u64 << (host_bits & 63)) - 1;
    match host_bits {
        0..64 => low & mask == 1,
        64..128 => low == 1 && high & mask == 0,
        _ => low == 1 && high == 0,
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::is_first;

    #[test]
    fn a_gateway_is_the_first_address_of_its_subnet() {
        for (address, host_bits, expected) in [
            ("10.0.9.1", 8, true),
            ("10.0.9.0", 8, false),
            ("10.0.9.3", 8, false),
            ("10.0.9.129", 7, true),
            ("10.0.9.129", 8, false),
            ("10.0.1.1", 16, false),
            ("10.9.0.1", 16, true),
            ("10.0.9.5", 2, true),
            ("fd00:9::1", 64, true),
            ("fd00:9::1:0:0:1", 64, false),
            ("fd00:9:0:7::1", 64, true),
            ("fd00:9:0:7::1", 80, false),
            ("fd00:9::1", 80, true),
            ("fd00:9::7:0:0:1", 48, true),
            ("fd00:9::7:0:0:1", 63, false),
            ("::1", 128, true),
            ("8000::1", 127, true),
            ("8000::1", 128, false),
        ] {
            let address = address.parse::<IpAddr>().unwrap().into();
            assert_eq!(is_first(&address, host_bits), expected, "{address:?} {host_bits}");
        }
    }
}
