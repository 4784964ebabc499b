//! A GET whose status is what counts.

use std::{net::SocketAddr, pin::pin, time::Duration};

use futures::future::{Either, select};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// The longest head of an answer, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// How many bytes of a body are read at most, so that whoever sends a short one can end in good order.
const LONGEST_BODY: usize = 64 << 10;
/// How long the body has after the status has come, which decides.
const BODY_PATIENCE: Duration = Duration::from_millis(100);

/// Asks for a path; redirections are answers like others, and not followed.
///
/// # Errors
/// Why the task is not well, without a full stop.
pub(super) async fn get(stream: TcpStream, to: SocketAddr, path: &str) -> Result<(), String> {
    let broken = |error: hyper::Error| format!("GET {path} on {to} was not answered by HTTP: {error}");
    let mut client = http1::Builder::new();
    client.max_buf_size(LONGEST_HEAD);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(path)
        .header(header::HOST, to.to_string())
        .header(header::USER_AGENT, concat!("meshd/", env!("CARGO_PKG_VERSION"), " (health check)"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("GET {path} is no request: {error}"))?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let mut body = Limited::new(answer.into_body(), LONGEST_BODY);
        // Whatever comes of it: the status has decided.
        let _ = timeout(BODY_PATIENCE, async { while let Some(Ok(_)) = body.frame().await {} }).await;
        Ok::<StatusCode, String>(status)
    };
    let status = match select(pin!(asked), pin!(connection)).await {
        Either::Left((status, _)) => status?,
        // The connection may end before all was taken out of it.
        Either::Right((_, asked)) => asked.await?,
    };
    verdict(status, to, path)
}

fn verdict(status: StatusCode, to: SocketAddr, path: &str) -> Result<(), String> {
    match status.as_u16() {
        200..400 => Ok(()),
        _ => Err(format!("GET {path} on {to} was answered with {status}")),
    }
}
