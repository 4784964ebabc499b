//! The other end: asks a daemon, and says clearly what keeps it from answering.

use std::{
    fmt::Write,
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use futures::{Stream, stream};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, task::JoinHandle};

use super::types::{
    Attach, Backend, BackendAdd, BackendWeight, ClusterKey, Down, DropCount, Endpoint, ErrorBody,
    ExplainQuery, Explanation, FlowFilter, Flows, KeyInstall, KeyText, KeyUse, Left, Network, NetworkCreate,
    Node, Removed, Service, ServiceCreate, Stats, Status, TraceLine,
};

/// How long the daemon may take for an answer: applying a change to the kernel takes well under a second.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The greatest answer in bytes: a million flows at 300 bytes each.
const ANSWER_MAX: usize = 320 << 20;

/// The greatest line of a trace in bytes.
const LINE_MAX: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "there is no socket {0}: meshd is not running, or its run_dir is elsewhere; start it with `systemctl \
         start meshd` or name the socket with --socket"
    )]
    NoSocket(PathBuf),
    /// Nobody listens on it.
    #[error("nobody answers at {0}: meshd has died; start it again with `systemctl start meshd`")]
    Dead(PathBuf),
    /// Something else has its name.
    #[error("{0} is no socket; name meshd's with --socket, such as /run/mesh/meshd.sock")]
    NotASocket(PathBuf),
    /// The user may not use it.
    #[error("you may not use {0}: join the group `mesh` (`usermod -aG mesh $USER`), or use sudo")]
    Permission(PathBuf),
    /// The system refused otherwise.
    #[error("cannot reach meshd at {path}: {source}; name its socket with --socket")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer did not come.
    #[error("meshd at {path} did not answer within {} s; `journalctl -u meshd` may say why", .after.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long it had.
        after: Duration,
    },
    /// The daemon said no.
    #[error("{body}")]
    Refused {
        /// With this status.
        status: StatusCode,
        /// And these words.
        body: ErrorBody,
    },
    /// The conversation broke off, or was none.
    #[error("{path} gave no answer that meshctl understands ({what}); are meshctl and meshd of one version?")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Traced packets as they pass, until the daemon ends them.
pub type Lines = Pin<Box<dyn Stream<Item = Result<TraceLine, ClientError>> + Send>>;

/// A daemon to ask.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    /// How long changes wait for every living node, in seconds; none for not at all.
    wait: Option<u64>,
}

