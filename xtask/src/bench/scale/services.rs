//! What a packet costs while services grow: each packet asks for another one by chance, so that the caches are as cold as a
//! mesh of that size leaves them.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::lab::Mesh;

use super::{
    super::prog::{
        frame::{Frame, Talk, answer},
        path::{Site, Wanted},
        stage::{ASKING, ENTRY, Stage},
    },
    super::watch::Watch,
    Arguments,
    packets::{Random, client, over_empty},
};

/// Where the backends are; nobody runs there.
const FAR: &str = "far";

/// How great the meshes are: services, and the backends of each.
const SIZES: [(u32, u32); 5] = [(1, 1), (10, 10), (100, 10), (1000, 10), (10_000, 10)];

/// The flows of the task that asks virtual IPs, as many in each mesh.
const FLOWS: u32 = 10_000;

/// New flows in a round: few enough that those which live keep their places.
const NEW: u32 = 1000;

/// Bytes of the tunnel around a packet: Ethernet, IPv4, UDP, VXLAN.
const TUNNEL: isize = 14 + 20 + 8 + 8;

/// The task that asks, the gateway that it asks by, and how many ports it asks from.
const ASKS: Ipv4Addr = Ipv4Addr::new(10, 126, 0, 1);
const GATEWAY: [u8; 6] = [0x02, 0x42, 10, 64, 0, 1];
const PORTS: u32 = 50_000;

/// What is measured of each mesh.
pub(super) const PATHS: [&str; 4] = [
    "published, XDP: any service",
    "published, XDP: one service of all",
    "virtual IP, tc: known flow",
    "virtual IP, tc: new flow",
];

/// Nanoseconds over those of an empty program, of each round and path.
pub(super) struct Measured {
    pub(super) services: u32,
    pub(super) backends: u32,
    pub(super) rounds: [Vec<f64>; PATHS.len()],
    /// Seconds from the agent's start to its being ready, with the tables of an agent before it in place.
    pub(super) restart: f64,
}

/// Measures each mesh.
pub(super) fn measure(arguments: &Arguments, watch: &Watch) -> Result<Vec<Measured>> {
    let of_size = |(services, each): &(u32, u32)| {
        watch.now(&format!("a mesh of {services} services of {each} backends each"));
        measure_mesh(mesh(*services, *each), (*services, *each), arguments)
    };
    SIZES.iter().map(of_size).collect()
}

fn measure_mesh(mesh: Mesh, (services, each): (u32, u32), arguments: &Arguments) -> Result<Measured> {
    let mut stage = Stage::new(mesh, arguments.loads, None)?;
    let asker = Asker::new(&stage, services)?;
    asker.open()?;
    let mut random = Random::new(services);
    let mut measured =
        Measured { services, backends: services * each, rounds: Default::default(), restart: 0.0 };
    let entering = (Site::ENTRY_XDP, Wanted::xdp_tx(TUNNEL));
    let asking = (Site::ENTRY_TASK, Wanted::tc_redirect(TUNNEL));
    let mut begun = FLOWS;
    for load in 0..stage.loads() {
        for _ in 0..arguments.rounds {
            let any = clients(&stage, &mut random, arguments.packets, services)?;
            let one = clients(&stage, &mut random, arguments.packets, 1)?;
            let known: Result<Vec<_>> =
                (0..arguments.packets).map(|_| asker.frame(random.below(FLOWS))).collect();
            let new: Result<Vec<_>> = (begun..begun + NEW).map(|flow| asker.frame(flow)).collect();
            begun += NEW;
            let paths = [(entering, any), (entering, one), (asking, known?), (asking, new?)];
            for (((site, wanted), frames), rounds) in paths.iter().zip(&mut measured.rounds) {
                rounds.push(over_empty(&stage, *site, load, frames, *wanted)?);
            }
        }
    }
    let node = stage.lab.node_mut(ENTRY);
    // Its tables stay, and are taken over.
    node.kill()?;
    let began = Instant::now();
    node.start()?;
    measured.restart = began.elapsed().as_secs_f64();
    Ok(measured)
}

