//! What a packet costs while flows grow, at the node that keeps them: each packet is of another one by chance.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use mesh_common::abi::{Address, Flow, FlowKey};
use mesh_tests::lab::Mesh;

use super::{
    super::prog::{
        frame::{Frame, Talk, answer},
        path::{Site, Wanted},
        stage::{DELIVERING, ENTRY, Stage},
    },
    super::watch::Watch,
    Arguments,
    packets::{Random, client, over_empty},
};

/// How many flows there are, in turn.
const SIZES: [u32; 7] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000];

/// Room in the table for all of them, in both directions, and a quarter more, so that none has to give way.
const ROOM: u32 = 2_500_000;

/// Bytes of the tunnel around a packet: Ethernet, IPv4, UDP, VXLAN.
const TUNNEL: isize = 14 + 20 + 8 + 8;

/// The one backend, the ports that it answers at and that its service is published as.
const BACKEND: &str = "hash.1";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 11);
const TARGET: u16 = 80;
const PUBLISHED: u16 = 8080;

/// What is measured of each number of flows.
pub(super) const PATHS: [&str; 3] = [
    "published, XDP, entry node: keeps nothing",
    "published, tc, delivering node: known flow",
    "reply of a task, tc: known flow",
];

/// Nanoseconds over those of an empty program, of each round and path.
pub(super) struct Measured {
    pub(super) flows: u32,
    pub(super) rounds: [Vec<f64>; PATHS.len()],
}

/// Measures each number of flows.
pub(super) fn measure(arguments: &Arguments, watch: &Watch) -> Result<Vec<Measured>> {
    let mesh = Mesh::new(2)
        .network("blue", 4097, &["10.0.9.0/24"])
        .service("hash", "blue", "10.0.9.2", "mh", &[&format!("{PUBLISHED}:{TARGET}/udp")])
        .backend("hash", BACKEND, DELIVERING, "blue", &ADDRESS.to_string());
    let stage = Stage::new(mesh, arguments.loads, Some(ROOM))?;
    let mut flows = Flows::open(&stage)?;
    let mut measured = Vec::new();
    for count in SIZES {
        watch.now(&format!("{count} flows"));
        flows.grow(count)?;
        measured.push(flows.measure(arguments)?);
    }
    Ok(measured)
}

/// The flows of clients to the backend, both directions of each.
struct Flows<'a> {
    stage: &'a Stage,
    /// The first, as the programs made it: the others are like it, but for their clients.
    first: [(FlowKey, Flow); 2],
    count: u32,
}

impl<'a> Flows<'a> {
    /// Opens the first one by its packets, and sees that what would be another is what the programs make of it.
    fn open(stage: &'a Stage) -> Result<Self> {
        let made = |number: u32| -> Result<Vec<(FlowKey, Flow)>> {
            stage.forget()?;
            let asked = arriving(stage, &[number])?;
            let unwrapped = Wanted::tc_redirect(-TUNNEL);
            let delivered = stage.through(Site::DELIVERING_TC, &asked, unwrapped)?;
            let answered = replies(stage, &[number])?;
            let expected = answer(delivered.first().context("nothing was delivered")?)?;
            let thought = answered.first().map(|frame| frame.bytes.as_slice()).unwrap_or_default();
            // The MAC addresses; the addresses and ports. How long they may live is another matter.
            for field in [0..12, 26..38] {
                let [thought, expected] = [thought, &expected].map(|bytes| bytes.get(field.clone()));
                ensure!(thought == expected, "{BACKEND} answers {expected:02x?}, not {thought:02x?}");
            }
            stage.through(Site::DELIVERING_TASK, &answered, Wanted::tc_redirect(TUNNEL))?;
            // Its client has heard the answer: the flow is no longer new.
            stage.through(Site::DELIVERING_TC, &asked, unwrapped)?;
            let mut made = stage.entries(DELIVERING)?;
            made.sort_by_key(|(key, _)| *key);
            Ok(made)
        };
        let [one, other] = [0, 131_001].map(|number| made(number).map(<[_; 2]>::try_from));
        let (first, other) = (
            one?.map_err(|made| anyhow::anyhow!("a flow has {} entries", made.len()))?,
            other?.map_err(|made| anyhow::anyhow!("a flow has {} entries", made.len()))?,
        );
        let flows = Self { stage, first, count: 0 };
        let mut copied = flows.copy(131_001);
        copied.sort_by_key(|(key, _)| *key);
        // When it was last seen is another matter.
        let timeless =
            |entries: [(FlowKey, Flow); 2]| entries.map(|(key, flow)| (key, Flow { seen: 0, ..flow }));
        ensure!(timeless(copied) == timeless(other), "a flow is not what another is with its client");
        stage.forget()?;
        Ok(flows)
    }

