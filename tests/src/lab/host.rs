//! A host of the lab: a namespace, the servers in it, and what a person at its keyboard would type.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    command::{output, run},
    eventually,
    namespace::Namespace,
    process::Process,
    record::Record,
    server::{self, Web},
};

/// A node, a task or a client.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// Its namespace.
    pub namespace: Namespace,
    directory: PathBuf,
    record: Arc<Record>,
    servers: Mutex<Vec<Process>>,
}

impl Host {
    pub(super) fn create(record: &Arc<Record>, name: &str) -> Result<Self> {
        let namespace = record.create_namespace(name)?;
        let directory = record.directory().join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let (name, record) = (name.to_owned(), Arc::clone(record));
        Ok(Self { name, namespace, directory, record, servers: Mutex::default() })
    }

    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts a program that runs as long as the lab; its output goes to `PROGRAM.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn serve(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.namespace.command(program)?;
        command.args(arguments).current_dir(&self.directory);
        let process = Process::start(&self.record, command, &self.directory.join(format!("{program}.log")))?;
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        Ok(())
    }

    /// Ends the servers.
    ///
    /// # Errors
    /// If one does not end.
    pub fn stop_servers(&self) -> Result<()> {
        let servers = std::mem::take(&mut *self.servers.lock().unwrap_or_else(PoisonError::into_inner));
        servers.into_iter().try_for_each(Process::kill)
    }

    /// Starts a web server and waits until it answers at home.
    ///
    /// # Errors
    /// If it does not.
    pub fn serve_http(&self, web: &Web) -> Result<()> {
        let configuration = self.directory.join("nginx.conf");
        fs::create_dir_all(self.directory.join("www"))?;
        fs::write(&configuration, web.nginx(&self.name, &self.directory))?;
        let path = configuration.display().to_string();
        self.serve("nginx", &["-e", "stderr", "-p", &self.directory.display().to_string(), "-c", &path])?;
        self.await_listener("tcp", web.port)
    }

    /// Starts a server that answers each datagram with this host's name.
    ///
    /// # Errors
    /// If it does not listen soon.
    pub fn serve_udp(&self, port: u16) -> Result<()> {
        // What is asked is read first: socat gives up where it cannot write.
        let listen = format!("UDP6-RECVFROM:{port},fork,ipv6only=0");
        self.serve("socat", &[&listen, &format!("SYSTEM:cat >/dev/null; echo {}", self.name)])?;
        self.await_listener("udp", port)
    }

    /// Starts an iperf3 server.
    ///
    /// # Errors
    /// If it does not listen soon.
    pub fn serve_iperf(&self) -> Result<()> {
        self.serve("iperf3", &["--server", "--forceflush"])?;
        self.await_listener("tcp", 5201)
    }

    fn await_listener(&self, protocol: &str, port: u16) -> Result<()> {
        eventually(
            &format!("{} listens on {protocol} port {port}", self.name),
            Duration::from_secs(5),
            || {
                for server in self.servers.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                    server.check()?;
                }
                let listening = self.namespace.exec(&format!("ss -Hln --{protocol} sport = :{port}"))?;
                ensure!(!listening.is_empty(), "nothing listens there");
                Ok(())
            },
        )
    }

    /// What a URL answers.
    ///
    /// # Errors
    /// If it does not, within five seconds.
    pub fn curl(&self, url: &str) -> Result<String> {
        run(self.namespace.command("curl")?.args(CURL).args(["--max-time", "5", url]))
    }

    /// The SHA-256 of what a URL answers, in hexadecimal, as it comes in.
    ///
    /// # Errors
    /// If it does not answer wholly within a minute.
    pub fn curl_sha256(&self, url: &str) -> Result<String> {
        let mut command = self.namespace.command("curl")?;
        let mut curl = command.args(CURL).args(["--max-time", "60", url]).stdout(Stdio::piped()).spawn()?;
        let body = curl.stdout.take().context("curl has no output")?;
        let sum = std::process::Command::new("sha256sum").stdin(body).output()?;
        ensure!(curl.wait()?.success(), "curl {url} failed");
        server::sum_of(&String::from_utf8_lossy(&sum.stdout))
    }

    /// Makes a file of this many random bytes for the web server and returns its SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn publish_random_file(&self, name: &str, bytes: u64) -> Result<String> {
        let path = self.directory.join("www").join(name);
        server::random_file(&path, bytes)
    }

    /// Pings once; true if there was an answer within a second.
    ///
    /// # Errors
    /// If ping cannot be run.
    pub fn pings(&self, address: IpAddr) -> Result<bool> {
        let address = address.to_string();
        let ping = output(self.namespace.command("ping")?.args(["-n", "-q", "-c1", "-W1", &address]))?;
        Ok(ping.status.success())
    }

    /// Pings `count` times with this many bytes of payload, not to be fragmented.
    ///
    /// # Errors
    /// If one answer is missing, with what ping said.
    pub fn ping(&self, address: IpAddr, count: u32, payload: usize) -> Result<String> {
        let words = format!("ping -n -M do -i 0.01 -W 2 -c {count} -s {payload} {address}");
        self.namespace.exec(&words)
    }

    /// An interface that holds an address, once there is one.
    ///
    /// # Errors
    /// If none has it within five seconds.
    pub fn interface_of(&self, address: IpAddr) -> Result<String> {
        eventually(&format!("{} has the address {address}", self.name), Duration::from_secs(5), || {
            let text = self.namespace.ip(&format!("-json address show to {address}"))?;
            let list: serde_json::Value = serde_json::from_str(&text)?;
            let mut names = list.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
            names.next_back().map(str::to_owned).context("no interface has it")
        })
    }

    /// The lines of the web server's log: client address, method, path.
    ///
    /// # Errors
    /// If there is no log.
    pub fn access_log(&self) -> Result<Vec<String>> {
        let path = self.directory.join("access.txt");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Lets the servers run on when this value goes.
    pub(super) fn keep(self) {
        let servers = self.servers.into_inner().unwrap_or_else(PoisonError::into_inner);
        servers.into_iter().for_each(Process::keep);
    }
}

/// Quiet but for errors; brackets in addresses are no patterns.
const CURL: [&str; 4] = ["--silent", "--show-error", "--fail", "--globoff"];
