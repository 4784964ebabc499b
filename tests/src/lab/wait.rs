//! Waiting for what should become true, for a bounded time.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Tries until the attempt succeeds or the time is over.
///
/// # Errors
/// The last attempt's, with what was waited for.
pub fn eventually<T>(what: &str, timeout: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= timeout => {
                return Err(error).with_context(|| format!("{what}: not within {timeout:?}"));
            }
            Err(_) => sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn it_tries_again_and_gives_up_with_the_last_error() {
        let mut tries = 0;
        let found = eventually("third time", Duration::from_secs(5), || {
            tries += 1;
            if tries == 3 { Ok(tries) } else { bail!("not yet") }
        });
        assert_eq!(found.unwrap(), 3);

        let error = eventually("never", Duration::from_millis(20), || -> Result<()> { bail!("still not") });
        assert_eq!(format!("{:#}", error.unwrap_err()), "never: not within 20ms: still not");
    }
}
