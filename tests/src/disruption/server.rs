//! The tasks' servers: each line by TCP and each datagram by UDP is answered with the task's name and the same text.

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
    task::JoinSet,
};

use crate::lab::Host;

/// The port that every task listens on, by TCP and UDP.
pub(super) const PORT: u16 = 7;

/// One thread that serves all tasks: their sockets are in their namespaces, which is what matters.
#[derive(Debug)]
pub(super) struct Servers(Runtime);

/// A task's server; gone when this value is dropped, with all of its connections.
#[derive(Debug)]
pub(super) struct Server {
    _work: JoinSet<()>,
}

impl Servers {
    pub(super) fn new() -> Result<Self> {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("servers").enable_all().build();
        Ok(Self(runtime.context("cannot start the servers' thread")?))
    }

    /// Starts the server of a task, by both families.
    pub(super) fn serve(&self, host: &Host) -> Result<Server> {
        let any = (Ipv6Addr::UNSPECIFIED, PORT);
        let sockets = host.namespace.inside(|| io::Result::Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        let (listener, socket) =
            sockets.with_context(|| format!("{} cannot listen on port {PORT}", host.name()))?;
        listener.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let _context = self.0.enter();
        let (listener, socket) = (net::TcpListener::from_std(listener)?, net::UdpSocket::from_std(socket)?);
        let mut work = JoinSet::new();
        work.spawn(accept(listener, host.name().to_owned()));
        work.spawn(answer_datagrams(socket, host.name().to_owned()));
        Ok(Server { _work: work })
    }
}

async fn accept(listener: net::TcpListener, name: String) {
    // Dropped with the listener, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(answer_lines(stream, name.clone()));
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

async fn answer_datagrams(socket: net::UdpSocket, name: String) {
    let mut datagram = [0; 128];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { continue };
        let text = String::from_utf8_lossy(datagram.get(..length).unwrap_or_default());
        // A client that is gone already needs no answer.
        let _ = socket.send_to(format!("{name} {text}").as_bytes(), client).await;
    }
}
