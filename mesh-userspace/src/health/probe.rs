//! One check, from within the task's own network namespace: nothing of the data plane has a part in it.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    checks::{Begun, Outcome, Target},
    command, http,
};
use crate::{
    links::{LinkError, Links, Namespace, Visitor, cookie_here},
    table::{Period, Probe},
};

/// How long the namespace may take that is entered, and the program that is started in it, before the check itself begins.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who goes into tasks' namespaces.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    sockets: Visitor,
    /// A program may take its time to be loaded, which is not to hold up the sockets.
    commands: Visitor,
}

impl Prober {
    /// From the calling thread's namespace.
    ///
    /// # Errors
    /// When there are no threads to be had.
    pub(super) fn new() -> Result<Self, LinkError> {
        Ok(Self { sockets: Visitor::new("checks")?, commands: Visitor::new("check-commands")? })
    }

    /// Checks a task.
    pub(super) async fn check(&self, begun: &Begun) -> Outcome {
        match timeout(PATIENCE, self.enter(begun)).await {
            Ok(Ok((task, entered))) => {
                let verdict = match entered {
                    Ok(entered) => entered.verdict(&begun.target).await,
                    Err(why) => Err(why),
                };
                Outcome { task: Some(task), failure: verdict.err() }
            }
            Ok(Err(error)) => Outcome { task: None, failure: Some(error.to_string()) },
            Err(_) => {
                let why = format!("{} could not be entered in time", begun.target.netns.display());
                Outcome { task: None, failure: Some(why) }
            }
        }
    }

    /// Goes into the task's namespace; the number of that, and what was begun there or why it could not be.
    async fn enter(&self, begun: &Begun) -> Result<(u64, Result<Entered, String>), LinkError> {
        let target = &begun.target;
        let namespace = Namespace::open(&target.netns)?;
        if begun.is_doubtful {
            // A namespace that nobody has done that in reaches none of its own addresses.
            Links::of(namespace.clone()).await?.raise_loopback().await?;
        }
        let (visitor, work): (_, Box<dyn FnOnce() -> io::Result<Entered> + Send>) = match &target.check.probe
        {
            Probe::Http { .. } | Probe::Tcp { .. } => {
                let is_v4 = target.address.is_ipv4();
                let socket = move || if is_v4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
                (&self.sockets, Box::new(move || socket().map(Entered::Socket)))
            }
            Probe::Command(words) => {
                let words = words.clone();
                let environment = [
                    ("MESH_ENDPOINT", begun.endpoint.clone()),
                    ("MESH_SERVICE", target.service.clone()),
                    ("MESH_ADDRESS", target.address.to_string()),
                ];
                (
                    &self.commands,
                    Box::new(move || {
                        command::start(&words, &environment).map(Box::new).map(Entered::Command)
                    }),
                )
            }
        };
        let (cookie, entered) = visitor.visit(namespace, move || (cookie_here(), work())).await?;
        let cookie = cookie.map_err(|source| LinkError::Kernel {
            doing: format!("ask for the cookie of the network namespace {}", target.netns.display()),
            source,
        })?;
        let refused = |error: io::Error| match &target.check.probe {
            Probe::Command(words) => {
                format!("{} could not be started: {error}", words.first().map_or("", String::as_str))
            }
            Probe::Http { .. } | Probe::Tcp { .. } => format!("there was no socket to be had: {error}"),
        };
        Ok((cookie, entered.map_err(refused)))
    }
}

/// What was begun in a namespace.
enum Entered {
    Socket(TcpSocket),
    Command(Box<command::Running>),
}

impl Entered {
    /// # Errors
    /// Why the task is not well, without a full stop.
    async fn verdict(self, target: &Target) -> Result<(), String> {
        let most = target.check.timeout;
        match (self, &target.check.probe) {
            (Self::Socket(socket), Probe::Tcp { port }) => {
                let to = SocketAddr::new(target.address, port.get());
                within(most, connect(socket, to)).await.unwrap_or_else(|| Err(no_connection(to, most)))?;
                Ok(())
            }
            (Self::Socket(socket), Probe::Http { port, path }) => {
                let to = SocketAddr::new(target.address, port.get());
                let mut is_connected = false;
                let asking = async {
                    let stream = connect(socket, to).await?;
                    is_connected = true;
                    http::get(stream, to, path).await
                };
                within(most, asking).await.unwrap_or_else(|| {
                    Err(match is_connected {
                        true => format!("GET {path} on {to} was not answered within {most}"),
                        false => no_connection(to, most),
                    })
                })
            }
            (Self::Command(running), Probe::Command(words)) => {
                let program = words.first().map_or("", String::as_str);
                within(most, running.end(program))
                    .await
                    .unwrap_or_else(|| Err(format!("{program} did not end within {most}, and was killed")))
            }
            // What was begun follows from the same probe.
            (Self::Socket(_) | Self::Command(_), _) => Err("it was checked in another way".to_owned()),
        }
    }
}

async fn within<T>(most: Period, work: impl Future<Output = T>) -> Option<T> {
    timeout(most.get(), work).await.ok()
}

async fn connect(socket: TcpSocket, to: SocketAddr) -> Result<TcpStream, String> {
    socket.connect(to).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("nothing listens on {to}"),
        _ => format!("no connection to {to} could be made: {error}"),
    })
}

fn no_connection(to: SocketAddr, most: Period) -> String {
    format!("no connection to {to} was taken within {most}")
}
