//! Traced packets: from the kernel's ring to whoever listens.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use aya::maps::{MapData, RingBuf};
use futures::{Stream, StreamExt};
use mesh_common::abi::Trace;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{broadcast, mpsc},
};

use super::Command;
use crate::api::TraceStream;

/// How many traced packets a slow listener may lag behind before it misses some.
const BACKLOG: usize = 1024;

/// Who listens, and how often a packet is traced for them.
#[derive(Clone, Debug)]
pub(crate) struct Tracer {
    traces: broadcast::Sender<Trace>,
    listeners: Arc<Mutex<Listeners>>,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug, Default)]
struct Listeners {
    next: u64,
    every: BTreeMap<u64, u32>,
}

impl Tracer {
    pub(crate) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { traces: broadcast::Sender::new(BACKLOG), listeners: Arc::default(), commands }
    }

    /// One packet in this many is to be traced: what the most eager listener asks for, or 0 for none.
    pub(crate) fn every(&self) -> u32 {
        self.with(|listeners| listeners.every.values().copied().min().unwrap_or(0))
    }

    /// A new listener's stream.
    pub(crate) fn listen(&self, every: u32) -> TraceStream {
        let number = self.with(|listeners| {
            let number = listeners.next;
            listeners.next += 1;
            listeners.every.insert(number, every.max(1));
            number
        });
        let listener = Listener { tracer: self.clone(), number };
        let traces = futures::stream::unfold(self.traces.subscribe(), |mut traces| async {
            loop {
                match traces.recv().await {
                    Ok(trace) => return Some((trace, traces)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        self.tell();
        Box::pin(Listening { traces: traces.boxed(), _listener: listener })
    }

    /// Passes on what the kernel traces, for as long as the agent lives.
    pub(crate) async fn run(self, ring: RingBuf<MapData>) {
        // SAFETY: the ring's descriptor is its map's, which it owns and keeps open as the same file for its life.
        let mut ring = match unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) } {
            Ok(ring) => ring,
            Err(error) => {
                return tracing::warn!(%error, "packets cannot be traced: the ring cannot be waited for");
            }
        };
        while let Ok(mut ready) = ring.readable_mut().await {
            while let Some(item) = ready.get_inner_mut().next() {
                // Without a listener nobody is there to be told.
                if let Some(trace) = trace(&item) {
                    let _ = self.traces.send(trace);
                }
            }
            ready.clear_ready();
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Listeners) -> T) -> T {
        work(&mut self.listeners.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the agent look at [`Self::every`] again.
    fn tell(&self) {
        // A full queue means that a round is due anyway.
        let _ = self.commands.try_send(Command::Look);
    }
}

/// A place among the listeners, given up when dropped.
struct Listener {
    tracer: Tracer,
    number: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tracer.with(|listeners| listeners.every.remove(&self.number));
        self.tracer.tell();
    }
}

struct Listening {
    traces: Pin<Box<dyn Stream<Item = Trace> + Send>>,
    _listener: Listener,
}

impl Stream for Listening {
    type Item = Trace;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Trace>> {
        self.traces.poll_next_unpin(context)
    }
}

/// What the ring holds.
fn trace(item: &[u8]) -> Option<Trace> {
    if item.len() < size_of::<Trace>() {
        return None;
    }
    // SAFETY: there are enough bytes, any bytes are a valid value of the type, and it is read unaligned.
    Some(unsafe { item.as_ptr().cast::<Trace>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_is_too_short_is_no_trace() {
        let mut item = vec![0; size_of::<Trace>()];
        item[8] = 7;
        assert_eq!(trace(&item).unwrap().ifindex, u32::from_ne_bytes([7, 0, 0, 0]));
        assert!(trace(&item[1..]).is_none());
    }

    #[tokio::test]
    async fn the_most_eager_listener_counts_and_leaving_is_noticed() {
        let (commands, mut told) = mpsc::channel(8);
        let tracer = Tracer::new(commands);
        assert_eq!(tracer.every(), 0);
        let slow = tracer.listen(100);
        let fast = tracer.listen(10);
        assert_eq!(tracer.every(), 10);
        drop(fast);
        assert_eq!(tracer.every(), 100);
        drop(slow);
        assert_eq!(tracer.every(), 0);
        for _ in 0..4 {
            assert!(matches!(told.try_recv(), Ok(Command::Look)));
        }
    }
}
