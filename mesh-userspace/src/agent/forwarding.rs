//! Leaving forwarding addresses: telling other nodes of the flows that live here although a ring names one of theirs.
//!
//! A ring remembers two backends before the current one. That bridges the moments after a change; what makes a flow found
//! for as long as it lives is that its own node says where it is, to whoever would be asked for it: after each change, and
//! now and then again, because words get lost and tables are emptied.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use mesh_common::{
    abi::{
        Address, EndpointKey, Flow, FlowKey, ForwardingAddress, Service, ServiceKey, Slot, Space, UDP_IDLE,
        VNI_MAX, flow_flags, node_mac,
    },
    hash,
};

use tokio::{sync::Notify, time::sleep};

use super::{
    control::Published,
    flows::{Walk, monotonic},
    round::lock,
    state::Numbers,
};
use crate::{
    api::Lookup,
    apply::{Flows, MapContents, MapError, Maps},
    datapath::Datapath,
};

/// How often other nodes are told again.
pub const TELL_EVERY: Duration = Duration::from_secs(10);
/// The pause between two slices of flows.
const PAUSE: Duration = Duration::from_millis(2);

const UDP: u8 = 17;

/// A word to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The other node's underlay address.
    pub to: IpAddr,
    /// The network of the flow's backend.
    vni: u32,
    /// The backend that the ring names, as which the other node is spoken to.
    mac: [u8; 6],
    address: ForwardingAddress,
}

/// What is to be said of a flow of a published port, if anything: where it lives, to the node that it would be asked for
/// at. `slot` gives the slots of the table of slots; `now` is in seconds of the monotonic clock.
pub fn word(
    contents: &MapContents,
    slot: impl Fn(u32) -> Option<Slot>,
    key: &FlowKey,
    flow: &Flow,
    now: u64,
) -> Option<Word> {
    // A new flow finds its backend again by its ring, and a flood of such is not to be told about.
    let is_session = key.scope >> 24 == Space::Session as u32;
    let quiet = now.saturating_sub(flow.seen);
    let is_none = flow.flags & (flow_flags::FIN | flow_flags::RST | flow_flags::NEW) != 0
        || is_session && quiet > u64::from(flow.vni)
        || !is_session && key.protocol == UDP && quiet > UDP_IDLE;
    if !lives_here(key) || is_none {
        return None;
    }
    let settings = contents.settings.get(&0)?;
    let vni = key.scope & VNI_MAX;
    let endpoint = contents.endpoints.get(&EndpointKey { address: flow.destination, vni, reserved: 0 })?;
    let service = published(contents, key)?;
    let hash = service.hash(settings.seed, key.source, key.source_port, key.destination_port, key.protocol);
    let slot = slot(service.first_slot.checked_add(hash::slot(hash, service.slots))?)?;
    let current = contents.backends.get(&slot.current())?;
    if endpoint.ifindex == 0 || current.node == settings.node || current.vni != vni {
        return None;
    }
    let address = ForwardingAddress {
        client: key.source,
        published: key.destination,
        backend: flow.destination,
        client_port: key.source_port,
        port: key.destination_port,
        protocol: key.protocol,
        reserved: [0; 3],
    };
    Some(Word { to: contents.nodes.get(&current.node)?.address.into(), vni, mac: current.mac, address })
}

/// Whether the key is that of a client's flow, or of a client's session, with a backend of this node.
fn lives_here(key: &FlowKey) -> bool {
    let space = key.scope >> 24;
    space == Space::Published as u32 || space == Space::Session as u32
}

/// The service that a client's packet with this key asks for, as the node finds it that delivers the packet.
fn published<'a>(contents: &'a MapContents, key: &FlowKey) -> Option<&'a Service> {
    let of = |address, scope| {
        let family = key.source.family() as u8;
        let port = key.destination_port;
        contents.services.get(&ServiceKey { address, scope, port, protocol: key.protocol, family })
    };
    [0, ServiceKey::ELSEWHERE]
        .into_iter()
        .find_map(|scope| of(key.destination, scope).or_else(|| of(Address::UNSPECIFIED, scope)))
}

