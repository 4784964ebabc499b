//! Draining backends, and waiting until their last flow has ended.

use std::{io, time::Duration};

use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::{
    grammar::OneBackend,
    render::{self, live_flows},
    screen::Screen,
    units,
};
use crate::api::{
    client::{Client, ClientError},
    types::{Backend, Endpoint, EndpointState, Left, Removed},
};

/// How often the daemon is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// The least time between two lines that stay on the screen.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Why a backend was not drained to the end.
#[derive(Debug, Error)]
pub(super) enum DrainError {
    /// The daemon refused, or went.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer could not be printed.
    #[error("cannot print the answer: {0}; free the disk or the pipe that standard output goes to")]
    Output(#[from] io::Error),
    /// Its flows are another node's.
    #[error(
        "{backend} runs on {node}, and only there its flows are known; nothing was changed: run `meshctl backends drain \
         {service} {backend} --wait` on {node}, and the same without --wait here"
    )]
    Elsewhere {
        /// Its endpoint.
        backend: String,
        /// Its service.
        service: String,
        /// Its node.
        node: String,
    },
    /// A task is detached where it runs.
    #[error(
        "{endpoint} runs on {node}, and is detached there; nothing was changed: run the same command on {node}"
    )]
    DetachElsewhere {
        /// The endpoint.
        endpoint: String,
        /// Its node.
        node: String,
    },
    /// Somebody gave it another weight in the meantime.
    #[error("{backend} has the weight {weight} again, so it drains no longer; find out who gave it that")]
    Undone {
        /// Its endpoint.
        backend: String,
        /// Its weight.
        weight: u16,
    },
    /// The time is over.
    #[error(
        "{backend} is not drained after {}: {}; it goes on draining, and the same command waits again",
        units::age(.after.as_secs()),
        live_flows(*.left)
    )]
    Late {
        /// Its endpoint.
        backend: String,
        /// How long was waited.
        after: Duration,
        /// How many flows live.
        left: u64,
    },
}

/// Drains a backend, and returns when its last flow has ended.
pub(super) async fn and_wait(
    client: &Client,
    screen: &Screen,
    OneBackend { service, backend }: &OneBackend,
    timeout: Duration,
) -> Result<(), DrainError> {
    let found = client.backend(service, backend).await?;
    if matches!(found.state, EndpointState::Remote | EndpointState::Gone) {
        return Err(DrainError::Elsewhere {
            backend: found.endpoint,
            service: service.clone(),
            node: found.node,
        });
    }
    let drained = drained(client, screen, service, &found.endpoint, timeout).await?;
    Ok(screen.show(&drained, |backend, _| render::backend_drained(backend))?)
}

/// Drains the backend that an endpoint is, if it is one, and detaches it when its last flow has ended or the time is over.
pub(super) async fn and_detach(
    client: &Client,
    screen: &Screen,
    name: &str,
    timeout: Duration,
) -> Result<Removed, DrainError> {
    let endpoint = client.endpoint(name).await?;
    let Some(service) = endpoint.service else { return Ok(client.detach(name).await?) };
    if endpoint.state == EndpointState::Remote {
        return Err(DrainError::DetachElsewhere { endpoint: endpoint.name, node: endpoint.node });
    }
    let before = client.backend(&service, name).await?;
    match drained(client, screen, &service, name, timeout).await {
        Ok(_) => {}
        Err(DrainError::Late { backend, after, left }) => eprintln!(
            "meshctl: {backend} is not drained after {}: {}, which end now",
            units::age(after.as_secs()),
            live_flows(left)
        ),
        Err(error) => return Err(error),
    }
    match client.detach(name).await {
        Err(refused @ ClientError::Refused { .. }) => {
            // What stays takes new flows again.
            client.weigh_backend(&service, name, before.weight).await?;
            Err(refused.into())
        }
        answer => Ok(answer?),
    }
}

/// Drains every backend of this node, and leaves the cluster when their last flow has ended or the time is over.
pub(super) async fn and_leave(
    client: &Client,
    screen: &Screen,
    timeout: Duration,
) -> Result<Left, DrainError> {
    if client.status().await?.cluster.is_none() {
        // Which is refused, and says why.
        return Ok(client.leave().await?);
    }
    let is_here =
        |endpoint: &Endpoint| !matches!(endpoint.state, EndpointState::Remote | EndpointState::Gone);
    let here = client.endpoints().await?.into_iter().filter(is_here);
    let backends: Vec<(String, String)> =
        here.filter_map(|endpoint| Some((endpoint.service?, endpoint.name))).collect();
    let started = Instant::now();
    // All of them before the first is waited for.
    for (service, name) in &backends {
        client.weigh_backend(service, name, 0).await?;
    }
    for (service, name) in &backends {
        match drained(client, screen, service, name, timeout.saturating_sub(started.elapsed())).await {
            Ok(_) => {}
            Err(DrainError::Late { backend, left, .. }) => {
                eprintln!("meshctl: {backend} is not drained: {}, which end now", live_flows(left));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(client.leave().await?)
}

/// Drains a backend of this node; how it is when its last flow has ended.
async fn drained(
    client: &Client,
    screen: &Screen,
    service: &str,
    name: &str,
    timeout: Duration,
) -> Result<Backend, DrainError> {
    let started = Instant::now();
    let mut progress = Progress { screen, last: None };
    let mut now = client.weigh_backend(service, name, 0).await?;
    loop {
        let left = now.flows.unwrap_or_default();
        if now.weight > 0 {
            progress.end()?;
            return Err(DrainError::Undone { backend: now.endpoint, weight: now.weight });
        }
        if left == 0 {
            progress.end()?;
            return Ok(now);
        }
        progress.tell(&now, left)?;
        let rest = timeout.saturating_sub(started.elapsed());
        if rest.is_zero() {
            progress.end()?;
            return Err(DrainError::Late { backend: now.endpoint, after: timeout, left });
        }
        sleep(ASK_EVERY.min(rest)).await;
        now = client.backend(service, name).await?;
    }
}

/// What people see while they wait: on a terminal one line that is written over, elsewhere a line now and then. Programs
/// get the end alone.
struct Progress<'a> {
    screen: &'a Screen,
    /// When the last line was printed, and how many flows it told.
    last: Option<(Instant, u64)>,
}

impl Progress<'_> {
    fn tell(&mut self, backend: &Backend, left: u64) -> io::Result<()> {
        let line = || format!("{} drains: {}", backend.endpoint, live_flows(left));
        let is_terminal = self.screen.is_terminal();
        let is_due = match self.last {
            None => true,
            Some((at, told)) => told != left && (is_terminal || at.elapsed() >= LINE_EVERY),
        };
        if !self.screen.is_for_people() || !is_due {
            return Ok(());
        }
        self.last = Some((Instant::now(), left));
        if is_terminal { self.screen.overwrite(&line()) } else { self.screen.line(&line()) }
    }

    /// Leaves the line to what is said next.
    fn end(&self) -> io::Result<()> {
        if self.last.is_some() && self.screen.is_terminal() { self.screen.overwrite("") } else { Ok(()) }
    }
}
