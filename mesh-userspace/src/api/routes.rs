//! The paths under `/v1`, and what each is answered with.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State,
        rejection::QueryRejection,
    },
    http::{Method, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::{
    BODY_MAX, Change, Control, FlowDump, KeyChange, Refusal, RefusalKind, Snapshot,
    types::{
        Attach, Backend, BackendAdd, BackendWeight, ClusterKey, Down, DropCount, Endpoint, ErrorBody,
        ExplainQuery, Explanation, FlowFilter, Flows, KeyInstall, KeyUse, Left, Network, NetworkCreate, Node,
        Removed, Service, ServiceCreate, Stats, Status, TraceQuery,
    },
    views,
};

/// How long a client may take to send a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long each step of leaving waits for the other nodes where nothing else is asked for.
const LEAVE_WAIT: Duration = Duration::from_secs(10);

struct Api<C> {
    control: Arc<C>,
    stopped: watch::Receiver<bool>,
}

impl<C> Clone for Api<C> {
    fn clone(&self) -> Self {
        Self { control: Arc::clone(&self.control), stopped: self.stopped.clone() }
    }
}

type Answer<T> = Result<Json<T>, Refused>;
type Created<T> = Result<(StatusCode, Json<T>), Refused>;

/// Every path.
pub(super) fn router<C: Control>(control: Arc<C>, stopped: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<C>))
        .route("/v1/nodes", get(nodes::<C>))
        .route("/v1/nodes/{name}", get(node::<C>).delete(remove_node::<C>))
        .route("/v1/networks", get(networks::<C>).post(create_network::<C>))
        .route("/v1/networks/{name}", get(network::<C>).delete(remove_network::<C>))
        .route("/v1/services", get(services::<C>).post(create_service::<C>))
        .route("/v1/services/{name}", get(service::<C>).delete(remove_service::<C>))
        .route("/v1/services/{name}/tasks", get(tasks::<C>))
        .route("/v1/services/{name}/backends", get(tasks::<C>).post(add_backend::<C>))
        .route(
            "/v1/services/{name}/backends/{backend}",
            get(backend::<C>).put(weigh_backend::<C>).delete(remove_backend::<C>),
        )
        .route("/v1/backends", get(backends::<C>))
        .route("/v1/endpoints", get(endpoints::<C>).post(attach::<C>))
        .route("/v1/endpoints/{name}", get(endpoint::<C>).delete(detach::<C>))
        .route("/v1/flows", get(flows::<C>))
        .route("/v1/drops", get(drops::<C>))
        .route("/v1/stats", get(stats::<C>))
        .route("/v1/explain", get(explain::<C>))
        .route("/v1/trace", get(trace::<C>))
        .route("/v1/leave", post(leave::<C>))
        .route("/v1/keys", get(keys::<C>).post(install_key::<C>))
        .route("/v1/keys/{id}", put(use_key::<C>).delete(remove_key::<C>))
        .route("/v1/down", post(down::<C>))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Api { control, stopped })
}

async fn status<C: Control>(State(api): State<Api<C>>) -> Answer<Status> {
    let maps = api.control.map_uses().await?;
    Ok(Json(views::status(&api.control.snapshot(), maps, SystemTime::now())))
}

async fn nodes<C: Control>(State(api): State<Api<C>>) -> Json<Vec<Node>> {
    Json(views::nodes(&api.control.snapshot(), SystemTime::now()))
}

async fn node<C: Control>(State(api): State<Api<C>>, Path(name): Path<String>) -> Answer<Node> {
    let snapshot = api.control.snapshot();
    let node = snapshot.table.nodes.get(&name).ok_or_else(|| missing("node", "nodes", &name))?;
    Ok(Json(views::node(&snapshot, &name, node, SystemTime::now())))
}

async fn networks<C: Control>(State(api): State<Api<C>>) -> Json<Vec<Network>> {
    Json(views::networks(&api.control.snapshot()))
}

async fn network<C: Control>(State(api): State<Api<C>>, Path(name): Path<String>) -> Answer<Network> {
    Ok(Json(network_named(&api.control.snapshot(), &name)?))
}

fn network_named(snapshot: &Snapshot, name: &str) -> Result<Network, Refused> {
    let network = snapshot.table.networks.get(name).ok_or_else(|| missing("network", "networks", name))?;
    Ok(views::network(snapshot, name, network))
}

