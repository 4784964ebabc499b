//! One netlink socket, and the requests that this module makes of it.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType},
};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
};

use mesh_common::{abi::Family, pipeline::overhead};

use super::{LinkError, Namespace};

/// The longest frame in bytes that may stand for many: with the larger of the tunnels around it, it is still no longer than a
/// length field of 16 bits can tell.
pub(super) const LONGEST_AGGREGATE: u32 = u16::MAX as u32 - overhead(Family::V6) as u32;

/// A socket in one namespace. Its connection ends when the last clone of this is dropped.
#[derive(Clone, Debug)]
pub(super) struct Netlink {
    handle: Handle,
}

/// An interface as the kernel tells of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    /// The longest frame in bytes that may stand for many, for each of the families, as far as the kernel tells.
    pub(super) aggregates: [Option<u32>; 2],
    pub(super) up: bool,
    pub(super) kind: Option<String>,
    /// The UDP port of a `vxlan` device.
    pub(super) vxlan_port: Option<u16>,
    pub(super) alias: Option<String>,
    /// The index of the bridge, bond or the like that it is a port of.
    pub(super) master: Option<u32>,
    /// The index of the other end of a veth pair, in its own namespace.
    pub(super) peer: Option<u32>,
    /// The number that this namespace has for the other end's, unless that is this namespace as well.
    pub(super) peer_netnsid: Option<i32>,
}

/// An address of an interface.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) net: IpNet,
    /// Valid on its own link alone (169.254.0.0/16 counts as global, as in the kernel).
    pub(super) link_local: bool,
    message: AddressMessage,
}

/// A unicast route of the main table.
#[derive(Clone, Debug)]
pub(super) struct RouteEntry {
    pub(super) destination: IpNet,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    /// Each interface that it may leave by.
    pub(super) interfaces: Vec<u32>,
    /// Whether it came about as those of [`Netlink::add_route`] do; what people add by hand counts as of the boot.
    pub(super) is_static: bool,
    message: RouteMessage,
}

/// The kernel's answer to "by which way does a packet to this address leave".
#[derive(Clone, Debug, Default)]
pub(super) struct RouteAnswer {
    pub(super) index: Option<u32>,
    pub(super) source: Option<IpAddr>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) local: bool,
}

