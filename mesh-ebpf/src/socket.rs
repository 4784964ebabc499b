//! The socket hooks: a local process that dials a published port of its own node is sent to the host alias, and never
//! learns of it.

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, bpf_sock_addr},
    cty::c_void,
    helpers,
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use mesh_common::abi::{Address, Dialled, DialledKey, Family, ServiceKey, Shortage, host_alias, local_flags};

use crate::{maps, observe};

/// The cookie of the network namespace that the agent serves: cgroups know nothing of namespaces. Set at load.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// The loopback address of IPv6, `::1`.
const LOOPBACK_V6: Address = Address::from_v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// What a socket hook says: go on.
const PROCEED: i32 = 1;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// `connect` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    dial(context.sock_addr, Family::V4)
}

/// `connect` on an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    dial(context.sock_addr, Family::V6)
}

/// `sendto` and `sendmsg` on an IPv4 UDP socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(context: SockAddrContext) -> i32 {
    dial(context.sock_addr, Family::V4)
}

/// `sendto` and `sendmsg` on an IPv6 UDP socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(context: SockAddrContext) -> i32 {
    dial(context.sock_addr, Family::V6)
}

/// `recvfrom` and `recvmsg` on an IPv4 UDP socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V4)
}

/// `recvfrom` and `recvmsg` on an IPv6 UDP socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V6)
}

/// `getpeername` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V4)
}

/// `getpeername` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V6)
}

/// Sends a socket that dials a published port of this node to the alias.
#[inline(always)]
fn dial(socket: *mut bpf_sock_addr, family: Family) -> i32 {
    if !is_ours(socket) {
        return PROCEED;
    }
    // SAFETY: the pointer is the hook's context.
    let protocol = unsafe { (*socket).protocol };
    if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP {
        return PROCEED;
    }
    let address = address(socket, family);
    let port = port(socket);
    // Any loopback address is the node's own, and no wire's.
    let is_loopback = match address.family() {
        Family::V4 => address.v4_octets()[0] == 127,
        Family::V6 => address == LOOPBACK_V6,
    };
    // SAFETY: see `tables`.
    let local = unsafe { maps::LOCALS.get(address) }.copied().unwrap_or_default();
    let serves = is_loopback || local.flags & local_flags::SERVES != 0;
    let mut key =
        ServiceKey { address, scope: 0, port, protocol: protocol as u8, family: address.family() as u8 };
    // As the pipeline has it: what is published at this very address comes before what is on every one.
    let alias = if local.flags & local_flags::OWN != 0 && has_backend(&key) {
        host_alias(address.family(), local.alias)
    } else {
        key.address = Address::UNSPECIFIED;
        if !serves || !has_backend(&key) {
            return PROCEED;
        }
        host_alias(address.family(), 0)
    };
    let dialled = Dialled { address };
    // Full: the socket works all the same, but sees the alias as its peer.
    if maps::DIALLED.insert(dialled_key(socket, port, alias), dialled, u64::from(BPF_ANY)).is_err() {
        observe::count_shortage(Shortage::Dialled);
    }
    set_address(socket, family, alias);
    PROCEED
}

/// Whether a port is published and has a backend: without one of this family the dialler is refused at once, and tries
/// the other family.
#[inline(always)]
fn has_backend(key: &ServiceKey) -> bool {
    // SAFETY: see `tables`.
    unsafe { maps::SERVICES.get(key) }.is_some_and(|service| service.slots != 0)
}

/// Shows a socket the address that it dialled in the place of the alias.
#[inline(always)]
fn restore(socket: *mut bpf_sock_addr, family: Family) -> i32 {
    if !is_ours(socket) {
        return PROCEED;
    }
    let alias = address(socket, family);
    if !alias.is_host_alias() {
        return PROCEED;
    }
    // SAFETY: see `tables`.
    if let Some(dialled) = unsafe { maps::DIALLED.get(dialled_key(socket, port(socket), alias)) } {
        set_address(socket, family, dialled.address);
    }
    PROCEED
}

#[inline(always)]
fn is_ours(socket: *mut bpf_sock_addr) -> bool {
    // SAFETY: the pointer is the hook's context.
    unsafe { helpers::generated::bpf_get_netns_cookie(socket.cast::<c_void>()) == NETNS_COOKIE.load() }
}

#[inline(always)]
fn dialled_key(socket: *mut bpf_sock_addr, port: [u8; 2], alias: Address) -> DialledKey {
    DialledKey {
        // SAFETY: the pointer is the hook's context.
        cookie: unsafe { helpers::generated::bpf_get_socket_cookie(socket.cast::<c_void>()) },
        port,
        family: alias.family() as u8,
        reserved: [0; 5],
    }
}

#[inline(always)]
fn port(socket: *mut bpf_sock_addr) -> [u8; 2] {
    // SAFETY: the pointer is the hook's context. The field holds the port in network byte order in its first bytes.
    let [a, b, ..] = unsafe { (*socket).user_port }.to_ne_bytes();
    [a, b]
}

#[inline(always)]
fn address(socket: *mut bpf_sock_addr, family: Family) -> Address {
    // SAFETY: the pointer is the hook's context, and its family that of the hook.
    unsafe {
        match family {
            Family::V4 => Address::from_v4((*socket).user_ip4.to_ne_bytes()),
            Family::V6 => {
                let words = &raw const (*socket).user_ip6;
                let half = |first: usize| {
                    let (a, b) = ((*words)[first], (*words)[first + 1]);
                    u64::from(a) | u64::from(b) << 32
                };
                Address([half(0), half(2)])
            }
        }
    }
}

#[inline(always)]
fn set_address(socket: *mut bpf_sock_addr, family: Family, address: Address) {
    // SAFETY: the pointer is the hook's context, and its family that of the hook. The verifier takes only whole words.
    unsafe {
        match family {
            Family::V4 => (*socket).user_ip4 = u32::from_ne_bytes(address.v4_octets()),
            Family::V6 => {
                let words = &raw mut (*socket).user_ip6;
                let [high, low] = address.0;
                (&raw mut (*words)[0]).write_volatile(high as u32);
                (&raw mut (*words)[1]).write_volatile((high >> 32) as u32);
                (&raw mut (*words)[2]).write_volatile(low as u32);
                (&raw mut (*words)[3]).write_volatile((low >> 32) as u32);
            }
        }
    }
}