impl Client {
    /// The daemon behind a socket. Nothing is sent yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), timeout: TIMEOUT, wait: None }
    }

    /// With another limit for each answer.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// With changes answered when every living node has applied them, or refused after this time; shorter than a second is one.
    #[must_use]
    pub fn waiting(self, wait: Option<Duration>) -> Self {
        let wait = wait.map(|wait| wait.as_secs().max(1));
        let timeout = TIMEOUT.saturating_add(Duration::from_secs(wait.unwrap_or_default()));
        Self { timeout, wait, ..self }
    }

    /// The daemon and its node.
    ///
    /// # Errors
    /// When there is no answer, or a refusal; so with every other method.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Every node.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// A node.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn node(&self, name: &str) -> Result<Node, ClientError> {
        self.get(&named("nodes", name)).await
    }

    /// Every network.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.get("/v1/networks").await
    }

    /// A network.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn network(&self, name: &str) -> Result<Network, ClientError> {
        self.get(&named("networks", name)).await
    }

    /// Makes a network.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn create_network(&self, network: &NetworkCreate) -> Result<Network, ClientError> {
        self.post("/v1/networks", network).await
    }

    /// Removes a network.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn remove_network(&self, name: &str) -> Result<Removed, ClientError> {
        self.delete(&named("networks", name)).await
    }

    /// Every service.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        self.get("/v1/services").await
    }

    /// A service.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn service(&self, name: &str) -> Result<Service, ClientError> {
        self.get(&named("services", name)).await
    }

    /// The tasks of a service.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn tasks(&self, service: &str) -> Result<Vec<Backend>, ClientError> {
        self.get(&format!("{}/tasks", named("services", service))).await
    }

    /// Makes a service.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn create_service(&self, service: &ServiceCreate) -> Result<Service, ClientError> {
        self.post("/v1/services", service).await
    }

    /// Removes a service.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn remove_service(&self, name: &str) -> Result<Removed, ClientError> {
        self.delete(&named("services", name)).await
    }

    /// The backends of a service, or of all.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn backends(&self, service: Option<&str>) -> Result<Vec<Backend>, ClientError> {
        let mut query = Parameters::new("/v1/backends");
        query.add("service", service);
        self.get(&query.0).await
    }

    /// A backend of a service, by its endpoint's name or an address.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn backend(&self, service: &str, backend: &str) -> Result<Backend, ClientError> {
        self.get(&backend_path(service, backend)).await
    }

    /// Makes an endpoint a backend of a service.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn add_backend(&self, service: &str, backend: &BackendAdd) -> Result<Backend, ClientError> {
        self.post(&format!("{}/backends", named("services", service)), backend).await
    }

    /// Gives a backend another weight; with 0 it drains.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn weigh_backend(
        &self,
        service: &str,
        backend: &str,
        weight: u16,
    ) -> Result<Backend, ClientError> {
        self.put(&backend_path(service, backend), &BackendWeight { weight }).await
    }

    /// Takes a backend out of its service.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn remove_backend(&self, service: &str, backend: &str) -> Result<Removed, ClientError> {
        self.delete(&backend_path(service, backend)).await
    }

    /// Every endpoint.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, ClientError> {
        self.get("/v1/endpoints").await
    }

    /// An endpoint.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn endpoint(&self, name: &str) -> Result<Endpoint, ClientError> {
        self.get(&named("endpoints", name)).await
    }

    /// Attaches a task to a network.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn attach(&self, endpoint: &Attach) -> Result<Endpoint, ClientError> {
        self.post("/v1/endpoints", endpoint).await
    }

    /// Detaches a task.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn detach(&self, name: &str) -> Result<Removed, ClientError> {
        self.delete(&named("endpoints", name)).await
    }

    /// The flows that match a filter.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn flows(&self, filter: &FlowFilter) -> Result<Flows, ClientError> {
        let mut query = Parameters::new("/v1/flows");
        query.add("service", filter.service.as_deref());
        query.add("backend", filter.backend.as_deref());
        query.add("client", filter.client.map(|client| client.to_string()).as_deref());
        query.add("protocol", filter.protocol.map(super::types::protocol_name));
        query.add("network", filter.network.as_deref());
        query.add("limit", filter.limit.map(|limit| limit.to_string()).as_deref());
        self.get(&query.0).await
    }

    /// What was lost, for every reason.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn drops(&self) -> Result<Vec<DropCount>, ClientError> {
        self.get("/v1/drops").await
    }

    /// The counters.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.get("/v1/stats").await
    }

    /// Where a flow would go.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn explain(&self, flow: &ExplainQuery) -> Result<Explanation, ClientError> {
        let mut query = Parameters::new("/v1/explain");
        query.add("from", Some(&flow.from.to_string()));
        query.add("to", Some(&flow.to.to_string()));
        query.add("protocol", Some(super::types::protocol_name(flow.protocol)));
        query.add("network", flow.network.as_deref());
        self.get(&query.0).await
    }

    /// Traces one packet in `every`, for as long as the lines are listened to.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn trace(&self, every: std::num::NonZeroU32) -> Result<Lines, ClientError> {
        let (connection, response) =
            self.within(self.send(Method::GET, &format!("/v1/trace?every={every}"), Bytes::new())).await?;
        let response = self.accept(response).await?;
        let reader = Reader {
            client: self.clone(),
            body: response.into_body(),
            read: Vec::new(),
            _connection: connection,
        };
        Ok(Box::pin(stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.line().await?.map(|line| (line, reader)))
        })))
    }

    /// Removes a node that does not come back, with its endpoints.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn remove_node(&self, name: &str) -> Result<Removed, ClientError> {
        self.delete(&named("nodes", name)).await
    }

    /// Has the daemon's node leave its cluster.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn leave(&self) -> Result<Left, ClientError> {
        self.read(&self.ask(Method::POST, &self.changing("/v1/leave"), Bytes::new()).await?)
    }

    /// The cluster's keys, the one in use first.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn keys(&self) -> Result<Vec<ClusterKey>, ClientError> {
        self.get("/v1/keys").await
    }

    /// Adds a key to every node's keyring.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn install_key(&self, key: KeyText) -> Result<ClusterKey, ClientError> {
        self.post("/v1/keys", &KeyInstall { key }).await
    }

    /// Has every node seal with a key.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn use_key(&self, id: &str) -> Result<ClusterKey, ClientError> {
        self.put(&named("keys", id), &KeyUse { in_use: true }).await
    }

    /// Removes a key from every node's keyring.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn remove_key(&self, id: &str) -> Result<Removed, ClientError> {
        self.delete(&named("keys", id)).await
    }

    /// Takes the data plane away.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn down(&self) -> Result<Down, ClientError> {
        self.read(&self.ask(Method::POST, "/v1/down", Bytes::new()).await?)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&self.ask(Method::GET, path, Bytes::new()).await?)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.send_body(Method::POST, path, body).await
    }

    async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.send_body(Method::PUT, path, body).await
    }

    async fn send_body<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.misunderstood(&error))?;
        self.read(&self.ask(method, &self.changing(path), body.into()).await?)
    }

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&self.ask(Method::DELETE, &self.changing(path), Bytes::new()).await?)
    }

    /// The path of a change, with how long it waits.
    fn changing(&self, path: &str) -> String {
        let mut query = Parameters::new(path);
        query.add("wait", self.wait.map(|seconds| seconds.to_string()).as_deref());
        query.0
    }

    /// Sends a request and reads the whole answer.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.within(async {
            // The connection lives until the body is read.
            let (_connection, response) = self.send(method, path, body).await?;
            let response = self.accept(response).await?;
            self.collect(response.into_body(), ANSWER_MAX).await
        })
        .await
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { path: self.socket.clone(), after: self.timeout }),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Connection, Response<Incoming>), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.misunderstood(&error))?;
        let connection = Connection(tokio::spawn(async move {
            // What goes wrong here is told by whoever waits for the answer.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "meshd")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.misunderstood(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.misunderstood(&error))?;
        Ok((connection, response))
    }

    /// A good answer, or the refusal.
    async fn accept(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.collect(response.into_body(), ANSWER_MAX).await?;
        match serde_json::from_slice(&body) {
            Ok(body) => Err(ClientError::Refused { status, body }),
            Err(_) => Err(self.misunderstood(&format!("status {status}"))),
        }
    }

    async fn collect(&self, body: Incoming, limit: usize) -> Result<Bytes, ClientError> {
        match Limited::new(body, limit).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(self.misunderstood(&format!("it is longer than {limit} bytes")))
            }
            Err(error) => Err(self.misunderstood(&error)),
        }
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.misunderstood(&error))
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound => ClientError::NoSocket(path),
            io::ErrorKind::ConnectionRefused if is_no_socket(&path) => ClientError::NotASocket(path),
            io::ErrorKind::ConnectionRefused => ClientError::Dead(path),
            io::ErrorKind::PermissionDenied => ClientError::Permission(path),
            _ => ClientError::Connect { path, source },
        }
    }

    fn misunderstood(&self, what: &impl ToString) -> ClientError {
        ClientError::Protocol { path: self.socket.clone(), what: what.to_string() }
    }
}

