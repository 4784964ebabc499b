//! Questions to the tables, each in a function of its own: a program has a stack of 512 bytes, and their keys need not
//! lie on it while the rest of the pipeline runs.

use super::datagram::Datagram;
use crate::{
    Tables,
    abi::{Address, Endpoint, EndpointKey, Service, ServiceKey, SubnetKey},
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

/// The service published at a port, by the packet's family and protocol.
#[inline(never)]
pub(super) fn published<'a, T: Tables>(
    tables: &'a T,
    datagram: &Datagram,
    port: [u8; 2],
) -> Option<&'a Service> {
    if !datagram.is_transport() || !datagram.has_ports && !datagram.is_fragment {
        return None;
    }
    tables.service(&ServiceKey {
        address: Address::UNSPECIFIED,
        scope: 0,
        port,
        protocol: datagram.key.protocol,
        family: datagram.family as u8,
    })
}

/// Whether packets to an address end at this node: its own addresses, and what stands for it where its own packets enter
/// the mesh and where tasks' packets reach it.
#[inline(never)]
pub(super) fn is_here<T: Tables>(tables: &T, address: &Address) -> bool {
    address.is_host_alias() || tables.is_local(*address)
}

/// Whether an address lies in one of a network's subnets.
#[inline(never)]
pub(super) fn is_in_subnet<T: Tables>(tables: &T, vni: u32, address: &Address) -> bool {
    tables.in_subnet(&SubnetKey { vni: vni.to_be_bytes(), address: address.octets() })
}