async fn create_network<C: Control>(
    State(api): State<Api<C>>,
    Waiting(wait): Waiting,
    Asked(asked): Asked<NetworkCreate>,
) -> Created<Network> {
    let changed = api.control.change(Change::CreateNetwork(asked), wait).await?;
    Ok((StatusCode::CREATED, Json(network_named(&api.control.snapshot(), &changed.name)?)))
}

async fn remove_network<C: Control>(
    State(api): State<Api<C>>,
    Path(name): Path<String>,
    Waiting(wait): Waiting,
) -> Answer<Removed> {
    remove(&api, Change::RemoveNetwork(name), wait).await
}

async fn services<C: Control>(State(api): State<Api<C>>) -> Json<Vec<Service>> {
    Json(views::services(&api.control.snapshot()))
}

async fn service<C: Control>(State(api): State<Api<C>>, Path(name): Path<String>) -> Answer<Service> {
    Ok(Json(service_named(&api.control.snapshot(), &name)?))
}

fn service_named(snapshot: &Snapshot, name: &str) -> Result<Service, Refused> {
    let service = snapshot.table.services.get(name).ok_or_else(|| missing("service", "services", name))?;
    Ok(views::service(snapshot, name, service))
}

async fn create_service<C: Control>(
    State(api): State<Api<C>>,
    Waiting(wait): Waiting,
    Asked(asked): Asked<ServiceCreate>,
) -> Created<Service> {
    let changed = api.control.change(Change::CreateService(asked), wait).await?;
    Ok((StatusCode::CREATED, Json(service_named(&api.control.snapshot(), &changed.name)?)))
}

async fn remove_service<C: Control>(
    State(api): State<Api<C>>,
    Path(name): Path<String>,
    Waiting(wait): Waiting,
) -> Answer<Removed> {
    remove(&api, Change::RemoveService(name), wait).await
}

async fn tasks<C: Control>(State(api): State<Api<C>>, Path(name): Path<String>) -> Answer<Vec<Backend>> {
    backends_of(&api, Some(name)).await
}

async fn add_backend<C: Control>(
    State(api): State<Api<C>>,
    Path(service): Path<String>,
    Waiting(wait): Waiting,
    Asked(asked): Asked<BackendAdd>,
) -> Created<Backend> {
    let changed = api.control.change(Change::AddBackend { service: service.clone(), asked }, wait).await?;
    Ok((StatusCode::CREATED, backend_named(&api, service, changed.name).await?))
}

async fn backend<C: Control>(
    State(api): State<Api<C>>,
    Path((service, backend)): Path<(String, String)>,
) -> Answer<Backend> {
    backend_named(&api, service, backend).await
}

async fn weigh_backend<C: Control>(
    State(api): State<Api<C>>,
    Path((service, backend)): Path<(String, String)>,
    Waiting(wait): Waiting,
    Asked(asked): Asked<BackendWeight>,
) -> Answer<Backend> {
    let change = Change::WeighBackend { service: service.clone(), backend, weight: asked.weight };
    let changed = api.control.change(change, wait).await?;
    backend_named(&api, service, changed.name).await
}

async fn remove_backend<C: Control>(
    State(api): State<Api<C>>,
    Path((service, backend)): Path<(String, String)>,
    Waiting(wait): Waiting,
) -> Answer<Removed> {
    remove(&api, Change::RemoveBackend { service, backend }, wait).await
}

