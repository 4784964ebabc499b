//! `cargo xtask bench director`: what it costs to forward a packet to a service, by the mesh and by what else does it.

mod tables;

use anyhow::{Result, ensure};
use mesh_tests::{
    director::{self, Case, MANY, Options, Outcome, cases},
    lab::remains,
};
use serde::{Deserialize, Serialize};

use self::tables::Measured;
use super::{
    PREFIX, counted,
    findings::{Findings, Target},
    machine::Machine,
    watch::Watch,
};
use crate::{
    setup::{self, Purpose},
    vm::Kernel,
};

/// How much longer a round is where the clock counts time, which is less exact than one that counts instructions.
const LONGER_HERE: u32 = 25;

/// What `bench director` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Packets of each round in a virtual machine; on this machine, 25 times as many
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(64..=10_000_000))]
    packets: u32,
    /// Rounds of each case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Only the cases whose names hold one of these texts; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// A kernel to count instructions under, in a virtual machine; may be given more than once, and is all of them otherwise
    #[arg(long = "kernel", value_enum, default_values_t = Kernel::ALL)]
    kernels: Vec<Kernel>,
    /// Count in a second virtual machine as well, and compare
    #[arg(long)]
    again: bool,
    /// Measure on this machine alone, and print what was found as JSON: so a virtual machine is told what to do
    #[arg(long, hide = true)]
    pub(super) here: bool,
}

/// What was found on one machine, as the virtual one tells it.
#[derive(Deserialize, Serialize)]
struct Told {
    kernel: String,
    outcomes: Vec<Outcome>,
}

/// Measures on this machine, and prints the outcomes for a program, in one line that begins with `{`.
pub(super) fn here(arguments: &Arguments) -> Result<()> {
    counted::warm_up()?;
    let told = measure_here(arguments, arguments.packets, |text| println!("{text}"))?;
    counted::tell(&told)
}

/// Measures in virtual machines, and here.
pub(super) fn measure(arguments: &Arguments) -> Result<(Findings, Result<()>)> {
    setup::ensure(Purpose::Vm)?;
    let mut measured = Vec::new();
    let mut targets = Vec::new();
    for &kernel in &arguments.kernels {
        let counted = Measured::counted(measure_in_guest(arguments, kernel)?);
        targets.extend(counted.target_of_instructions());
        if arguments.again {
            let other = Measured::counted(measure_in_guest(arguments, kernel)?);
            targets.extend(counted.target_of_agreement(&other));
        }
        measured.push(counted);
    }
    let watch = Watch::new("this machine");
    let packets = arguments.packets.saturating_mul(LONGER_HERE);
    let timed = Measured::timed(measure_here(arguments, packets, |text| watch.now(text))?);
    drop(watch);
    targets.extend(timed.target_of_rate());
    measured.push(timed);
    let verdict = measured.iter().try_for_each(Measured::ensure_that_ours_loses_nothing);
    Ok((findings(arguments, &measured, targets), verdict))
}

fn findings(arguments: &Arguments, measured: &[Measured], targets: Vec<Target>) -> Findings {
    let mut command = "cargo xtask bench director".to_owned();
    if arguments.again {
        command += " --again";
    }
    let guests = measured.iter().filter(|measured| measured.is_counted()).map(Measured::kernel);
    Findings {
        suite: "director".to_owned(),
        title: "What it costs to forward a packet to a service".to_owned(),
        method: method(arguments),
        command,
        machine: Machine::this().with_guests(guests.map(str::to_owned)),
        took_seconds: 0.0,
        tables: measured.iter().flat_map(Measured::tables).collect(),
        targets,
        remarks: measured.iter().flat_map(Measured::remarks).collect(),
    }
}

fn method(arguments: &Arguments) -> Vec<String> {
    vec![
        format!(
            "A director stands between its clients and four servers, on a cable (veth) to each. At the far end of the first a \
             source sends datagrams of 18 bytes, {} in each round, each a live frame that XDP transmits, 64 at once, as a card's \
             driver hands them over; no client's network stack is measured with it. At the far end of the second an XDP program \
             counts those that arrive as they should, by length, protocol and payload, and drops them. Time is taken by the \
             programs: when the first packet is made, and when the last has arrived. So each figure is of the whole way, \
             source and sink included; the controls tell what these take. Figures are the median of those of {} rounds that lost no packet; what is lost is told.",
            arguments.packets, arguments.rounds
        ),
        "The mesh publishes a UDP port, in native XDP, and sends packets by VXLAN to the nodes of four tasks; nodes know each \
         other by IPv4. Its daemon, which packets do not need, is halted while they are measured. IPVS forwards to four servers by NAT, by direct routing, and by IP-in-IP; with `-o` it keeps no \
         connections. nftables and iptables choose a server in turn and remember it in conntrack, as kube-proxy and Docker \
         have them do. What is not XDP gets its packets by NAPI with GRO, without which a veth device does not poll."
            .to_owned(),
        "In the virtual machine one virtual nanosecond is one instruction of the guest (QEMU's `-icount shift=0`), so the figures \
         are counts of instructions, and are the same whatever else the machine does. They say nothing of cache misses; each \
         round of a repeated string instruction counts, so the guest's processor has no fast ones by bytes (ERMS). Where the \
         clock counts time, other work on the machine shows in the spread. Live frames are recycled when XDP drops or \
         transmits them; Linux 6.1 gives a frame back to the page allocator once it became a socket buffer, and a new one is \
         made and cleared, which later kernels spare: that part of what IPVS costs there is in the control `drop in tc` as well."
            .to_owned(),
        format!(
            "One flow is one source address and port; {MANY} flows take turns; or each packet begins a flow, which IPVS and \
             conntrack first forgot all about (by their time running out, and `conntrack -F`)."
        ),
    ]
}

/// Measures in a virtual machine whose clock counts instructions.
fn measure_in_guest(arguments: &Arguments, kernel: Kernel) -> Result<Told> {
    let mut words = ["director", "--here"].map(str::to_owned).to_vec();
    words.extend([format!("--packets={}", arguments.packets), format!("--rounds={}", arguments.rounds)]);
    words.extend(arguments.only.iter().map(|only| format!("--only={only}")));
    counted::ask(kernel, &words)
}

fn measure_here(arguments: &Arguments, packets: u32, tell: impl FnMut(&str)) -> Result<Told> {
    let options = Options { packets, rounds: usize::from(arguments.rounds) };
    let is_wanted = |case: &Case| {
        let name = case.to_string();
        arguments.only.is_empty() || arguments.only.iter().any(|text| name.contains(text.as_str()))
    };
    let chosen: Vec<_> = cases().into_iter().filter(is_wanted).collect();
    ensure!(!chosen.is_empty(), "no case's name holds {}", arguments.only.join(" or "));
    let outcomes = director::measure(PREFIX, &chosen, &options, tell)?;
    let gone = remains(PREFIX)?;
    ensure!(gone.is_empty(), "not everything was cleaned up: {}", gone.join(", "));
    Ok(Told { kernel: counted::release()?, outcomes })
}
