//! What a read of memory takes on this machine, by how much memory the reads are spread over: the least that a packet must pay
//! for each table which no cache holds.

use std::{hint::black_box, time::Instant};

use super::packets::Random;

/// Bytes that are read from.
pub(super) const SIZES: [usize; 4] = [16 << 10, 1 << 20, 16 << 20, 128 << 20];

/// A line of the processor's cache, and in it where the next one is.
#[derive(Clone)]
#[repr(align(64))]
struct Line(usize);

/// Nanoseconds of a read at a place by chance, which nothing can foresee: the median of each round's stretches, as the kernel
/// takes the processor away now and then.
pub(super) fn measure(bytes: usize, rounds: u16) -> Vec<f64> {
    const STRETCHES: usize = 200;
    const READS: u32 = 1000;
    let lines: &[Line] = &circle(bytes / size_of::<Line>());
    let mut at = 0;
    let mut stretch = || {
        let began = Instant::now();
        for _ in 0..READS {
            at = lines[at].0;
        }
        black_box(at);
        began.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
    };
    let mut round = || {
        let mut stretches: Vec<_> = (0..STRETCHES).map(|_| stretch()).collect();
        stretches.sort_by(f64::total_cmp);
        stretches[STRETCHES / 2]
    };
    // The first one only warms what can be warm.
    round();
    (0..rounds).map(|_| round()).collect()
}

/// So many lines, of which each names another, and all of them make one circle (Sattolo's shuffle).
fn circle(count: usize) -> Vec<Line> {
    let mut lines: Vec<_> = (0..count).map(Line).collect();
    let mut random = Random::new(1);
    for last in (1..u32::try_from(count).unwrap_or(u32::MAX)).rev() {
        lines.swap(last as usize, random.below(last) as usize);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_comes_by_every_line() {
        let lines = circle(1000);
        let mut at = 0;
        let mut met = 0;
        loop {
            at = lines[at].0;
            met += 1;
            if at == 0 {
                break;
            }
        }
        assert_eq!(met, 1000);
    }
}
