//! What commands do to the cluster's keys.

use mesh_cluster::seal::{KeyId, Secret};

use crate::{
    api::{
        KeyChange, Refusal, RefusalKind,
        types::{ClusterKey, KeyText},
    },
    gossip::{Handle, KeyError, KeyInfo, WriteError},
};

/// The keyring, the key in use first.
pub(super) async fn list(cluster: Option<&Handle>) -> Result<Vec<ClusterKey>, Refusal> {
    Ok(here(cluster)?.keys().await.into_iter().map(view).collect())
}

/// Changes every node's keyring; returns the key that was changed, if it is still there.
pub(super) async fn change(cluster: Option<&Handle>, change: KeyChange) -> Result<String, Refusal> {
    let cluster = here(cluster)?;
    let (id, outcome) = match change {
        KeyChange::Install(KeyText(text)) => {
            // What is wrong with it is said without it.
            let key: Secret = text.trim().parse().map_err(|why| {
                Refusal::new(
                    RefusalKind::Invalid,
                    format!("that is no key: {why}"),
                    "`meshctl keys generate` makes one",
                )
            })?;
            (key.id(), cluster.install_key(key).await.map(drop))
        }
        KeyChange::Use(text) => {
            let id = named(&text)?;
            (id, cluster.use_key(id).await)
        }
        KeyChange::Remove(text) => {
            let id = named(&text)?;
            (id, cluster.remove_key(id).await)
        }
    };
    outcome.map_err(|error| refusal(&error)).map(|()| id.to_string())
}

fn view(key: KeyInfo) -> ClusterKey {
    ClusterKey { id: key.id.to_string(), in_use: key.in_use, nodes: key.known.map(|(nodes, _)| nodes) }
}

fn here(cluster: Option<&Handle>) -> Result<&Handle, Refusal> {
    cluster.ok_or_else(|| {
        Refusal::new(
            RefusalKind::Invalid,
            "this node is in no cluster, so it has no keys",
            "write a section `cluster` with a keyring into its configuration, and restart meshd",
        )
    })
}

fn named(text: &str) -> Result<KeyId, Refusal> {
    text.parse().map_err(|_| {
        Refusal::new(
            RefusalKind::NotFound,
            format!("there is no key {text:?}"),
            "`meshctl keys ls` lists them",
        )
    })
}

fn refusal(error: &KeyError) -> Refusal {
    let (kind, mend) = match error {
        KeyError::Missing(_) => (RefusalKind::NotFound, "`meshctl keys ls` lists them"),
        KeyError::InUse { .. } => (
            RefusalKind::Conflict,
            "put another into use with `meshctl keys use ID`, and repeat this when every node has",
        ),
        KeyError::Full(_) => {
            (RefusalKind::Conflict, "remove one that is not in use with `meshctl keys remove ID`")
        }
        KeyError::Write(WriteError::Disk(_)) => (RefusalKind::Failed, "free or mend the disk of state_dir"),
        KeyError::Write(WriteError::Entry(_)) => (RefusalKind::Failed, "see the daemon's log"),
        KeyError::Write(WriteError::Ended) => {
            (RefusalKind::Unavailable, "start it again, and repeat the command")
        }
    };
    Refusal::new(kind, error.to_string(), mend)
}