impl Word {
    /// The VXLAN packet that says it, the payload of a datagram: from the node with this underlay address.
    #[must_use]
    pub fn packet(&self, from: IpAddr) -> Vec<u8> {
        const VNI_PRESENT: u8 = 0x08;
        let [_, a, b, c] = self.vni.to_be_bytes();
        let told = &self.address;
        let mut packet = vec![VNI_PRESENT, 0, 0, 0, a, b, c, 0];
        packet.extend(self.mac);
        packet.extend(node_mac(from.into()));
        packet.extend(ForwardingAddress::ETHER_TYPE.to_be_bytes());
        for address in [told.client, told.published, told.backend] {
            packet.extend(address.octets());
        }
        packet.extend(told.client_port);
        packet.extend(told.port);
        packet.push(told.protocol);
        packet.extend(told.reserved);
        packet
    }
}

/// Says words to other nodes.
#[derive(Debug)]
pub(crate) struct Teller {
    socket: UdpSocket,
    from: IpAddr,
    port: u16,
}

impl Teller {
    /// One that speaks from this node's underlay address to the port of tunnels.
    ///
    /// # Errors
    /// When the address cannot be spoken from.
    pub(crate) fn new(from: IpAddr, port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, from, port })
    }

    /// Goes on with a walk over all flows, and says of a slice of them where they live; says whether there is more, and
    /// how many words it sent.
    ///
    /// # Errors
    /// When the flows cannot be read.
    pub(crate) fn slice(
        &self,
        walk: &mut Walk,
        maps: &impl Maps,
        contents: &MapContents,
        slot: impl Fn(u32) -> Option<Slot>,
        now: u64,
    ) -> Result<(bool, usize), MapError> {
        let (keys, more) = walk.slice(maps)?;
        let mut sent = 0;
        for key in keys.iter().filter(|key| lives_here(key)) {
            let Some(flow) = maps.get::<Flows>(key)? else { continue };
            let Some(word) = word(contents, &slot, key, &flow, now) else { continue };
            // One that is lost is said again.
            if self.socket.send_to(&word.packet(self.from), SocketAddr::new(word.to, self.port)).is_ok() {
                sent += 1;
            }
        }
        Ok((more, sent))
    }
}

/// Tells other nodes which flows live here, after each change and now and then again.
pub(super) async fn leave_addresses(
    datapath: Arc<Mutex<Datapath>>,
    published: Arc<ArcSwap<Published>>,
    changed: Arc<Notify>,
) {
    loop {
        let numbers = Arc::clone(&published.load().numbers);
        if let Err(error) = leave_addresses_once(&datapath, &numbers).await {
            tracing::warn!(%error, "other nodes could not be told which flows live here: it is tried again");
        }
        // Many changes together are one.
        let _ = tokio::time::timeout(TELL_EVERY, changed.notified()).await;
    }
}