impl Netlink {
    pub(super) async fn open(namespace: &Namespace) -> Result<Self, LinkError> {
        let (connection, handle, _) = namespace
            .run(rtnetlink::new_connection)
            .await?
            .map_err(|source| LinkError::Kernel { doing: "open a netlink socket".into(), source })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(super) async fn links(&self) -> Result<Vec<Link>, LinkError> {
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(|message| link_of(&message))
            .try_collect()
            .await
            .map_err(|error| LinkError::netlink("list the interfaces", error))
    }

    pub(super) async fn link_named(&self, name: &str) -> Result<Option<Link>, LinkError> {
        self.one_link(self.handle.link().get().match_name(name), name).await
    }

    pub(super) async fn link_numbered(&self, index: u32) -> Result<Option<Link>, LinkError> {
        self.one_link(self.handle.link().get().match_index(index), &format!("number {index}")).await
    }

    async fn one_link(
        &self,
        request: rtnetlink::LinkGetRequest,
        which: &str,
    ) -> Result<Option<Link>, LinkError> {
        match request.execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(link_of)),
            Err(error) if errno(&error) == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(LinkError::netlink(format!("look at the interface {which}"), error)),
        }
    }

    /// The number that this socket's namespace has for `namespace`, if it has one.
    pub(super) async fn number_of(&self, namespace: &Namespace) -> Result<Option<i32>, LinkError> {
        let doing = || format!("number the network namespace {}", namespace.path().display());
        let mut message = NsidMessage::default();
        message
            .attributes
            .push(NsidAttribute::Fd(u32::try_from(namespace.as_fd().as_raw_fd()).unwrap_or_default()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut answers =
            self.handle.clone().request(request).map_err(|error| LinkError::netlink(doing(), error))?;
        let mut number = None;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) => {
                    number = message.attributes.iter().find_map(|attribute| match attribute {
                        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                        _ => None,
                    });
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(LinkError::Kernel { doing: doing(), source: error.to_io() });
                }
                _ => {}
            }
        }
        Ok(number)
    }

    /// Makes a veth pair in one step; `peer` is made inside `inside`, or beside the first without it. False
    /// if one of the names is taken.
    pub(super) async fn add_veth(
        &self,
        name: &str,
        peer: &str,
        peer_mac: Option<[u8; 6]>,
        mtu: u32,
        inside: Option<&Namespace>,
    ) -> Result<bool, LinkError> {
        let mut other = LinkMessageBuilder::<LinkUnspec>::new().name(peer).mtu(mtu);
        if let Some(mac) = peer_mac {
            other = other.address(mac.to_vec());
        }
        if let Some(namespace) = inside {
            other = other.setns_by_fd(namespace.as_fd().as_raw_fd());
        }
        let message = LinkVeth::new(name, peer)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other.build())))
            .build();
        match self.handle.link().add(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(nix::libc::EEXIST) => Ok(false),
            Err(error) => Err(LinkError::netlink(format!("make the veth pair {name} and {peer}"), error)),
        }
    }

    /// Makes a `vxlan` device for tunnels of all VNIs that it is told of, and tells it of none (since Linux 5.18). It is no error
    /// if the name is taken.
    pub(super) async fn add_vxlan(&self, name: &str, port: u16) -> Result<(), LinkError> {
        let message =
            LinkVxlan::new(name, 0).collect_metadata(true).vnifilter(true).learning(false).port(port);
        match self.handle.link().add(message.build()).execute().await {
            Err(error) if errno(&error) != Some(nix::libc::EEXIST) => {
                Err(LinkError::netlink(format!("make the vxlan device {name}"), error))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn delete_link(&self, index: u32, name: &str) -> Result<(), LinkError> {
        match self.handle.link().del(index).execute().await {
            Err(error) if errno(&error) != Some(nix::libc::ENODEV) => {
                Err(LinkError::netlink(format!("remove the interface {name}"), error))
            }
            _ => Ok(()),
        }
    }

    /// Sets what differs from `link`: each of these that is given.
    pub(super) async fn shape(
        &self,
        link: &Link,
        mac: Option<[u8; 6]>,
        mtu: u32,
        alias: Option<&str>,
    ) -> Result<(), LinkError> {
        if let Some(mac) = mac.filter(|mac| link.mac != Some(*mac)) {
            self.change(link, "set the MAC address of", |builder| builder.address(mac.to_vec())).await?;
        }
        if link.mtu != mtu {
            self.change(link, &format!("set an MTU of {mtu} on"), |builder| builder.mtu(mtu)).await?;
        }
        if let Some(alias) = alias.filter(|alias| link.alias.as_deref() != Some(alias)) {
            self.change(link, "set the alias of", |builder| builder.alias(alias)).await?;
        }
        Ok(())
    }

    /// Lets no frame that stands for many, and is still to be cut (GSO), be so long that a tunnel around it overflows the
    /// length fields of its outer headers: one that is cut by nobody, because it never meets a card, would be lost. A
    /// kernel that refuses goes without, for most frames are shorter.
    pub(super) async fn limit_aggregates(&self, link: &Link) {
        if link.aggregates.iter().flatten().all(|bytes| *bytes <= LONGEST_AGGREGATE) {
            return;
        }
        let [_, of_ipv4] = link.aggregates;
        let limited = self.change(link, "limit the aggregates of", |builder| {
            let builder = builder.append_extra_attribute(LinkAttribute::GsoMaxSize(LONGEST_AGGREGATE));
            // Linux 6.3 and later tell the families apart.
            match of_ipv4 {
                Some(_) => builder.append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(LONGEST_AGGREGATE)),
                None => builder,
            }
        });
        if let Err(error) = limited.await {
            tracing::debug!(%error, "aggregates may grow longer than a tunnel around them can tell");
        }
    }

    /// Sets it up if it is not.
    pub(super) async fn raise(&self, link: &Link) -> Result<(), LinkError> {
        if link.up {
            return Ok(());
        }
        self.change(link, "set up", LinkMessageBuilder::up).await
    }

    async fn change(
        &self,
        link: &Link,
        doing: &str,
        build: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), LinkError> {
        self.handle
            .link()
            .change(build(LinkUnspec::new_with_index(link.index)).build())
            .execute()
            .await
            .map_err(|error| LinkError::netlink(format!("{doing} the interface {}", link.name), error))
    }

    pub(super) async fn addresses(&self) -> Result<Vec<Address>, LinkError> {
        self.handle
            .address()
            .get()
            .execute()
            .try_filter_map(|message| async { Ok(address_of(message)) })
            .try_collect()
            .await
            .map_err(|error| LinkError::netlink("list the addresses", error))
    }

    /// Makes `wanted` the only addresses of `link` besides its link-local one.
    pub(super) async fn ensure_addresses(&self, link: &Link, wanted: &[IpNet]) -> Result<(), LinkError> {
        let stray = |address: &Address| {
            address.index == link.index && !address.link_local && !wanted.contains(&address.net)
        };
        for address in self.addresses().await?.into_iter().filter(stray) {
            match self.handle.address().del(address.message).execute().await {
                // The kernel takes an address's secondaries away with it.
                Err(error) if errno(&error) != Some(nix::libc::EADDRNOTAVAIL) => {
                    return Err(LinkError::netlink(
                        format!("take {} from the interface {}", address.net, link.name),
                        error,
                    ));
                }
                _ => {}
            }
        }
        let present = self.addresses().await?;
        for net in wanted {
            if present.iter().any(|address| address.index == link.index && address.net == *net) {
                continue;
            }
            let mut request = self.handle.address().add(link.index, net.addr(), net.prefix_len());
            if net.addr().is_ipv6() {
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            request.execute().await.map_err(|error| {
                LinkError::netlink(format!("give {net} to the interface {}", link.name), error)
            })?;
        }
        Ok(())
    }

    /// The unicast routes of the main table, of one family.
    pub(super) async fn routes(&self, ipv6: bool) -> Result<Vec<RouteEntry>, LinkError> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        self.handle
            .route()
            .get(filter)
            .execute()
            .try_filter_map(|message| async move { Ok(route_of(message, ipv6)) })
            .try_collect()
            .await
            .map_err(|error| LinkError::netlink("list the routes", error))
    }

    /// Adds a route, unless one of the same destination and metric is there: then false.
    pub(super) async fn add_route(
        &self,
        link: &Link,
        destination: IpNet,
        gateway: Option<IpAddr>,
        source: Option<IpAddr>,
    ) -> Result<bool, LinkError> {
        let mut builder = RouteMessageBuilder::<IpAddr>::new().output_interface(link.index);
        let message = builder.get_mut();
        message.header.address_family =
            if destination.addr().is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.destination_prefix_length = destination.prefix_len();
        if destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(destination.addr().into()));
        }
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        } else if destination.addr().is_ipv4() {
            message.header.scope = netlink_packet_route::route::RouteScope::Link;
        }
        if let Some(source) = source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        match self.handle.route().add(builder.build()).execute().await {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(nix::libc::EEXIST) => Ok(false),
            Err(error) => Err(LinkError::netlink(
                format!("add a route to {destination} by the interface {}", link.name),
                error,
            )),
        }
    }

    pub(super) async fn delete_route(&self, route: &RouteEntry) -> Result<(), LinkError> {
        match self.handle.route().del(route.message.clone()).execute().await {
            Err(error) if errno(&error) != Some(nix::libc::ESRCH) => {
                Err(LinkError::netlink(format!("remove the route to {}", route.destination), error))
            }
            _ => Ok(()),
        }
    }

    /// Makes `address` a permanent neighbour on `link`.
    pub(super) async fn ensure_neighbour(
        &self,
        link: &Link,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), LinkError> {
        let neighbours: Vec<_> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| LinkError::netlink("list the neighbours", error))?;
        let right = neighbours.iter().any(|message| {
            message.header.ifindex == link.index
                && message.header.state == NeighbourState::Permanent
                && message.attributes.iter().any(|attribute| match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address == *v4,
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address == *v6,
                    _ => false,
                })
                && message.attributes.iter().any(|attribute| {
                    matches!(attribute, NeighbourAttribute::LinkLayerAddress(bytes) if *bytes == mac)
                })
        });
        if right {
            return Ok(());
        }
        self.handle
            .neighbours()
            .add(link.index, address)
            .link_layer_address(&mac)
            .replace()
            .execute()
            .await
            .map_err(|error| {
                LinkError::netlink(format!("set the neighbour {address} on {}", link.name), error)
            })
    }

    /// Asks the kernel for the way to `address`; none if it has none.
    pub(super) async fn route_to(&self, address: IpAddr) -> Result<Option<RouteAnswer>, LinkError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut builder = RouteMessageBuilder::<IpAddr>::new();
        let message = builder.get_mut();
        message.header = RouteHeader {
            address_family: if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
            destination_prefix_length: prefix,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Destination(address.into()));
        match self.handle.route().get(builder.build()).execute().try_next().await {
            Ok(message) => Ok(message.map(|message| answer_of(&message))),
            Err(error)
                if matches!(
                    errno(&error),
                    Some(
                        nix::libc::ENETUNREACH
                            | nix::libc::EHOSTUNREACH
                            | nix::libc::EACCES
                            | nix::libc::EINVAL
                    )
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(LinkError::netlink(format!("ask for the route to {address}"), error)),
        }
    }
}