async fn backend_named<C: Control>(api: &Api<C>, service: String, text: String) -> Answer<Backend> {
    let view = with_flows(api, move |snapshot, dump| {
        let (name, endpoint) = super::backends::backend(&snapshot.table, &service, &text)?;
        Ok(views::backend(snapshot, dump, &service, name, endpoint))
    });
    view.await?.map(Json).map_err(|refusal: Refusal| refusal.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfService {
    service: Option<String>,
}

async fn backends<C: Control>(
    State(api): State<Api<C>>,
    Filter(of): Filter<OfService>,
) -> Answer<Vec<Backend>> {
    backends_of(&api, of.service).await
}

async fn backends_of<C: Control>(api: &Api<C>, service: Option<String>) -> Answer<Vec<Backend>> {
    if let Some(name) = &service {
        service_named(&api.control.snapshot(), name)?;
    }
    Ok(Json(
        with_flows(api, move |snapshot, dump| views::backends(snapshot, dump, service.as_deref())).await?,
    ))
}

async fn endpoints<C: Control>(State(api): State<Api<C>>) -> Json<Vec<Endpoint>> {
    Json(views::endpoints(&api.control.snapshot()))
}

async fn endpoint<C: Control>(State(api): State<Api<C>>, Path(name): Path<String>) -> Answer<Endpoint> {
    Ok(Json(endpoint_named(&api.control.snapshot(), &name)?))
}

fn endpoint_named(snapshot: &Snapshot, name: &str) -> Result<Endpoint, Refused> {
    let endpoint =
        snapshot.table.endpoints.get(name).ok_or_else(|| missing("endpoint", "endpoints", name))?;
    Ok(views::endpoint(snapshot, name, endpoint))
}

async fn attach<C: Control>(
    State(api): State<Api<C>>,
    Waiting(wait): Waiting,
    Asked(asked): Asked<Attach>,
) -> Created<Endpoint> {
    let changed = api.control.change(Change::Attach(asked), wait).await?;
    Ok((StatusCode::CREATED, Json(endpoint_named(&api.control.snapshot(), &changed.name)?)))
}

async fn detach<C: Control>(
    State(api): State<Api<C>>,
    Path(name): Path<String>,
    Waiting(wait): Waiting,
) -> Answer<Removed> {
    remove(&api, Change::Detach(name), wait).await
}

async fn remove_node<C: Control>(
    State(api): State<Api<C>>,
    Path(name): Path<String>,
    Waiting(wait): Waiting,
) -> Answer<Removed> {
    remove(&api, Change::RemoveNode(name), wait).await
}

async fn remove<C: Control>(api: &Api<C>, change: Change, wait: Option<Duration>) -> Answer<Removed> {
    let changed = api.control.change(change, wait).await?;
    Ok(Json(Removed { name: changed.name, revision: changed.revision }))
}

async fn flows<C: Control>(State(api): State<Api<C>>, Filter(filter): Filter<FlowFilter>) -> Answer<Flows> {
    Ok(Json(with_flows(&api, move |snapshot, dump| views::flows(snapshot, dump, &filter)).await?))
}

/// A view of all flows.
async fn with_flows<C: Control, T: Send + 'static>(
    api: &Api<C>,
    view: impl FnOnce(&Snapshot, &FlowDump) -> T + Send + 'static,
) -> Result<T, Refused> {
    let dump = api.control.flows().await?;
    let snapshot = api.control.snapshot();
    // There may be hundreds of thousands, and others have their turn in the meantime.
    tokio::task::spawn_blocking(move || view(&snapshot, &dump)).await.map_err(|error| failed(&error))
}

fn failed(why: &dyn std::fmt::Display) -> Refused {
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the flows cannot be told: {why}"), "try again")
}

async fn drops<C: Control>(State(api): State<Api<C>>) -> Answer<Vec<DropCount>> {
    Ok(Json(views::drops(&api.control.drops().await?)))
}

async fn stats<C: Control>(State(api): State<Api<C>>) -> Answer<Stats> {
    let drops = api.control.drops().await?;
    let counters = api.control.counters().await?;
    Ok(Json(views::stats(&drops, &counters, api.control.map_uses().await?)))
}

async fn explain<C: Control>(
    State(api): State<Api<C>>,
    Filter(query): Filter<ExplainQuery>,
) -> Answer<Explanation> {
    Ok(Json(views::explain(&api.control.snapshot(), &query)?))
}

async fn trace<C: Control>(
    State(api): State<Api<C>>,
    Filter(query): Filter<TraceQuery>,
) -> Result<Response, Refused> {
    let lines = api.control.trace(query.every.get()).await?;
    let mut stopped = api.stopped.clone();
    let end = async move {
        // A sender that is gone has stopped as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let tracer = views::Tracer::new();
    let bytes = lines.take_until(Box::pin(end)).map(move |record| {
        let line = tracer.line(&api.control.snapshot(), &record);
        // A line has only strings and numbers in it, which JSON always takes; a lost one would be no harm.
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(text))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response())
}

async fn leave<C: Control>(State(api): State<Api<C>>, Waiting(wait): Waiting) -> Answer<Left> {
    let node = api.control.snapshot().node.clone();
    api.control.leave(wait.unwrap_or(LEAVE_WAIT)).await?;
    Ok(Json(Left { node }))
}

async fn keys<C: Control>(State(api): State<Api<C>>) -> Answer<Vec<ClusterKey>> {
    Ok(Json(api.control.keys().await?))
}

async fn install_key<C: Control>(
    State(api): State<Api<C>>,
    Asked(asked): Asked<KeyInstall>,
) -> Created<ClusterKey> {
    let id = api.control.change_key(KeyChange::Install(asked.key)).await?;
    Ok((StatusCode::CREATED, Json(key_named(&api, &id).await?)))
}

async fn use_key<C: Control>(
    State(api): State<Api<C>>,
    Path(id): Path<String>,
    Asked(asked): Asked<KeyUse>,
) -> Answer<ClusterKey> {
    if !asked.in_use {
        return Err(Refused::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "a key goes out of use when another comes into use",
            "put another into use",
        ));
    }
    let id = api.control.change_key(KeyChange::Use(id)).await?;
    Ok(Json(key_named(&api, &id).await?))
}

async fn remove_key<C: Control>(State(api): State<Api<C>>, Path(id): Path<String>) -> Answer<Removed> {
    let name = api.control.change_key(KeyChange::Remove(id)).await?;
    Ok(Json(Removed { name, revision: api.control.snapshot().revision }))
}

async fn key_named<C: Control>(api: &Api<C>, id: &str) -> Result<ClusterKey, Refused> {
    let keys = api.control.keys().await?;
    keys.into_iter().find(|key| key.id == id).ok_or_else(|| missing("key", "keys", id))
}

async fn down<C: Control>(State(api): State<Api<C>>) -> Answer<Down> {
    let node = api.control.snapshot().node.clone();
    api.control.down().await?;
    Ok(Json(Down { node }))
}

async fn no_such_path(uri: Uri) -> Refused {
    Refused::new(
        StatusCode::NOT_FOUND,
        format!("the API has no path {}", uri.path()),
        "its paths begin with /v1/ and a noun in the plural, such as /v1/services; a path that another \
         version documents needs that version of meshd",
    )
}

async fn no_such_method(method: Method, uri: Uri) -> Refused {
    Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} does not take {method}", uri.path()),
        "use GET to read, POST to a noun to create, PUT on a name to change, DELETE on it to remove",
    )
}