async fn leave_addresses_once(
    datapath: &Mutex<Datapath>,
    numbers: &Numbers,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Some((address, port)) = numbers.underlay() else { return Ok(()) };
    let teller = Teller::new(address, port)?;
    let mut walk = Walk::default();
    let mut told = 0;
    loop {
        let (more, sent) = {
            let datapath = lock(datapath);
            let slot = |index| Lookup::slot(numbers, index);
            teller.slice(
                &mut walk,
                &datapath.kernel_maps(),
                numbers.contents(),
                slot,
                monotonic().as_secs(),
            )?
        };
        told += sent;
        if !more {
            break;
        }
        sleep(PAUSE).await;
    }
    if told > 0 {
        tracing::debug!(flows = told, "other nodes were told which flows live here");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mesh_common::abi::{Backend, Endpoint, Node, Settings};

    use super::*;
    use crate::apply::memory::MemoryMaps;

    const CLIENT: Address = Address::from_v4([203, 0, 113, 9]);
    const PUBLISHED: Address = Address::from_v4([198, 51, 100, 7]);
    const OURS: Address = Address::from_v4([10, 0, 9, 11]);
    const THEIRS: Address = Address::from_v4([10, 0, 9, 12]);

    /// A node that has one of two backends, and a port whose ring names the other alone.
    fn contents(first_slot: u32) -> MapContents {
        let mut contents = MapContents::default();
        let settings = Settings { node: 1, seed: 7, ..Settings::default() };
        contents.settings.insert(0, settings);
        for (index, address, node, ifindex) in [(1, OURS, 1, 21), (2, THEIRS, 2, 0)] {
            let mac = [2, 0x42, 10, 0, 9, 10 + index as u8];
            let underlay = Address::from_v4([192, 0, 2, node as u8]);
            contents.nodes.insert(node, Node { address: underlay, ..Node::default() });
            contents.backends.insert(index, Backend::new(address, 7, node, mac));
            let key = EndpointKey { address, vni: 7, reserved: 0 };
            contents.endpoints.insert(key, Endpoint { mac, node, ifindex, ..Endpoint::default() });
        }
        let key =
            ServiceKey { address: Address::UNSPECIFIED, scope: 0, port: [0, 80], protocol: 6, family: 4 };
        contents.services.insert(key, Service { first_slot, slots: 4, ..Service::default() });
        contents
    }

    fn key() -> FlowKey {
        FlowKey {
            source: CLIENT,
            destination: PUBLISHED,
            source_port: [200, 1],
            destination_port: [0, 80],
            scope: FlowKey::scope(Space::Published, 7),
            protocol: 6,
            reserved: [0; 7],
        }
    }

    fn said(contents: &MapContents, current: u32, key: FlowKey, flow: Flow) -> Option<Word> {
        word(
            contents,
            |index| (100..104).contains(&index).then(|| Slot::new(current, [0; 2])),
            &key,
            &flow,
            500,
        )
    }

    #[test]
    fn what_lives_here_is_told_to_whom_the_ring_names() {
        let contents = contents(100);
        let here = Flow { destination: OURS, seen: 400, ..Flow::default() };
        let word = said(&contents, 2, key(), here).expect("the ring names another node's");
        assert_eq!(word.to, IpAddr::from(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!((word.vni, word.mac), (7, [2, 0x42, 10, 0, 9, 12]));
        assert_eq!((word.address.client, word.address.published), (CLIENT, PUBLISHED));
        assert_eq!(word.address.backend, OURS);

        assert_eq!(said(&contents, 1, key(), here), None, "the ring names this node's own");
        assert_eq!(
            said(&contents, 2, key(), Flow { destination: THEIRS, ..here }),
            None,
            "it lives elsewhere"
        );
        let session = FlowKey { source_port: [0, 0], scope: FlowKey::scope(Space::Session, 7), ..key() };
        assert!(said(&contents, 2, session, Flow { vni: 100, ..here }).is_some(), "so is a session");
        assert_eq!(said(&contents, 2, session, Flow { vni: 99, ..here }), None, "that lasts");

        let over = Flow { flags: flow_flags::FIN, ..here };
        assert_eq!(said(&contents, 2, key(), over), None, "it is over");
        let of_network = FlowKey { scope: 7, ..key() };
        assert_eq!(said(&contents, 2, of_network, here), None, "it is no client's");
        let other_port = FlowKey { destination_port: [0, 81], ..key() };
        assert_eq!(said(&contents, 2, other_port, here), None, "the port is not published");
    }

    #[test]
    fn a_word_arrives_as_it_was_said() {
        let mut contents = contents(100);
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        contents.nodes.get_mut(&2).unwrap().address = Address::from_v4(Ipv4Addr::LOCALHOST.octets());
        let mut maps = MemoryMaps::default();
        let flow = Flow { destination: OURS, seen: 400, ..Flow::default() };
        maps.insert::<Flows>(&key(), &flow).unwrap();
        let teller = Teller::new(Ipv4Addr::LOCALHOST.into(), other.local_addr().unwrap().port()).unwrap();
        let slot = |_| Some(Slot::new(2, [0; 2]));
        let told = teller.slice(&mut Walk::default(), &maps, &contents, slot, 500).unwrap();
        assert_eq!(told, (false, 1));
        let mut bytes = [0; 256];
        let length = other.recv(&mut bytes).unwrap();
        assert_eq!(length, 8 + 14 + size_of::<ForwardingAddress>());
        assert_eq!(bytes[..8], [8, 0, 0, 0, 0, 0, 7, 0]);
        assert_eq!(bytes[8..22], [2, 0x42, 10, 0, 9, 12, 2, 0x4e, 127, 0, 0, 1, 0x88, 0xb5]);
        assert_eq!(bytes[22..38], CLIENT.octets());
        assert_eq!(bytes[38..54], PUBLISHED.octets());
        assert_eq!(bytes[54..70], OURS.octets());
        assert_eq!(bytes[70..78], [200, 1, 0, 80, 6, 0, 0, 0]);
    }
}