/// A node that clients and a task ask, with so many services beside it, whose backends are all on another node.
fn mesh(services: u32, each: u32) -> Mesh {
    let mut mesh = Mesh::new(1).kernel_node(FAR).network("wide", 4098, &["10.64.0.0/10"]).task(
        ASKING,
        ENTRY,
        "wide",
        &ASKS.to_string(),
    );
    for number in 0..services {
        let name = format!("s{number}");
        let port = format!("{}:80/udp", port(number));
        mesh = mesh.service(&name, "wide", &vip(number).to_string(), "mh", &[&port]);
        for task in 0..each {
            let address = Ipv4Addr::from_bits(0x0a40_0100 + number * each + task).to_string();
            mesh = mesh.backend(&name, &format!("{name}.{task}"), FAR, "wide", &address);
        }
    }
    mesh
}

/// A service's virtual IP, and the port that it is published as.
fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a7f_0000 + service)
}

fn port(service: u32) -> u16 {
    u16::try_from(10_000 + service).unwrap_or(u16::MAX)
}

/// Datagrams of clients by chance, to the published ports of the first so many services by chance.
fn clients(stage: &Stage, random: &mut Random, count: u32, services: u32) -> Result<Vec<Frame>> {
    let macs = [stage.mac("client")?, stage.mac(ENTRY)?];
    let (to, interface) = (stage.lab.mesh().address_v4(ENTRY)?, stage.uplink(ENTRY)?);
    let mut frame = |_| {
        let (address, from) = client(random.word());
        let ports = [from, port(random.below(services))];
        Ok(Frame { bytes: Talk { macs, addresses: [address, to], ports }.datagram()?, interface })
    };
    (0..count).map(&mut frame).collect()
}

/// The task that asks virtual IPs: each flow another service, and after the last one the first again.
struct Asker<'a> {
    stage: &'a Stage,
    services: u32,
    mac: [u8; 6],
    interface: u32,
}

impl<'a> Asker<'a> {
    fn new(stage: &'a Stage, services: u32) -> Result<Self> {
        let (mac, interface) = stage.task(ASKING)?;
        Ok(Self { stage, services, mac, interface })
    }

    fn frame(&self, flow: u32) -> Result<Frame> {
        let talk = Talk {
            macs: [self.mac, GATEWAY],
            addresses: [ASKS.into(), vip(flow % self.services).into()],
            ports: [u16::try_from(10_000 + flow % PORTS)?, u16::try_from(80 + flow / PORTS)?],
        };
        Ok(Frame { bytes: talk.datagram()?, interface: self.interface })
    }

    /// Opens the flows that are to be known: each is answered, and heard of again.
    fn open(&self) -> Result<()> {
        let asked: Vec<_> = (0..FLOWS).map(|flow| self.frame(flow)).collect::<Result<_>>()?;
        let sent = self.stage.through(Site::ENTRY_TASK, &asked, Wanted::tc_redirect(TUNNEL))?;
        let answers: Vec<_> = sent.into_iter().map(|frame| self.answer(frame)).collect::<Result<_>>()?;
        self.stage.through(Site::ENTRY_TC, &answers, Wanted::tc_redirect(-TUNNEL))?;
        self.stage.through(Site::ENTRY_TASK, &asked, Wanted::tc_redirect(TUNNEL))?;
        let remembered = self.stage.remembered(ENTRY)?;
        ensure!(remembered == 2 * FLOWS as usize, "{ENTRY} remembers {remembered} flows");
        Ok(())
    }

    /// What the other node sends back for a packet in a tunnel.
    fn answer(&self, mut tunnelled: Vec<u8>) -> Result<Frame> {
        /// Where the tunnel's source address begins, which the destination follows.
        const SOURCE: usize = 26;
        let inner = tunnelled.split_off(TUNNEL.unsigned_abs());
        let macs = [self.stage.mac(ENTRY)?, self.stage.mac(FAR)?].concat();
        // At tc it is the kernel that writes them, after the program.
        tunnelled.get_mut(..macs.len()).context("a frame without MAC addresses")?.copy_from_slice(&macs);
        tunnelled.get_mut(SOURCE..SOURCE + 8).context("a tunnel without addresses")?.rotate_left(4);
        tunnelled.extend(answer(&inner)?);
        Ok(Frame { bytes: tunnelled, interface: self.stage.uplink(ENTRY)? })
    }
}
