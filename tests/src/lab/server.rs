//! What the servers of the lab serve.

use std::{
    fs::File,
    io::{BufWriter, Read as _, Write as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use super::command::run;

/// A web server. Its answer to `/` is `NAME sees CLIENT`; under `/files/` it serves what is in its host's `www`.
#[derive(Clone, Debug)]
pub struct Web {
    /// The port it listens on, by IPv4 and IPv6.
    pub port: u16,
    /// Where it takes the second line of its answer to `/` from, if it is a front for another server.
    pub behind: Option<String>,
}

impl Web {
    /// A server on a port.
    #[must_use]
    pub const fn on(port: u16) -> Self {
        Self { port, behind: None }
    }

    /// The same, whose `/data` is what another server answers.
    #[must_use]
    pub fn before(mut self, url: &str) -> Self {
        self.behind = Some(url.to_owned());
        self
    }

    /// The configuration for nginx.
    pub(super) fn nginx(&self, name: &str, directory: &Path) -> String {
        let port = self.port;
        let directory = directory.display();
        let behind = self.behind.as_ref().map_or_else(String::new, |url| {
            format!("location /data {{ proxy_pass {url}; proxy_connect_timeout 2s; }}")
        });
        format!(
            r#"daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  log_format plain '$remote_addr $request_method $request_uri';
  access_log {directory}/access.txt plain;
  client_body_temp_path {directory}/temp;
  proxy_temp_path {directory}/temp;
  fastcgi_temp_path {directory}/temp;
  uwsgi_temp_path {directory}/temp;
  scgi_temp_path {directory}/temp;
  sendfile on;
  server {{
    listen {port} backlog=4096;
    listen [::]:{port} ipv6only=on backlog=4096;
    default_type text/plain;
    location / {{ return 200 "{name} sees $remote_addr\n"; }}
    location /files/ {{ alias {directory}/www/; }}
    {behind}
  }}
}}
"#
        )
    }
}

/// Writes a file of random bytes and returns its SHA-256 in hexadecimal.
pub(super) fn random_file(path: &Path, bytes: u64) -> Result<String> {
    let mut source = File::open("/dev/urandom")?.take(bytes);
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut file = BufWriter::new(file);
    std::io::copy(&mut source, &mut file)?;
    file.flush()?;
    sum_of(&run(Command::new("sha256sum").arg(path))?)
}

/// The sum out of `sha256sum`'s line.
pub(super) fn sum_of(line: &str) -> Result<String> {
    Ok(line.split_whitespace().next().context("sha256sum said nothing")?.to_owned())
}
