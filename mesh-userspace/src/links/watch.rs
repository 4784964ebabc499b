//! Telling when something about the node's interfaces changes.

use std::time::Duration;

use futures::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{LinkError, Links};

/// How long the kernel must be silent before a change is told.
const QUIET: Duration = Duration::from_millis(50);
/// How long a change is withheld at most while others keep coming.
const PATIENCE: Duration = Duration::from_millis(500);

impl Links {
    /// Yields whenever interfaces, addresses, routes or neighbours have changed: once for changes that come
    /// together, and once for any number that came while nobody was looking. It ends only if the socket fails.
    pub async fn watch(&self) -> Result<impl Stream<Item = ()> + Send + Unpin + use<>, LinkError> {
        let (connection, handle, mut messages) = self
            .namespace
            .run(|| {
                rtnetlink::new_multicast_connection(&[
                    MulticastGroup::Link,
                    MulticastGroup::Neigh,
                    MulticastGroup::Ipv4Ifaddr,
                    MulticastGroup::Ipv6Ifaddr,
                    MulticastGroup::Ipv4Route,
                    MulticastGroup::Ipv6Route,
                ])
            })
            .await?
            .map_err(|source| LinkError::Kernel { doing: "watch the interfaces".into(), source })?;
        tokio::spawn(connection);

        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            // The connection ends with its last handle.
            let _handle = handle;
            while messages.next().await.is_some() {
                let latest = Instant::now() + PATIENCE;
                // What is dropped from a full socket buffer is told like any change (as an overrun), so
                // nothing is missed here.
                while let Ok(Some(_)) = timeout_at(latest.min(Instant::now() + QUIET), messages.next()).await
                {
                }
                match sender.try_send(()) {
                    Err(mpsc::error::TrySendError::Closed(())) => return,
                    // One that nobody has taken yet tells of this change as well.
                    Err(mpsc::error::TrySendError::Full(())) | Ok(()) => {}
                }
            }
        });
        Ok(futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|()| ((), receiver))
        })
        .boxed())
    }
}
