//! What flows there are, and the paths of their packets: each flow is opened, answered and heard of again by running its packets
//! through the programs themselves, so that the tables hold what they would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::Underlay;

use super::{
    frame::{Frame, Talk, answer},
    path::{Path, Site, Wanted},
    stage::{ASKING, DELIVERING, ENTRY, Stage},
};

/// Clients before their addresses begin anew with other ports: what 198.18.0.0/15 has room for.
const CLIENTS: u32 = 131_000;
/// Flows that are opened before the first of them is proved: new ones wait in a queue, which has room for 32,768.
const BATCH: u32 = 8192;
/// The ports that the services are published as.
const HASHED: u16 = 8080;
const IN_TURN: u16 = 8081;
/// A port that nobody of the mesh listens on.
const FOREIGN: u16 = 5000;
/// The last number of the service's virtual IP, of the task that asks, of a backend and of the gateway.
const VIP: u8 = 2;
const ASKS: u8 = 31;
const BACKEND: u8 = 11;
const GATEWAY: [u8; 6] = [0x02, 0x42, 10, 0, 9, 1];

/// The family of the packets, and what they are carried over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Families {
    pub(super) inner: Inner,
    pub(super) underlay: Underlay,
}

/// The family of a client's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inner {
    V4,
    V6,
}

impl Families {
    /// Bytes of the tunnel around a packet: Ethernet, IP, UDP, VXLAN.
    const fn overhead(self) -> isize {
        match self.underlay {
            Underlay::V4 => 14 + 20 + 8 + 8,
            Underlay::V6 => 14 + 40 + 8 + 8,
        }
    }

    /// A row's name.
    fn name(self, what: &str) -> String {
        let inner = match self.inner {
            Inner::V4 => "IPv4",
            Inner::V6 => "IPv6",
        };
        match self.underlay {
            Underlay::V4 => format!("{what}, {inner}"),
            Underlay::V6 => format!("{what}, {inner} over IPv6"),
        }
    }

    /// The address of a network's member by its last number.
    fn member(self, number: u8) -> IpAddr {
        match self.inner {
            Inner::V4 => Ipv4Addr::new(10, 0, 9, number).into(),
            Inner::V6 => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0x0a00, 0x0900 | u16::from(number)).into(),
        }
    }

    fn client(self, number: u32) -> IpAddr {
        match self.inner {
            Inner::V4 => Ipv4Addr::from_bits(0xc612_0000 | number).into(),
            Inner::V6 => {
                let [high, low] = [(number >> 16) as u16, number as u16];
                Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, high, low).into()
            }
        }
    }

    fn node(self, stage: &Stage, node: &str) -> Result<IpAddr> {
        match self.inner {
            Inner::V4 => stage.lab.mesh().address_v4(node),
            Inner::V6 => stage.lab.mesh().address_v6(node),
        }
    }

    /// Datagrams of clients outside to a port of an address, at the node that they enter by.
    fn clients(self, stage: &Stage, to: (IpAddr, u16), first: u32, count: u32) -> Result<Vec<Frame>> {
        let (macs, interface) = ([stage.mac("client")?, stage.mac(ENTRY)?], stage.uplink(ENTRY)?);
        let frame = |flow: u32| {
            let (client, port) = (flow % CLIENTS + 1, 20_000 + flow / CLIENTS + flow % 7 * 1000);
            let talk =
                Talk { macs, addresses: [self.client(client), to.0], ports: [u16::try_from(port)?, to.1] };
            Ok(Frame { bytes: talk.datagram()?, interface })
        };
        (first..first + count).map(frame).collect()
    }

    /// Datagrams of the task that asks, to a member of its network.
    fn asked_by_task(self, stage: &Stage, to: u8, first: u32, count: u32) -> Result<Vec<Frame>> {
        /// Of the task that asks, which has but one address.
        const PORTS: u32 = 50_000;
        let (mac, interface) = stage.task(ASKING)?;
        let frame = |flow: u32| {
            let talk = Talk {
                macs: [mac, GATEWAY],
                addresses: [self.member(ASKS), self.member(to)],
                ports: [u16::try_from(10_000 + flow % PORTS)?, u16::try_from(80 + flow / PORTS)?],
            };
            Ok(Frame { bytes: talk.datagram()?, interface })
        };
        (first..first + count).map(frame).collect()
    }

    /// Frames as they come by the wire from one node to another.
    fn carried(self, stage: &Stage, from: &str, to: &str, frames: Vec<Vec<u8>>) -> Result<Vec<Frame>> {
        let macs = [stage.mac(to)?, stage.mac(from)?].concat();
        let interface = stage.uplink(to)?;
        let carried = |mut bytes: Vec<u8>| {
            // At tc it is the kernel that writes them, after the program.
            bytes.get_mut(..macs.len()).context("a frame without MAC addresses")?.copy_from_slice(&macs);
            Ok(Frame { bytes, interface })
        };
        frames.into_iter().map(carried).collect()
    }
}

