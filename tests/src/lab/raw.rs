//! Frames as no kernel would send them, and what is seen on an interface.

use std::{
    mem::size_of,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
            sockopt,
        },
        time::TimeVal,
    },
};

use super::host::Host;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens one on an interface of a host.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn open(host: &Host, interface: &str) -> Result<Self> {
        host.namespace.inside(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            let index = if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
            // SAFETY: all fields of sockaddr_ll are integers or arrays of them, for which zero is a value.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = i32::try_from(index)?;
            let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the address is a whole sockaddr_ll of the length given, alive during the call.
            let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            Errno::result(bound).with_context(|| format!("cannot bind to {interface}"))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000))?;
            Ok(Self(socket))
        })?
    }

    /// Sends a whole frame, from the destination's MAC address on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The first frame, sent or received, of which this is true, within the time.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn receive(&self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let start = Instant::now();
        let mut frame = vec![0; 65536];
        while start.elapsed() < timeout {
            match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) if wanted(&frame[..length]) => return Ok(Some(frame[..length].to_vec())),
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}
