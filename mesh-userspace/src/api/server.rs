//! The daemon's end: a listener, a [`Control`] to answer from, bounds on what clients may hold, and an orderly end.

use std::{future::Future, io, path::Path, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time,
};

use super::{Control, routes};

/// How many connections are answered at once; others wait. Each costs a file descriptor, which the agent needs too.
pub const CONNECTIONS_MAX: usize = 256;

/// How long a connection may be silent before a request is whole.
pub const IDLE_MAX: Duration = Duration::from_secs(10);

/// How long what is under way has at the end.
const END_MAX: Duration = Duration::from_secs(5);

/// How long to wait where the system accepts no connection, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers until `stop` is done, then lets what is under way finish; traces are cut.
pub async fn serve<C: Control>(
    listener: UnixListener,
    control: Arc<C>,
    stop: impl Future<Output = ()> + Send,
) {
    let (stopping, stopped) = watch::channel(false);
    let service = TowerToHyperService::new(routes::router(control, stopped.clone()));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // The semaphore is never closed, so there is always a permit in the end.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, accept(&listener).await)
        };
        tokio::select! {
            () = &mut stop => break,
            (permit, stream) = next => {
                let answered = answer(stream, service.clone(), stopped.clone());
                connections.spawn(async move {
                    answered.await;
                    drop(permit);
                });
            }
            // What has ended is forgotten.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    // Nobody listening means that no connection is left.
    let _ = stopping.send(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if time::timeout(END_MAX, ended).await.is_err() {
        tracing::warn!("{} API connections were cut at the end", connections.len());
    }
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!("the API accepts no connection: {error}; meshd tries again");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers a connection's requests, until it is silent for too long or the end has come.
async fn answer(
    stream: UnixStream,
    service: TowerToHyperService<axum::Router>,
    mut stopped: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A client that breaks off has told itself why.
    tokio::select! {
        _ = &mut connection => return,
        // A sender that is gone has stopped as well.
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Takes the socket away at an orderly end, so that nobody takes the daemon for a dead one.
///
/// # Errors
/// When the system refuses; that it is gone already is none.
pub fn unlink(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