/// What the tasks that got these frames answer.
fn answers(stage: &Stage, frames: &[Vec<u8>]) -> Result<Vec<Frame>> {
    let one = |frame: &Vec<u8>| {
        let interface = stage.side_of(frame.get(..6).context("a frame without MAC addresses")?)?;
        Ok(Frame { bytes: answer(frame)?, interface })
    };
    frames.iter().map(one).collect()
}

/// So many flows in parts: the first, and how many.
fn batches(flows: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..flows).step_by(BATCH as usize).map(move |first| (first, BATCH.min(flows - first)))
}

/// How many entries a table should have: without them another path would be measured.
fn ensure_remembered(stage: &Stage, node: &str, wanted: u32) -> Result<()> {
    let remembered = stage.remembered(node)?;
    ensure!(remembered == wanted as usize, "{node} remembers {remembered} flows instead of {wanted}");
    Ok(())
}

/// A port published by hash: the entry node keeps nothing, the delivering node the flows.
pub(super) fn published(stage: &Stage, families: Families, flows: u32) -> Result<Vec<Path>> {
    let tunnel = families.overhead();
    let to = (families.node(stage, ENTRY)?, HASHED);
    let (in_tunnel, unwrapped) = (Wanted::xdp_tx(tunnel), Wanted::tc_redirect(-tunnel));
    let arriving = move |stage: &Stage, first: u32, count: u32| {
        let clients = families.clients(stage, to, first, count)?;
        let entered = stage.through(Site::ENTRY_XDP, &clients, in_tunnel)?;
        families.carried(stage, ENTRY, DELIVERING, entered)
    };
    let [mut asked, mut answered, mut returning] = [const { Vec::new() }; 3];
    for (first, count) in batches(flows) {
        let batch = arriving(stage, first, count)?;
        let delivered = stage.through(Site::DELIVERING_TC, &batch, unwrapped)?;
        let answers = answers(stage, &delivered)?;
        let returned = stage.through(Site::DELIVERING_TASK, &answers, Wanted::tc_redirect(tunnel))?;
        let returned = families.carried(stage, DELIVERING, ENTRY, returned)?;
        stage.through(Site::ENTRY_XDP, &returned, Wanted::xdp_tx(-tunnel))?;
        // Its client has heard the answer: the flow is no longer new.
        stage.through(Site::DELIVERING_TC, &batch, unwrapped)?;
        asked.extend(batch);
        answered.extend(answers);
        returning.extend(returned);
    }
    ensure_remembered(stage, DELIVERING, 2 * flows)?;
    ensure_remembered(stage, ENTRY, 0)?;
    let clients = families.clients(stage, to, 0, flows)?;
    let name = |what: &str| families.name(what);
    Ok(vec![
        Path::known(name("mh port: entry node, XDP"), Site::ENTRY_XDP, in_tunnel, clients),
        Path::known(
            name("mh port: delivering node, XDP, which leaves it to tc"),
            Site::DELIVERING_XDP,
            Wanted::XDP_PASS,
            asked.clone(),
        ),
        Path::known(name("mh port: delivering node, tc, known flow"), Site::DELIVERING_TC, unwrapped, asked),
        Path::new(
            name("mh port: delivering node, tc, new flow"),
            Site::DELIVERING_TC,
            unwrapped,
            move |stage, first, count| arriving(stage, flows + first, count),
        ),
        Path::known(
            name("mh port: reply, from the task, tc"),
            Site::DELIVERING_TASK,
            Wanted::tc_redirect(tunnel),
            answered,
        ),
        Path::known(
            name("mh port: reply, at the entry node, XDP"),
            Site::ENTRY_XDP,
            Wanted::xdp_tx(-tunnel),
            returning,
        ),
    ])
}

