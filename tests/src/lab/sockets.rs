//! Small clients and servers in this process whose sockets are in a namespace: fast enough for thousands of
//! flows, and exact about source ports.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, setsockopt, socket,
        sockopt,
    },
};

use super::host::Host;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// For how long a transfer may stand still.
const TRANSFER: Duration = Duration::from_secs(5);

/// A thread that answers datagrams.
#[derive(Debug)]
struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    fn start(
        host: &Host,
        address: SocketAddr,
        answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> Result<Self> {
        let socket = host.namespace.inside(|| UdpSocket::bind(address))?;
        let socket = socket.with_context(|| format!("{} cannot bind {address}", host.name()))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut datagram = vec![0; 65536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
                // A client that is gone already needs no answer.
                let _ = socket.send_to(&answer(&datagram[..length]), client);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server that answers each datagram with its host's name.
#[derive(Debug)]
pub struct NameServer(#[expect(dead_code, reason = "held for what its end does")] Responder);

impl NameServer {
    /// Starts it.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let name = host.name().as_bytes().to_vec();
        Responder::start(host, address, move |_| name.clone()).map(Self)
    }
}

/// A server that answers each datagram with the same bytes.
#[derive(Debug)]
pub struct UdpEcho(#[expect(dead_code, reason = "held for what its end does")] Responder);

impl UdpEcho {
    /// Starts it.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        Responder::start(host, address, <[u8]>::to_vec).map(Self)
    }
}

/// A server that sends back what each connection brings, for as long as that lasts.
#[derive(Debug)]
pub struct TcpEcho {
    address: SocketAddr,
    namespace: super::Namespace,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Starts it.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.namespace.inside(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("{} cannot bind {address}", host.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(mut connection) = connection else { continue };
                // It ends with its connection, and that with its client.
                thread::spawn(move || {
                    let _ =
                        connection.try_clone().and_then(|mut back| std::io::copy(&mut connection, &mut back));
                });
            }
        });
        Ok(Self { address, namespace: host.namespace.reopen()?, stop, thread: Some(thread) })
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It waits for a connection: the last one.
        let woken = self.namespace.inside(|| TcpStream::connect_timeout(&self.address, PATIENCE));
        if let Some(thread) = self.thread.take()
            && matches!(woken, Ok(Ok(_)))
        {
            let _ = thread.join();
        }
    }
}

/// A port at every address of a family.
pub(super) fn any(family: SocketAddr, port: u16) -> SocketAddr {
    let address: IpAddr = if family.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    SocketAddr::new(address, port)
}

/// Sends one datagram from each of the ports, a flow each, and returns the answers as text.
///
/// # Errors
/// If one is not answered.
pub fn ask_udp(
    host: &Host,
    server: SocketAddr,
    ports: impl Iterator<Item = u16> + Send,
) -> Result<Vec<String>> {
    host.namespace.inside(|| {
        ports
            .map(|port| {
                let socket = UdpSocket::bind(any(server, port))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.connect(server)?;
                socket.send(b"who?")?;
                let mut answer = [0; 512];
                let length = socket.recv(&mut answer).with_context(|| format!("no answer to port {port}"))?;
                Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
            })
            .collect()
    })?
}

/// Asks a web server for `/` over a connection from each of the ports and returns the answers' first words.
///
/// # Errors
/// If one is not answered.
pub fn ask_tcp(
    host: &Host,
    server: SocketAddr,
    ports: impl Iterator<Item = u16> + Send,
) -> Result<Vec<String>> {
    host.namespace.inside(|| {
        ports
            .map(|port| {
                let mut stream = connected(any(server, port), server)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).with_context(|| format!("no answer to port {port}"))?;
                let (_, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
                Ok(body.split_whitespace().next().unwrap_or_default().to_owned())
            })
            .collect()
    })?
}

/// A connection from a port of one's choice, which may be one that was used a moment ago.
fn connected(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = tcp_socket(to, SockFlag::empty())?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // The end of a connection frees its port at once.
    setsockopt(&socket, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    setsockopt(&socket, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(2, 0))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
        .with_context(|| format!("cannot connect to {to} from port {}", from.port()))?;
    Ok(TcpStream::from(socket))
}

fn tcp_socket(to: SocketAddr, flags: SockFlag) -> Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)?)
}

