//! The sockets at the gateways, and the thread that answers on them.
//!
//! It is one thread of its own, so that whatever else the daemon does keeps no question waiting, and one core is all that
//! questions can take.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
    task::{AbortHandle, JoinSet, LocalSet},
};

use super::{
    answer::{Asker, Reaction, react},
    forward::Forwarder,
    names::Names,
    random::Random,
    stream,
};
use crate::{
    links::{LinkError, Namespace, NamespaceId},
    problem::Problem,
};

/// DNS's port.
const PORT: u16 = 53;
/// Bytes of the longest question that is read by UDP. One has a name of at most 255 bytes and a few options.
const LONGEST_QUESTION: usize = 4096;
/// Bytes of questions that wait while others are answered: some thousands.
const WAITING: usize = 4 << 20;
/// How many questions of one gateway may be with the host's resolvers at once, so that one network's leave room for others'.
const MOST_FORWARDED: usize = 64;
/// The pause after the kernel refused a socket something that another time may give.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a network's gateway answers.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// The namespace that has its addresses.
    pub(crate) namespace: Namespace,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A place that is answered at: a network's gateway, by one of its addresses.
type Place = (String, IpAddr);

/// The server of this node.
#[derive(Debug)]
pub(crate) struct Server {
    names: Arc<ArcSwap<Names>>,
    orders: mpsc::UnboundedSender<Order>,
    /// Where it answers, and in which namespace.
    serving: BTreeMap<Place, NamespaceId>,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Serve(Place, std::net::UdpSocket, std::net::TcpListener),
    Stop(Place),
}

/// What all that answer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) names: Arc<ArcSwap<Names>>,
    pub(super) forwarder: Forwarder,
    pub(super) random: Random,
}

impl Server {
    /// Starts the thread, which ends with this. Other names are asked of the resolvers that `resolv_conf` names.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(resolv_conf: PathBuf) -> io::Result<Self> {
        let names = Arc::<ArcSwap<Names>>::default();
        let (orders, ordered) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = (Arc::clone(&names), Forwarder::to(resolv_conf));
        std::thread::Builder::new().name("dns".into()).spawn(move || {
            let (names, forwarder) = shared;
            let shared = Rc::new(Shared { names, forwarder, random: Random::default() });
            LocalSet::new().block_on(&runtime, obey(ordered, shared));
        })?;
        Ok(Self { names, orders, serving: BTreeMap::new() })
    }

    /// The names that are answered by.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    /// Answers by these names from now on.
    pub(crate) fn publish(&self, names: Arc<Names>) {
        self.names.store(names);
    }

    /// Answers at these gateways, and no others. What cannot be is told.
    pub(crate) fn serve(&mut self, gateways: &BTreeMap<String, Gateway>) -> Vec<Problem> {
        let mut wanted: BTreeMap<Place, &Namespace> = BTreeMap::new();
        for (network, gateway) in gateways {
            let places = gateway.addresses.iter().map(|address| (network.clone(), *address));
            wanted.extend(places.map(|place| (place, &gateway.namespace)));
        }
        let orders = &self.orders;
        self.serving.retain(|place, id| {
            let stays = wanted.get(place).is_some_and(|namespace| namespace.id() == *id);
            if !stays {
                // The thread ends with this alone.
                let _ = orders.send(Order::Stop(place.clone()));
            }
            stays
        });
        let mut problems = Vec::new();
        for (place, namespace) in wanted {
            if self.serving.contains_key(&place) {
                continue;
            }
            match open(namespace, place.1) {
                Ok((datagrams, streams)) => {
                    self.serving.insert(place.clone(), namespace.id());
                    let _ = self.orders.send(Order::Serve(place, datagrams, streams));
                }
                Err(error) => problems.push(Problem::new(
                    format!("network {}", place.0),
                    format!(
                        "Its gateway {} cannot answer for names: {error}. It is tried again by itself; see whether \
                         meshd may use port 53 (CAP_NET_BIND_SERVICE).",
                        place.1
                    ),
                )),
            }
        }
        problems
    }
}

/// Opens the sockets of an address inside of a namespace.
fn open(
    namespace: &Namespace,
    address: IpAddr,
) -> Result<(std::net::UdpSocket, std::net::TcpListener), LinkError> {
    let at = SocketAddr::new(address, PORT);
    let opened = namespace.run_blocking(move || -> io::Result<_> {
        let datagrams = std::net::UdpSocket::bind(at)?;
        // More than the system's limit for everybody, where that may be.
        if let Err(error) = setsockopt(&datagrams, RcvBufForce, &WAITING) {
            tracing::debug!(%error, "few questions can wait for their turn");
        }
        let streams = std::net::TcpListener::bind(at)?;
        datagrams.set_nonblocking(true)?;
        streams.set_nonblocking(true)?;
        Ok((datagrams, streams))
    })?;
    opened.map_err(|source| LinkError::Kernel { doing: format!("listen at {at}"), source })
}

/// Does what it is told until nobody can tell it any more.
async fn obey(mut orders: mpsc::UnboundedReceiver<Order>, shared: Rc<Shared>) {
    let mut serving: BTreeMap<Place, [AbortHandle; 2]> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            // Those that were stopped.
            Some(_) = tasks.join_next() => continue,
        };
        match order {
            None => return,
            Some(Order::Stop(place)) => {
                serving.remove(&place).into_iter().flatten().for_each(|task| task.abort());
            }
            Some(Order::Serve(place, datagrams, streams)) => {
                let opened = UdpSocket::from_std(datagrams)
                    .and_then(|datagrams| Ok((datagrams, TcpListener::from_std(streams)?)));
                match opened {
                    Ok((datagrams, streams)) => {
                        let network: Rc<str> = place.0.as_str().into();
                        let by_udp = answer_datagrams(datagrams, Rc::clone(&network), Rc::clone(&shared));
                        let by_tcp = stream::answer(streams, network, Rc::clone(&shared));
                        let handles = [tasks.spawn_local(by_udp), tasks.spawn_local(by_tcp)];
                        serving.insert(place, handles).into_iter().flatten().for_each(|task| task.abort());
                    }
                    Err(error) => {
                        tracing::error!(network = place.0, %error, "a gateway cannot answer for names");
                    }
                }
            }
        }
    }
}

/// Answers what comes by UDP: what is known at once, and what others know when they have said it.
async fn answer_datagrams(socket: UdpSocket, network: Rc<str>, shared: Rc<Shared>) {
    let socket = Rc::new(socket);
    let mut forwarded = JoinSet::new();
    let mut buffer = vec![0; LONGEST_QUESTION];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // One client's port that is closed, or the system short of something: the next may fare better.
                tracing::debug!(%error, "a question could not be received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(message) = buffer.get(..length) else { continue };
        let asker = Asker { network: &network, client: client.ip(), by_tcp: false };
        let reaction = react(message, asker, &shared.names.load(), shared.random.next());
        match reaction {
            Reaction::Silence => {}
            Reaction::Answer(answer) => send(&socket, &answer, client).await,
            Reaction::Forward { longest } => {
                while forwarded.try_join_next().is_some() {}
                if forwarded.len() < MOST_FORWARDED {
                    let (message, socket) = (message.to_vec(), Rc::clone(&socket));
                    let shared = Rc::clone(&shared);
                    forwarded.spawn_local(async move {
                        if let Some(answer) = shared.forwarder.ask(&message, false, longest).await {
                            send(&socket, &answer, client).await;
                        }
                    });
                }
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        // It asks again if it is still there.
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}
