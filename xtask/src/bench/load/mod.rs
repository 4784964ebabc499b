//! What puts load on a path, and what it takes of the machine.

mod connections;
mod iperf;
mod ping_pong;
mod processors;

pub(super) use self::{
    connections::{Connections, Visits},
    iperf::{Protocol, Transfer},
    ping_pong::{Echo, PingPong},
    processors::{Busy, pin},
};

/// The value below which this share of the sorted ones lies.
pub(super) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = (last as f64 * share).round() as usize;
    sorted.get(at.min(last)).copied()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<_> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(50.0));
        assert_eq!(percentile(&values, 0.99), Some(99.0));
        assert_eq!(percentile(&values, 1.0), Some(100.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
