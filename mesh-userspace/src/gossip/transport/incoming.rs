//! Streams that others open: each part is opened as it comes, and the first that is refused closes its stream.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_cluster::seal::{Assembly, LONGEST_PART, PART_OVERHEAD};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout_at},
};

use super::{
    Received, Wire,
    admission::{Admission, Admitted},
};

/// How long a stream has until its first part is whole.
const FIRST: Duration = Duration::from_secs(5);
/// How long the parts of a message may take.
const MESSAGE: Duration = Duration::from_secs(30);
/// How long a stream may be silent between two messages. Who opened it closes it before.
const SILENCE: Duration = Duration::from_secs(60);
/// How long to wait where the system accepts no connection, for want of descriptors most likely.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes whoever comes, within bounds.
pub(super) async fn accept(wire: Arc<Wire>, listener: TcpListener, messages: mpsc::Sender<Received>) {
    let admission = Arc::new(Mutex::new(Admission::default()));
    let mut streams = JoinSet::new();
    let mut handles: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = streams.join_next() => {
                // One that had to go was taken out then.
                if let Ok(number) = ended {
                    handles.remove(&number);
                }
                continue;
            }
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "gossip accepts no stream; it tries again");
                sleep(PAUSE).await;
                continue;
            }
        };
        let admitted = lock(&admission).arrive(from.ip());
        // One that is not admitted is closed by being dropped.
        let Some(Admitted { number, instead_of }) = admitted else { continue };
        if let Some(handle) = instead_of.and_then(|number| handles.remove(&number)) {
            handle.abort();
        }
        let place = Place { admission: Arc::clone(&admission), number };
        let (wire, messages) = (Arc::clone(&wire), messages.clone());
        let handle = streams.spawn(async move {
            read(&wire, &place, stream, from, &messages).await;
            number
        });
        handles.insert(number, handle);
    }
}

fn lock(admission: &Mutex<Admission>) -> MutexGuard<'_, Admission> {
    admission.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream's place, which it leaves however it ends.
struct Place {
    admission: Arc<Mutex<Admission>>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.admission).gone(self.number);
    }
}

/// Reads a stream until it ends, is silent or slow for too long, or brings something that is refused.
async fn read(
    wire: &Wire,
    place: &Place,
    mut stream: TcpStream,
    from: SocketAddr,
    messages: &mpsc::Sender<Received>,
) {
    let mut assembly = Assembly::default();
    let mut until = Instant::now() + FIRST;
    // Whoever has not proved that it knows a key has only this much memory, and for as long as that.
    let mut buffer = Vec::new();
    loop {
        match timeout_at(until, part(&mut stream, &mut buffer)).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
        let Ok(part) = wire.open_part(from, &buffer) else { return };
        if !lock(&place.admission).prove(place.number) {
            return;
        }
        let had_begun = assembly.has_begun();
        match assembly.add(part) {
            // The driver is slow: so is this stream, and its sender waits.
            Ok(Some(message)) => {
                if messages.send(message).await.is_err() {
                    return;
                }
                until = Instant::now() + SILENCE;
            }
            Ok(None) if !had_begun => until = Instant::now() + MESSAGE,
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// Reads a part behind its length; none where the stream ends, or the length is none of a part.
async fn part(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let length = usize::from(stream.read_u16().await.ok()?);
    if !(PART_OVERHEAD..=LONGEST_PART).contains(&length) {
        return None;
    }
    buffer.resize(length, 0);
    stream.read_exact(buffer).await.ok()?;
    Some(())
}
