//! Bulk transfers by iperf3.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use mesh_tests::lab::{Host, output};
use serde_json::Value;

use super::Busy;

/// What is transferred by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Protocol {
    Tcp,
    /// As fast as the sender can, in datagrams that fit into every path.
    Udp,
}

/// Bytes of a datagram: with the headers of IPv6 and UDP it fits into 1450 bytes.
pub(in crate::bench) const DATAGRAM: usize = 1400;

/// What a transfer came to.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Transfer {
    /// Received.
    pub(in crate::bench) gigabits_per_second: f64,
    /// Seconds that the processors worked for a gigabyte that was received.
    pub(in crate::bench) seconds_per_gigabyte: f64,
    /// The share of the datagrams that was sent and not received.
    pub(in crate::bench) lost: f64,
}

impl Transfer {
    /// Transfers for so many seconds from a host to the iperf3 server that an address leads to; the client runs on the first
    /// processor and the server on the second.
    pub(in crate::bench) fn run(from: &Host, to: IpAddr, protocol: Protocol, seconds: u32) -> Result<Self> {
        let mut command = from.namespace.command("iperf3")?;
        command.args(["--json", "--connect-timeout", "2000", "--time", &seconds.to_string()]);
        command.args(["--client", &to.to_string()]);
        if std::thread::available_parallelism()?.get() > 1 {
            command.args(["--affinity", "0,1"]);
        }
        if protocol == Protocol::Udp {
            command.args(["--udp", "--bitrate", "0", "--length", &DATAGRAM.to_string()]);
        }
        let busy = Busy::begin()?;
        let run = output(&mut command)?;
        let busy = busy.seconds()?;
        let text = String::from_utf8_lossy(&run.stdout);
        let report: Value = serde_json::from_str(&text).with_context(|| {
            format!("iperf3 gave no JSON: {text}{}", String::from_utf8_lossy(&run.stderr))
        })?;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3 from {} to {to}: {error}", from.name());
        }
        Self::of(&report, protocol, busy)
    }

    fn of(report: &Value, protocol: Protocol, busy: f64) -> Result<Self> {
        let number = |pointer: &str| {
            report
                .pointer(pointer)
                .and_then(Value::as_f64)
                .with_context(|| format!("iperf3 tells no {pointer}"))
        };
        let (received, seconds) = (number("/end/sum_received/bytes")?, number("/end/sum_received/seconds")?);
        let lost = match protocol {
            Protocol::Tcp => 0.0,
            Protocol::Udp => number("/end/sum/lost_percent")? / 100.0,
        };
        Ok(Self {
            gigabits_per_second: received * 8.0 / seconds / 1e9,
            seconds_per_gigabyte: busy / (received / 1e9),
            lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_arrived_counts_and_not_what_was_sent() -> Result<()> {
        let report = json!({"end": {
            "sum_sent": {"bytes": 9e9, "seconds": 1.0},
            "sum_received": {"bytes": 5e8, "seconds": 2.0},
            "sum": {"lost_percent": 25.0},
        }});
        let transfer = Transfer::of(&report, Protocol::Udp, 3.0)?;
        assert_eq!(
            (transfer.gigabits_per_second, transfer.seconds_per_gigabyte, transfer.lost),
            (2.0, 6.0, 0.25)
        );
        assert!(Transfer::of(&json!({}), Protocol::Tcp, 1.0).is_err());
        Ok(())
    }
}