/// The error number in a netlink error, positive.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => io::Error::raw_os_error(&message.to_io()),
        _ => None,
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::GsoMaxSize(bytes) => link.aggregates[0] = Some(*bytes),
            LinkAttribute::GsoIpv4MaxSize(bytes) => link.aggregates[1] = Some(*bytes),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(*id),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(data)) => {
                            link.vxlan_port = data.iter().find_map(|datum| match datum {
                                InfoVxlan::Port(port) => Some(*port),
                                _ => None,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

impl Link {
    pub(super) fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some(InfoKind::Veth.to_string().as_str())
    }

    pub(super) fn is_vxlan(&self) -> bool {
        self.kind.as_deref() == Some(InfoKind::Vxlan.to_string().as_str())
    }
}

fn address_of(message: AddressMessage) -> Option<Address> {
    // The local address is what a point-to-point interface has; elsewhere both are the same.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some(Address {
        index: message.header.index,
        net: IpNet::new(local.or(any)?, message.header.prefix_len).ok()?,
        link_local: message.header.scope == AddressScope::Link,
        message,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn route_of(message: RouteMessage, ipv6: bool) -> Option<RouteEntry> {
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(message.header.table.into());
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || message.header.kind != RouteType::Unicast {
        return None;
    }
    let any: IpAddr =
        if ipv6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() };
    let mut destination = any;
    let (mut gateway, mut source, mut interfaces) = (None, None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address)?,
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    Some(RouteEntry {
        destination: IpNet::new(destination, message.header.destination_prefix_length).ok()?,
        gateway,
        source,
        interfaces,
        is_static: message.header.protocol == RouteProtocol::Static,
        message,
    })
}

fn answer_of(message: &RouteMessage) -> RouteAnswer {
    let mut answer = RouteAnswer { local: message.header.kind == RouteType::Local, ..RouteAnswer::default() };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => answer.index = Some(*index),
            RouteAttribute::PrefSource(address) => answer.source = ip_of(address),
            RouteAttribute::Gateway(address) => answer.gateway = ip_of(address),
            RouteAttribute::Metrics(metrics) => {
                answer.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    answer
}
