//! The daemon's end: a listener, a [`Control`] to answer from, and an orderly end.

use std::{future::Future, io, path::Path, sync::Arc};

use tokio::{net::UnixListener, sync::watch};

use super::{Control, routes};

/// Answers until `stop` is done, then lets what is under way finish; traces are cut.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve<C: Control>(
    listener: UnixListener,
    control: Arc<C>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    axum::serve(listener, routes::router(control, stopped))
        .with_graceful_shutdown(async move {
            stop.await;
            // Nobody listening means that no trace runs.
            let _ = stopping.send(true);
        })
        .await
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
