//! The pipeline's second life: over byte vectors and hash maps, for tests and for simulated nodes.
//!
//! A [`Buffer`] is a frame, a [`NodeTables`] is what one node knows, and [`NodeTables::at_tc`] and
//! [`NodeTables::at_xdp`] are what its two hooks on an interface see of it. Nothing here reads a clock, draws a random
//! number or speaks to the kernel: the same calls in the same order have the same outcome.
//!
//! ```
//! use mesh_common::{abi::Outcome, native::{Buffer, Member, NodeTables}, pipeline};
//!
//! let mut node = NodeTables::new(1, [192, 0, 2, 1]);
//! node.add_network(4097, &["10.0.9.1/24".parse()?], 1450);
//! for (last, ifindex) in [(11, 21), (12, 22)] {
//!     node.add_member(&Member { vni: 4097, v4: Some([10, 0, 9, last].into()), node: 1, ifindex, ..Member::default() });
//! }
//! let mut frame = vec![0x02, 0x42, 10, 0, 9, 12, 0x02, 0x42, 10, 0, 9, 11, 8, 0];
//! frame.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 9, 11, 10, 0, 9, 12]);
//! let verdict = pipeline::from_endpoint(&mut Buffer::new(frame), &node.at_tc(), 21);
//! assert_eq!((verdict.outcome(), verdict.detail()), (Outcome::Deliver, 22));
//! # Ok::<(), mesh_common::native::NotASubnet>(())
//! ```

mod buffer;
mod build;
mod routes;
mod subnets;
mod tables;

pub use buffer::{Buffer, UNDEFINED};
pub use build::{Choice, Member, Target};
pub use routes::{Routes, Way};
pub use subnets::{NotASubnet, Subnet, Subnets};
pub use tables::{HookTables, Known, NodeTables};

use crate::{Tables, Verdict, abi::Hook, pipeline};

/// What a hook makes of a packet that came in by the interface `ifindex`: a fragment goes by the search for its ports.
pub fn enter(packet: &mut Buffer, node: &NodeTables, hook: Hook, ifindex: u32) -> Verdict {
    let tables = node.at_tc();
    let verdict = match hook {
        Hook::Xdp => pipeline::from_underlay(packet, &node.at_xdp()),
        _ => enter_known(packet, &tables, hook, ifindex)
            .unwrap_or_else(|| enter_with(packet, &tables, hook, ifindex)),
    };
    if !verdict.is_for_fragments() {
        return verdict;
    }
    match pipeline::find_ports(packet, &tables) {
        Some(verdict) => verdict,
        None => enter_with(packet, &node.at_tc_with_ports(), hook, ifindex),
    }
}

fn enter_known(packet: &mut Buffer, tables: &impl Tables, hook: Hook, ifindex: u32) -> Option<Verdict> {
    match hook {
        Hook::Endpoint => pipeline::known_from_endpoint(packet, tables, ifindex),
        Hook::Underlay => pipeline::known_from_underlay(packet, tables),
        Hook::Host | Hook::Xdp => None,
    }
}

fn enter_with(packet: &mut Buffer, tables: &impl Tables, hook: Hook, ifindex: u32) -> Verdict {
    match hook {
        Hook::Endpoint => pipeline::from_endpoint(packet, tables, ifindex),
        Hook::Host => pipeline::from_host(packet, tables),
        Hook::Underlay | Hook::Xdp => pipeline::from_underlay(packet, tables),
    }
}

/// What becomes of a packet after an entry's verdict: what is refused is answered, as the program does that the kernel's
/// hooks hand it on to. `ifindex` is the interface that it came in by.
pub fn finish(packet: &mut Buffer, tables: &impl Tables, verdict: Verdict, ifindex: u32) -> Verdict {
    let verdict = match tables.handed_on() {
        Some(arrival) if verdict.is_unknown() => pipeline::unknown(packet, tables, &arrival),
        _ => verdict,
    };
    match verdict.refusal() {
        Some(refusal) => pipeline::refuse(packet, tables, refusal, ifindex),
        None => verdict,
    }
}