fn missing(noun: &str, nouns: &str, name: &str) -> Refused {
    Refused::new(
        StatusCode::NOT_FOUND,
        format!("there is no {noun} {name:?}"),
        format!("`meshctl {nouns} ls` lists them"),
    )
}

/// A request's body, as JSON.
struct Asked<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let body = match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(Ok(body)) => body,
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(Refused::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the body is longer than {BODY_MAX} bytes"),
                    "ask for one thing at a time; what is greater belongs into the configuration file",
                ));
            }
            Ok(Err(rejection)) => {
                return Err(Refused::new(
                    StatusCode::BAD_REQUEST,
                    format!("the body could not be read: {}", rejection.body_text()),
                    "send it again",
                ));
            }
            Err(_) => {
                return Err(Refused::new(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()),
                    "send as many bytes as Content-Length says",
                ));
            }
        };
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            Refused::new(
                StatusCode::BAD_REQUEST,
                format!("the body is not what {method} {path} takes: {error}"),
                "send a JSON object with the fields that docs/API.md lists for it",
            )
        })
    }
}

/// A request's query.
struct Filter<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Filter<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path = parts.uri.path().to_owned();
        let Query(query) =
            Query::from_request_parts(parts, state).await.map_err(|rejection: QueryRejection| {
                Refused::new(
                    StatusCode::BAD_REQUEST,
                    format!("the query is not what {} {path} takes: {}", parts.method, rejection.body_text()),
                    "name only the parameters that docs/API.md lists for it",
                )
            })?;
        Ok(Self(query))
    }
}

/// How long a change may wait for every living node to apply it: the query's `wait`, in seconds. None for not at all.
struct Waiting(Option<Duration>);

impl<S: Send + Sync> FromRequestParts<S> for Waiting {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wait {
            wait: Option<u32>,
        }
        let Filter(Wait { wait }) = Filter::from_request_parts(parts, state).await?;
        Ok(Self(wait.map(|seconds| Duration::from_secs(seconds.into()))))
    }
}

/// A refusal on its way to the client.
struct Refused(StatusCode, ErrorBody);

impl Refused {
    fn new(status: StatusCode, error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self(status, ErrorBody { error: error.into(), mend: mend.into() })
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Unconfirmed => StatusCode::GATEWAY_TIMEOUT,
            RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refusal.error, refusal.mend)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}