fn is_no_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.file_type().is_socket())
}

/// The task that moves a connection's bytes; it ends with its owner.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads an endless answer line by line.
struct Reader {
    client: Client,
    body: Incoming,
    read: Vec<u8>,
    _connection: Connection,
}

impl Reader {
    async fn line(&mut self) -> Result<Option<TraceLine>, ClientError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return self.client.read(&line).map(Some);
            }
            if self.read.len() > LINE_MAX {
                return Err(self.client.misunderstood(&format!("a line is longer than {LINE_MAX} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
                // A daemon that is killed cuts the answer; that it ends is what the caller needs to know.
                Some(Err(error)) => return Err(self.client.misunderstood(&error)),
                None => return Ok(None),
            }
        }
    }
}

/// The path of a thing by its noun and name.
fn named(nouns: &str, name: &str) -> String {
    format!("/v1/{nouns}/{}", encode(name))
}

/// The path of a backend by its service, and its endpoint's name or address.
fn backend_path(service: &str, backend: &str) -> String {
    format!("{}/backends/{}", named("services", service), encode(backend))
}

/// A path with parameters.
struct Parameters(String);

impl Parameters {
    fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    fn add(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            let mark = if self.0.contains('?') { '&' } else { '?' };
            self.0.push(mark);
            self.0.push_str(name);
            self.0.push('=');
            self.0.push_str(&encode(value));
        }
    }
}

/// Everything but RFC 3986's unreserved characters (section 2.3) as percent and two digits.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            // Writing to a string cannot fail.
            other => _ = write!(encoded, "%{other:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        assert_eq!(named("services", "search"), "/v1/services/search");
        assert_eq!(named("services", "../a b?c=ü"), "/v1/services/..%2Fa%20b%3Fc%3D%C3%BC");
        let mut query = Parameters::new("/v1/flows");
        query.add("service", Some("a&b"));
        query.add("network", None);
        query.add("client", Some("fd00::1"));
        assert_eq!(query.0, "/v1/flows?service=a%26b&client=fd00%3A%3A1");
    }
}
