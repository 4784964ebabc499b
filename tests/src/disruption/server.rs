//! The tasks' servers: each line by TCP and each datagram by UDP is answered with the task's name and the same text; and
//! whoever connects to another port gets the task's name and then bytes without end.

use std::{
    io,
    net::{Ipv6Addr, TcpListener, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net,
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinSet,
};

use super::download::byte_at;
use crate::lab::Host;

/// The port that every task listens on, by TCP and UDP.
pub(super) const PORT: u16 = 7;

/// The port by which every task has bytes to download.
pub(super) const DOWNLOADS: u16 = 19;

/// What is sent at once of a download, in bytes.
const PIECE: u64 = 16 * 1024;

/// One thread that serves all tasks: their sockets are in their namespaces, which is what matters.
#[derive(Debug)]
pub(super) struct Servers(Runtime);

/// A task's server; it ends when this value is dropped, with all of its connections.
#[derive(Debug)]
pub(super) struct Server {
    work: JoinSet<()>,
    /// Closed when all has ended.
    ended: mpsc::Receiver<()>,
}

impl Servers {
    pub(super) fn new() -> Result<Self> {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("servers").enable_all().build();
        Ok(Self(runtime.context("cannot start the servers' thread")?))
    }

    /// Starts the server of a task, by both families.
    pub(super) fn serve(&self, host: &Host) -> Result<Server> {
        let listen = |port| -> io::Result<TcpListener> {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let sockets = host.namespace.inside(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
            socket.set_nonblocking(true)?;
            io::Result::Ok((listen(PORT)?, listen(DOWNLOADS)?, socket))
        })?;
        let (lines, downloads, socket) = sockets
            .with_context(|| format!("{} cannot listen on ports {PORT} and {DOWNLOADS}", host.name()))?;
        let _context = self.0.enter();
        let mut work = JoinSet::new();
        let (alive, ended) = mpsc::channel(1);
        let name = || host.name().to_owned();
        work.spawn(accept(net::TcpListener::from_std(lines)?, name(), alive.clone(), answer_lines));
        work.spawn(accept(net::TcpListener::from_std(downloads)?, name(), alive, pour));
        work.spawn(answer_datagrams(net::UdpSocket::from_std(socket)?, name()));
        Ok(Server { work, ended })
    }
}

impl Servers {
    /// Ends a server, and waits until all of its connections are closed.
    pub(super) fn stop(&self, mut server: Server) {
        server.work.abort_all();
        // Nothing is ever said there.
        let _ = self.0.block_on(server.ended.recv());
    }
}

async fn accept<W>(
    listener: net::TcpListener,
    name: String,
    alive: mpsc::Sender<()>,
    work: impl Fn(net::TcpStream, String) -> W,
) where
    W: Future<Output = ()> + Send + 'static,
{
    // Dropped with the listener, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (work, alive) = (work(stream, name.clone()), alive.clone());
                connections.spawn(async move {
                    work.await;
                    drop(alive);
                });
                while connections.try_join_next().is_some() {}
            }
            // A client that is gone again, or no descriptor left for a while.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer_lines(stream: net::TcpStream, name: String) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::with_capacity(128, reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if writer.write_all(format!("{name} {line}\n").as_bytes()).await.is_err() {
            break;
        }
    }
}

/// About 16 MB a second: the rest of the machine is for what is measured.
async fn pour(mut stream: net::TcpStream, name: String) {
    if stream.write_all(format!("{name}\n").as_bytes()).await.is_err() {
        return;
    }
    let mut place = 0;
    loop {
        let piece: Vec<_> = (place..place + PIECE).map(byte_at).collect();
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        place += PIECE;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn answer_datagrams(socket: net::UdpSocket, name: String) {
    let mut datagram = [0; 128];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { continue };
        let text = String::from_utf8_lossy(datagram.get(..length).unwrap_or_default());
        // A client that is gone already needs no answer.
        let _ = socket.send_to(format!("{name} {text}").as_bytes(), client).await;
    }
}