/// Tries to connect to each address at once and returns those that answered, be it by refusing, within the time.
///
/// # Errors
/// If a socket cannot be made.
pub fn reachable_tcp(host: &Host, servers: &[SocketAddr], timeout: Duration) -> Result<Vec<SocketAddr>> {
    host.namespace.inside(|| {
        let mut waiting = Vec::new();
        let mut found = Vec::new();
        for &server in servers {
            let socket = tcp_socket(server, SockFlag::SOCK_NONBLOCK)?;
            match connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
                Err(Errno::EINPROGRESS) => waiting.push((server, socket)),
                Ok(()) | Err(Errno::ECONNREFUSED) => found.push(server),
                // No route: nothing was sent.
                Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot try {server}")),
            }
        }
        thread::sleep(timeout);
        for (server, socket) in waiting {
            let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut polled, PollTimeout::ZERO)? == 1 {
                // Unreachable, as a router or the node says, is not an answer of a host that was found.
                let error = TcpStream::from(socket).take_error()?;
                let refused = error.as_ref().is_some_and(|e| e.kind() == ErrorKind::ConnectionRefused);
                if error.is_none() || refused {
                    found.push(server);
                }
            }
        }
        Ok(found)
    })?
}

/// Sends so many bytes to a server that echoes them, checks that the same come back, and returns how long the connection's
/// segments were at most.
///
/// # Errors
/// If they do not, or if nothing moves for five seconds.
pub fn tcp_round_trip(host: &Host, server: SocketAddr, bytes: usize) -> Result<u32> {
    let stream = host.namespace.inside(|| TcpStream::connect_timeout(&server, PATIENCE))?;
    let mut stream = stream.with_context(|| format!("{} cannot connect to {server}", host.name()))?;
    let segment = getsockopt(&stream, sockopt::TcpMaxSeg)?;
    stream.set_read_timeout(Some(TRANSFER))?;
    stream.set_write_timeout(Some(TRANSFER))?;
    let sent: Vec<u8> = (0..bytes as u64 / 8)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
        .collect();
    let mut writing = stream.try_clone()?;
    let mut received = Vec::with_capacity(sent.len());
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| {
            writing.write_all(&sent)?;
            writing.shutdown(std::net::Shutdown::Write)
        });
        let read = stream.read_to_end(&mut received);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.with_context(|| format!("sending to {server}"))?;
        read.map(drop).with_context(|| format!("{} bytes came back from {server}", received.len()))
    })?;
    ensure!(sent == received, "{} bytes from {server} came back changed", received.len());
    Ok(segment)
}

/// Sends a datagram of each size to an echo server and checks that the same bytes come back.
///
/// # Errors
/// At the first size that does not.
pub fn udp_round_trip(
    host: &Host,
    server: SocketAddr,
    sizes: impl Iterator<Item = usize> + Send,
) -> Result<()> {
    host.namespace.inside(|| {
        let socket = UdpSocket::bind(any(server, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        if server.is_ipv6() {
            // What does not fit is not to be fragmented on the quiet.
            setsockopt(&socket, sockopt::Ipv6DontFrag, &true)?;
        }
        socket.connect(server)?;
        let mut answer = vec![0; 65536];
        for size in sizes {
            let datagram: Vec<u8> = (0..size).map(|position| (position * 31 + size) as u8).collect();
            socket.send(&datagram).with_context(|| format!("cannot send {size} bytes to {server}"))?;
            // What does not fit is not to be fragmented on the quiet.
            if server.is_ipv4() {
                let mtu = getsockopt(&socket, sockopt::IpMtu)?;
                ensure!(size + 28 <= usize::try_from(mtu)?, "{size} bytes to {server}: the MTU is {mtu}");
            }
            let length =
                socket.recv(&mut answer).with_context(|| format!("{size} bytes to {server}: lost"))?;
            ensure!(
                answer[..length] == datagram,
                "{size} bytes to {server} came back changed ({length} bytes)"
            );
        }
        Ok(())
    })?
}

/// Sends datagrams of `size` bytes in one piece, which stands for all of them until something cuts it, and checks that
/// `receiver`, which has the address, gets each of them.
///
/// # Errors
/// If one does not arrive as it was.
pub fn udp_in_one_piece(
    sender: &Host,
    receiver: &Host,
    address: SocketAddr,
    size: u16,
    count: usize,
) -> Result<()> {
    let listening = receiver.namespace.inside(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        setsockopt(&socket, sockopt::RcvBufForce, &4_000_000)?;
        Ok(socket)
    })??;
    let piece: Vec<u8> = (0..usize::from(size) * count).map(|position| (position / 7) as u8).collect();
    sender.namespace.inside(|| -> Result<()> {
        let socket = UdpSocket::bind(any(address, 0))?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(size))?;
        socket.connect(address)?;
        let sent = socket.send(&piece).with_context(|| format!("cannot send {count} times {size} bytes"))?;
        ensure!(sent == piece.len(), "{sent} of {} bytes were sent", piece.len());
        Ok(())
    })??;
    let mut datagram = vec![0; 65536];
    for (number, expected) in piece.chunks(usize::from(size)).enumerate() {
        let length = listening
            .recv(&mut datagram)
            .with_context(|| format!("{address}: {number} of {count} times {size} bytes arrived"))?;
        ensure!(
            datagram[..length] == *expected,
            "{address}: number {number} of {size} bytes arrived changed"
        );
    }
    Ok(())
}