/// A port published in turns: the entry node remembers whose turn it was.
pub(super) fn in_turn(stage: &Stage, families: Families, flows: u32) -> Result<Vec<Path>> {
    let to = (families.node(stage, ENTRY)?, IN_TURN);
    let wanted = Wanted::xdp_tx(families.overhead());
    let clients = families.clients(stage, to, 0, flows)?;
    for batch in clients.chunks(BATCH as usize) {
        // The second packet proves each flow, of which no answer passes here.
        stage.through(Site::ENTRY_XDP, batch, wanted)?;
        stage.through(Site::ENTRY_XDP, batch, wanted)?;
    }
    ensure_remembered(stage, ENTRY, flows)?;
    Ok(vec![
        Path::known(families.name("rr port: entry node, XDP, known flow"), Site::ENTRY_XDP, wanted, clients),
        Path::new(
            families.name("rr port: entry node, XDP, new flow"),
            Site::ENTRY_XDP,
            wanted,
            move |stage, first, count| families.clients(stage, to, flows + first, count),
        ),
    ])
}

/// A virtual IP, asked by a task: its node remembers the flows.
pub(super) fn virtual_ip(stage: &Stage, families: Families, flows: u32) -> Result<Vec<Path>> {
    let tunnel = families.overhead();
    let (wrapped, unwrapped) = (Wanted::tc_redirect(tunnel), Wanted::tc_redirect(-tunnel));
    let [mut asked, mut returning] = [const { Vec::new() }; 2];
    for (first, count) in batches(flows) {
        let batch = families.asked_by_task(stage, VIP, first, count)?;
        let sent = stage.through(Site::ENTRY_TASK, &batch, wrapped)?;
        let arriving = families.carried(stage, ENTRY, DELIVERING, sent)?;
        let delivered = stage.through(Site::DELIVERING_TC, &arriving, unwrapped)?;
        let answers = answers(stage, &delivered)?;
        let returned = stage.through(Site::DELIVERING_TASK, &answers, wrapped)?;
        let returned = families.carried(stage, DELIVERING, ENTRY, returned)?;
        stage.through(Site::ENTRY_TC, &returned, unwrapped)?;
        stage.through(Site::ENTRY_TASK, &batch, wrapped)?;
        asked.extend(batch);
        returning.extend(returned);
    }
    ensure_remembered(stage, ENTRY, 2 * flows)?;
    let name = |what: &str| families.name(what);
    Ok(vec![
        Path::known(name("virtual IP: from the task, tc, known flow"), Site::ENTRY_TASK, wrapped, asked),
        Path::new(
            name("virtual IP: from the task, tc, new flow"),
            Site::ENTRY_TASK,
            wrapped,
            move |stage, first, count| families.asked_by_task(stage, VIP, flows + first, count),
        ),
        Path::known(name("virtual IP: reply, at the asking node, tc"), Site::ENTRY_TC, unwrapped, returning),
    ])
}

/// From task to task: nothing is remembered.
pub(super) fn between_tasks(stage: &Stage, families: Families, flows: u32) -> Result<Vec<Path>> {
    let tunnel = families.overhead();
    let (wrapped, unwrapped) = (Wanted::tc_redirect(tunnel), Wanted::tc_redirect(-tunnel));
    let sent = families.asked_by_task(stage, BACKEND, 0, flows)?;
    let tunnelled = stage.through(Site::ENTRY_TASK, &sent, wrapped)?;
    let arriving = families.carried(stage, ENTRY, DELIVERING, tunnelled)?;
    stage.through(Site::DELIVERING_TC, &arriving, unwrapped)?;
    ensure_remembered(stage, ENTRY, 0)?;
    let name = |what: &str| families.name(what);
    Ok(vec![
        Path::known(name("task to task: from the task, tc"), Site::ENTRY_TASK, wrapped, sent),
        Path::known(
            name("task to task: decapsulate and deliver, tc"),
            Site::DELIVERING_TC,
            unwrapped,
            arriving,
        ),
    ])
}

/// What is none of the mesh's.
pub(super) fn foreign(stage: &Stage, families: Families, flows: u32) -> Result<Vec<Path>> {
    let to = (families.node(stage, ENTRY)?, FOREIGN);
    let clients = families.clients(stage, to, 0, flows)?;
    let name = |what: &str| families.name(what);
    Ok(vec![
        Path::known(name("foreign: XDP"), Site::ENTRY_XDP, Wanted::XDP_PASS, clients.clone()),
        Path::known(name("foreign: tc"), Site::ENTRY_TC, Wanted::TC_UNSPEC, clients),
    ])
}