    /// The entries of another flow.
    fn copy(&self, number: u32) -> [(FlowKey, Flow); 2] {
        let [old, new] = [0, number].map(|number| {
            let (address, port) = client(number);
            (Address::from(address), port.to_be_bytes())
        });
        let with = |address: &mut Address, port: &mut [u8; 2]| {
            if (*address, *port) == old {
                (*address, *port) = new;
            }
        };
        self.first.map(|(mut key, mut flow)| {
            with(&mut key.source, &mut key.source_port);
            with(&mut key.destination, &mut key.destination_port);
            with(&mut flow.source, &mut flow.source_port);
            with(&mut flow.destination, &mut flow.destination_port);
            (key, flow)
        })
    }

    /// Puts flows into the table until there are so many.
    fn grow(&mut self, count: u32) -> Result<()> {
        let new = (self.count..count).flat_map(|number| self.copy(number));
        self.stage.remember(DELIVERING, new)?;
        self.count = count;
        Ok(())
    }

    fn measure(&self, arguments: &Arguments) -> Result<Measured> {
        let mut random = Random::new(self.count);
        let mut measured = Measured { flows: self.count, rounds: Default::default() };
        for load in 0..self.stage.loads() {
            for _ in 0..arguments.rounds {
                let mut numbers =
                    || (0..arguments.packets).map(|_| random.below(self.count)).collect::<Vec<_>>();
                // Each path has flows of its own: what one has seen, the next would find in the caches.
                let paths = [
                    (Site::ENTRY_XDP, Wanted::xdp_tx(TUNNEL), clients(self.stage, &numbers())?),
                    (Site::DELIVERING_TC, Wanted::tc_redirect(-TUNNEL), arriving(self.stage, &numbers())?),
                    (Site::DELIVERING_TASK, Wanted::tc_redirect(TUNNEL), replies(self.stage, &numbers())?),
                ];
                for ((site, wanted, frames), rounds) in paths.iter().zip(&mut measured.rounds) {
                    rounds.push(over_empty(self.stage, *site, load, frames, *wanted)?);
                }
            }
        }
        Ok(measured)
    }
}

/// Datagrams of clients to the published port.
fn clients(stage: &Stage, numbers: &[u32]) -> Result<Vec<Frame>> {
    let macs = [stage.mac("client")?, stage.mac(ENTRY)?];
    let (to, interface) = (stage.lab.mesh().address_v4(ENTRY)?, stage.uplink(ENTRY)?);
    let frame = |number: &u32| {
        let (address, port) = client(*number);
        let talk = Talk { macs, addresses: [address, to], ports: [port, PUBLISHED] };
        Ok(Frame { bytes: talk.datagram()?, interface })
    };
    numbers.iter().map(frame).collect()
}

/// The same as they arrive at the node of the backend, which none of them has passed yet.
fn arriving(stage: &Stage, numbers: &[u32]) -> Result<Vec<Frame>> {
    let entered = stage.through(Site::ENTRY_XDP, &clients(stage, numbers)?, Wanted::xdp_tx(TUNNEL))?;
    let interface = stage.uplink(DELIVERING)?;
    Ok(entered.into_iter().map(|bytes| Frame { bytes, interface }).collect())
}

/// What the backend answers.
fn replies(stage: &Stage, numbers: &[u32]) -> Result<Vec<Frame>> {
    let (mac, interface) = stage.task(BACKEND)?;
    let frame = |number: &u32| {
        let (address, port) = client(*number);
        let talk =
            Talk { macs: [mac, GATEWAY], addresses: [IpAddr::from(ADDRESS), address], ports: [TARGET, port] };
        Ok(Frame { bytes: talk.datagram()?, interface })
    };
    numbers.iter().map(frame).collect()
}

/// By whom a task on the network answers clients outside.
const GATEWAY: [u8; 6] = [0x02, 0x42, 10, 0, 9, 1];
