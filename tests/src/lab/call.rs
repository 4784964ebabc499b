//! TCP connections that stay open for as long as a test wants, and tell whom they reached.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::host::Host;

/// How long either side waits for the other's bytes.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that greets each connection with its host's name on a line, and then says again what it is told.
#[derive(Debug)]
pub struct Greeter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Greeter {
    /// Starts it.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.namespace.inside(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("{} cannot listen on {address}", host.name()))?;
        listener.set_nonblocking(true)?;
        let greeting = format!("{}\n", host.name());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (greeting, stopped) = (greeting.clone(), Arc::clone(&stopped));
                        // What goes wrong here, the client notices.
                        thread::spawn(move || repeat(stream, &greeting, &stopped));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn repeat(mut stream: TcpStream, greeting: &str, stopped: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    stream.write_all(greeting.as_bytes())?;
    let mut heard = [0; 4096];
    while !stopped.load(Ordering::Relaxed) {
        match stream.read(&mut heard) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(&heard[..length])?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A connection to a [`Greeter`].
#[derive(Debug)]
pub struct Call {
    stream: BufReader<TcpStream>,
    server: String,
    said: u32,
}

impl Call {
    /// Connects from any port, and hears who answers.
    ///
    /// # Errors
    /// If nobody does.
    pub fn dial(client: &Host, to: SocketAddr) -> Result<Self> {
        let stream = client.namespace.inside(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        let stream = stream.with_context(|| format!("{} cannot connect to {to}", client.name()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let mut server = String::new();
        stream.read_line(&mut server).with_context(|| format!("nobody answers at {to}"))?;
        Ok(Self { stream, server: server.trim_end().to_owned(), said: 0 })
    }

    /// The name of the host that answered.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Says something new, and hears it again.
    ///
    /// # Errors
    /// If it does not come back.
    pub fn talk(&mut self) -> Result<()> {
        self.said += 1;
        let words = format!("number {} to {}\n", self.said, self.server);
        self.stream.get_mut().write_all(words.as_bytes()).context("cannot speak")?;
        let mut heard = String::new();
        self.stream.read_line(&mut heard).with_context(|| format!("{} is silent", self.server))?;
        ensure!(heard == words, "{} said {heard:?} instead of {words:?}", self.server);
        Ok(())
    }

    /// Ends the connection in good order, and waits until the other side has ended it too.
    ///
    /// # Errors
    /// If it does not.
    pub fn hang_up(mut self) -> Result<()> {
        self.stream.get_mut().shutdown(Shutdown::Write)?;
        let rest = self.stream.read(&mut [0; 1]).with_context(|| format!("{} does not end", self.server))?;
        ensure!(rest == 0, "{} spoke to the end", self.server);
        Ok(())
    }
}
