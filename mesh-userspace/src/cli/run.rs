//! From a command to its answer.

use std::{io, num::NonZeroU32, process::ExitCode, time::Duration};

use futures::StreamExt;
use thiserror::Error;
use tokio::time;

use super::{
    drain::{self, DrainError},
    grammar::{
        Attach, Backends, Cli, Command, Endpoints, Explain, FlowFilters, Flows, Keys, Names, Networks, Nodes,
        OneBackend, Services,
    },
    keys::{self, KeyFailure},
    render,
    screen::Screen,
};
use crate::api::{
    client::{Client, ClientError},
    types::{self, BackendAdd, DropCount, ExplainQuery, FlowFilter, NetworkCreate, Removed, ServiceCreate},
};

/// How long a detached endpoint drains at most, if nobody says.
const DRAIN: Duration = Duration::from_mins(10);
/// How long every node has to apply that it is detached, if nobody says.
const WAIT: Duration = Duration::from_secs(30);
/// Refused, by the daemon or for want of one; clap has 2 for wrong usage.
const REFUSED: u8 = 1;

#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Drain(#[from] DrainError),
    #[error("cannot print the answer: {0}; free the disk or the pipe that standard output goes to")]
    Output(#[from] io::Error),
    #[error("cannot make the path `{0}` absolute: {1}; give it from the root")]
    Path(String, io::Error),
    #[error(transparent)]
    Key(#[from] KeyFailure),
    #[error("cannot wait for the daemon: {0}; try again")]
    Runtime(io::Error),
    /// Everything is told already.
    #[error("")]
    Told,
}

/// Runs a command, and tells people what came of it.
#[must_use]
pub fn main(cli: &Cli) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough: `meshctl flows ls | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::from(REFUSED),
        Err(failure) => {
            tell(&failure);
            ExitCode::from(REFUSED)
        }
    }
}

fn tell(failure: &impl std::fmt::Display) {
    eprintln!("meshctl: {failure}");
}

async fn run(cli: &Cli) -> Result<(), Failure> {
    let client = Client::new(&cli.socket);
    let screen = Screen::new(cli.output);
    match &cli.command {
        Command::Status { check } => {
            let status = client.status().await?;
            screen.show(&status, render::status)?;
            if *check && !status.problems.is_empty() { Err(Failure::Told) } else { Ok(()) }
        }
        Command::Nodes(command) => nodes(&client, &screen, command).await,
        Command::Networks(command) => networks(&client, &screen, command).await,
        Command::Services(command) => services(&client, &screen, command).await,
        Command::Backends(command) => backends(&client, &screen, command).await,
        Command::Endpoints(Endpoints::Ls) => {
            Ok(screen.show(&client.endpoints().await?[..], render::endpoints)?)
        }
        Command::Endpoints(Endpoints::Inspect(of)) => {
            Ok(screen.show(&client.endpoint(&of.name).await?, |endpoint, _| render::endpoint(endpoint))?)
        }
        Command::Attach(attach) => {
            let endpoint = client.waiting(attach.wait.time()).attach(&attach_body(attach)?).await?;
            Ok(screen.show(&endpoint, |endpoint, _| render::attached(endpoint))?)
        }
        Command::Detach { names, drain, wait, timeout } => {
            let client = client.waiting(wait.then_some(timeout.unwrap_or(WAIT)));
            if !drain {
                return remove(&screen, ("endpoint", "detached"), names, |name| client.detach(name)).await;
            }
            for name in names {
                let removed = drain::and_detach(&client, &screen, name, timeout.unwrap_or(DRAIN)).await?;
                screen.show_next(&removed, |removed, _| render::removed("endpoint", "detached", removed))?;
            }
            Ok(())
        }
        Command::Flows(Flows::Ls(filters)) => {
            Ok(screen.show(&client.flows(&filter(filters)).await?, render::flows)?)
        }
        Command::Drops { all } => {
            let mut drops = client.drops().await?;
            drops.retain(|drop| *all || drop.packets > 0);
            Ok(screen.show(&drops[..], |drops: &[DropCount], paint| render::drops(drops, paint))?)
        }
        Command::Stats { watch: None } => Ok(screen.show(&client.stats().await?, render::stats)?),
        Command::Stats { watch: Some(seconds) } => watch(&client, &screen, *seconds).await,
        Command::Trace { every, count } => {
            let lines = client.trace(*every).await?;
            let limit = count.map_or(usize::MAX, |count| usize::try_from(count.get()).unwrap_or(usize::MAX));
            let mut lines = lines.take(limit);
            while let Some(line) = lines.next().await {
                screen.show_next(&line?, |line, _| render::trace(line))?;
            }
            Ok(())
        }
        Command::Explain(explain) => {
            Ok(screen.show(&client.explain(&question(explain)).await?, render::explanation)?)
        }
        Command::Keys(command) => keys(&client, &screen, command).await,
        Command::Down => Ok(screen.show(&client.down().await?, |down, _| render::down(down))?),
    }
}

async fn nodes(client: &Client, screen: &Screen, command: &Nodes) -> Result<(), Failure> {
    match command {
        Nodes::Ls => Ok(screen.show(&client.nodes().await?[..], render::nodes)?),
        Nodes::Inspect(of) => Ok(screen.show(&client.node(&of.name).await?, |node, _| render::node(node))?),
        Nodes::Leave { drain, timeout } => {
            let left = if *drain {
                drain::and_leave(client, screen, *timeout).await?
            } else {
                client.leave().await?
            };
            Ok(screen.show(&left, |left, _| render::left(left))?)
        }
        Nodes::Rm { of: Names { names }, wait } => {
            let client = client.clone().waiting(wait.time());
            remove(screen, ("node", "removed"), names, |name| client.remove_node(name)).await
        }
    }
}

async fn networks(client: &Client, screen: &Screen, command: &Networks) -> Result<(), Failure> {
    match command {
        Networks::Ls => Ok(screen.show(&client.networks().await?[..], render::networks)?),
        Networks::Inspect(of) => {
            Ok(screen.show(&client.network(&of.name).await?, |network, _| render::network(network))?)
        }
        Networks::Create { name, subnets, vni, internal, wait } => {
            let body = NetworkCreate {
                name: name.clone(),
                subnets: subnets.clone(),
                vni: *vni,
                internal: *internal,
            };
            let network = client.clone().waiting(wait.time()).create_network(&body).await?;
            Ok(screen.show(&network, |network, _| render::network_created(network))?)
        }
        Networks::Rm { of: Names { names }, wait } => {
            let client = client.clone().waiting(wait.time());
            remove(screen, ("network", "removed"), names, |name| client.remove_network(name)).await
        }
    }
}

async fn services(client: &Client, screen: &Screen, command: &Services) -> Result<(), Failure> {
    match command {
        Services::Ls => Ok(screen.show(&client.services().await?[..], render::services)?),
        Services::Inspect(of) => {
            Ok(screen.show(&client.service(&of.name).await?, |service, _| render::service(service))?)
        }
        Services::Ps(of) => {
            let tasks = client.tasks(&of.name).await?;
            Ok(screen.show(&tasks[..], |tasks, paint| render::backends(tasks, Some(&of.name), paint))?)
        }
        Services::Create {
            name,
            networks,
            ports,
            sources,
            scheduler,
            endpoint_mode,
            on_no_backend,
            persistent,
            vips,
            health,
            wait,
        } => {
            let mut ports = ports.clone();
            for port in &mut ports {
                port.sources.extend(sources);
            }
            let body = ServiceCreate {
                name: name.clone(),
                networks: networks.clone(),
                vips: vips.clone(),
                scheduler: *scheduler,
                endpoint_mode: *endpoint_mode,
                on_no_backend: *on_no_backend,
                persistent: *persistent,
                health_check: health.asked().map(Box::new),
                ports,
            };
            let service = client.clone().waiting(wait.time()).create_service(&body).await?;
            Ok(screen.show(&service, |service, _| render::service_created(service))?)
        }
        Services::Rm { of: Names { names }, wait } => {
            let client = client.clone().waiting(wait.time());
            remove(screen, ("service", "removed"), names, |name| client.remove_service(name)).await
        }
    }
}

async fn backends(client: &Client, screen: &Screen, command: &Backends) -> Result<(), Failure> {
    match command {
        Backends::Ls { service } => {
            let backends = client.backends(service.as_deref()).await?;
            Ok(screen.show(&backends[..], |backends, paint| {
                render::backends(backends, service.as_deref(), paint)
            })?)
        }
        Backends::Add { service, backend, weight, node, forward, wait } => {
            let body = BackendAdd {
                backend: backend.clone(),
                weight: *weight,
                node: node.clone(),
                forward: forward.clone(),
            };
            let backend = client.clone().waiting(wait.time()).add_backend(service, &body).await?;
            Ok(screen.show(&backend, |backend, _| render::backend_added(backend))?)
        }
        Backends::Rm { of: OneBackend { service, backend }, wait } => {
            let client = client.clone().waiting(wait.time());
            let removed = client.remove_backend(service, backend).await?;
            Ok(screen.show(&removed, |removed, _| render::backend_removed(service, removed))?)
        }
        Backends::Weight { of: OneBackend { service, backend }, weight, wait } => {
            let client = client.clone().waiting(wait.time());
            let backend = client.weigh_backend(service, backend, *weight).await?;
            Ok(screen.show(&backend, |backend, _| render::backend_weighed(backend))?)
        }
        Backends::Drain { of: OneBackend { service, backend }, wait: false, .. } => {
            let backend = client.weigh_backend(service, backend, 0).await?;
            Ok(screen.show(&backend, |backend, _| render::backend_weighed(backend))?)
        }
        Backends::Drain { of, wait: true, timeout } => {
            Ok(drain::and_wait(client, screen, of, *timeout).await?)
        }
    }
}

async fn keys(client: &Client, screen: &Screen, command: &Keys) -> Result<(), Failure> {
    match command {
        Keys::Generate => Ok(screen.show(&keys::generate()?, |fresh, _| fresh.keyring.clone())?),
        Keys::Install { key } => {
            let key = client.install_key(keys::given(key)?).await?;
            Ok(screen.show(&key, |key, _| render::key_installed(key))?)
        }
        Keys::Use { id } => Ok(screen.show(&client.use_key(id).await?, |key, _| render::key_used(key))?),
        Keys::Remove { id } => {
            let removed = client.remove_key(id).await?;
            Ok(screen.show(&removed, |removed, _| render::removed("key", "removed", removed))?)
        }
        Keys::Ls => Ok(screen.show(&client.keys().await?[..], render::keys)?),
    }
}

/// Removes one after the other; what is refused does not keep the rest.
async fn remove<'a, F>(
    screen: &Screen,
    (noun, how): (&str, &str),
    names: &'a [String],
    ask: impl Fn(&'a str) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Removed, ClientError>>,
{
    let mut outcome = Ok(());
    for name in names {
        match ask(name).await {
            Ok(removed) => screen.show_next(&removed, |removed, _| render::removed(noun, how, removed))?,
            Err(error @ ClientError::Refused { .. }) => {
                tell(&error);
                outcome = Err(Failure::Told);
            }
            Err(error) => return Err(error.into()),
        }
    }
    outcome
}

async fn watch(client: &Client, screen: &Screen, seconds: NonZeroU32) -> Result<(), Failure> {
    let mut ticks = time::interval(Duration::from_secs(seconds.get().into()));
    loop {
        ticks.tick().await;
        let stats = client.stats().await?;
        screen.clear()?;
        screen.show_next(&stats, render::stats)?;
    }
}

fn attach_body(attach: &Attach) -> Result<types::Attach, Failure> {
    // A name under /run/netns has no slash; a path is the caller's, not the daemon's, to resolve.
    let netns = if attach.netns.contains('/') {
        std::path::absolute(&attach.netns)
            .map_err(|error| Failure::Path(attach.netns.clone(), error))?
            .display()
            .to_string()
    } else {
        attach.netns.clone()
    };
    Ok(types::Attach {
        name: attach.name.clone(),
        network: attach.network.clone(),
        netns,
        service: attach.service.clone(),
        weight: attach.weight,
        address: attach.address,
    })
}

fn filter(filters: &FlowFilters) -> FlowFilter {
    FlowFilter {
        service: filters.service.clone(),
        backend: filters.backend.clone(),
        client: filters.client,
        protocol: filters.protocol,
        network: filters.network.clone(),
        limit: Some(filters.limit),
    }
}

fn question(explain: &Explain) -> ExplainQuery {
    ExplainQuery {
        from: explain.from,
        to: explain.to,
        protocol: explain.protocol,
        network: explain.network.clone(),
    }
}
