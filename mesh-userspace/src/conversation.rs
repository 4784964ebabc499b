//! The two directions of a conversation in the table of flows, and when both are over.

use mesh_common::abi::{Flow, FlowKey, UDP_IDLE, flow_flags};

/// TCP's number (IANA's assigned Internet protocol numbers).
pub(crate) const TCP: u8 = 6;

/// A quiet TCP connection counts as live for so many seconds: IPVS's time for an established connection.
pub(crate) const TCP_IDLE: u64 = 900;

/// Whether a TCP connection has been closed: by a RST of either side, or by a FIN of each.
pub(crate) fn is_closed(flow: &Flow, back: Option<&Flow>) -> bool {
    let is_reset = (flow.flags | back.map_or(0, |back| back.flags)) & flow_flags::RST != 0;
    let has_fin = |flow: &Flow| flow.flags & flow_flags::FIN != 0;
    is_reset || has_fin(flow) && back.is_none_or(has_fin)
}

/// For how many seconds neither direction had a packet. `now` is in seconds of the clock of [`Flow::seen`].
pub(crate) fn quiet(flow: &Flow, back: Option<&Flow>, now: u64) -> u64 {
    now.saturating_sub(back.map_or(flow.seen, |back| back.seen.max(flow.seen)))
}

/// Whether a conversation goes on, as far as the passing packets tell. One without connections does for as long as the
/// pipeline takes its packets for those of one flow; IPVS's 300 seconds would keep a task from being stopped that nobody
/// speaks to any longer.
pub(crate) fn is_live(key: &FlowKey, flow: &Flow, back: Option<&Flow>, now: u64) -> bool {
    let quiet = quiet(flow, back, now);
    match key.protocol {
        TCP => !is_closed(flow, back) && quiet <= TCP_IDLE,
        _ => quiet <= UDP_IDLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_lives_until_it_is_closed_or_quiet() {
        use flow_flags::{FIN, RST};
        const NOW: u64 = 10_000;
        let flow = |(ago, flags): (u64, u32)| Flow { seen: NOW - ago, flags, ..Flow::default() };
        for (protocol, there, back, lives, why) in [
            (TCP, (0, 0), Some((0, 0)), true, "both speak"),
            (TCP, (0, FIN), Some((0, 0)), true, "half closed by the client"),
            (TCP, (0, 0), Some((0, FIN)), true, "half closed by the server"),
            (TCP, (0, FIN), Some((0, FIN)), false, "closed"),
            (TCP, (0, RST), Some((0, 0)), false, "reset by the client"),
            (TCP, (0, 0), Some((0, RST)), false, "reset by the server"),
            (TCP, (0, FIN), None, false, "closed, and the other direction forgotten"),
            (TCP, (901, 0), Some((900, 0)), true, "quiet on one side"),
            (TCP, (901, 0), Some((901, 0)), false, "quiet for too long"),
            (17, (500, 0), Some((120, 0)), true, "datagrams of one side"),
            (17, (121, 0), Some((121, 0)), false, "no datagrams"),
        ] {
            let key = FlowKey { protocol, ..FlowKey::default() };
            let back = back.map(flow);
            assert_eq!(is_live(&key, &flow(there), back.as_ref(), NOW), lives, "{why}");
        }
    }
}
