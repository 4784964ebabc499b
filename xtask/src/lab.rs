//! `cargo xtask lab`: the demo's hosts, left running for hands-on work.

use std::{os::unix::process::CommandExt as _, process::exit, thread};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use mesh_tests::lab::{HANDS_ON, Lab, Mesh, Record, Web, take_programs_from, typed};
use nix::sys::signal::{SigSet, Signal};

use crate::{
    build::{self, Profile},
    setup::{self, Purpose},
};

/// What `lab` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build, start three nodes with the demo's services on them, and leave them running
    Up,
    /// Take everything away again
    Down,
    /// Run a command on a node, in a task or on the client
    Exec {
        /// A node (n1, n2, n3), a task (search.1, web, db) or `client`
        host: String,
        /// The command; `meshctl` on a node speaks to that node's daemon
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// What is running
    Status,
}

/// Does what was asked.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Up => {
            prepare(Profile::Dev)?;
            up()?.keep()?;
            println!("The lab is up.\n\n{}", instructions());
            Ok(())
        }
        Command::Down => {
            let there = Record::remove(HANDS_ON)?;
            println!("{}", if there { "The lab is gone." } else { "There was no lab." });
            Ok(())
        }
        Command::Exec { host, command } => exec(host, command),
        Command::Status => status(),
    }
}

/// Sets up and builds what a lab takes, and has labs take that.
pub(crate) fn prepare(profile: Profile) -> Result<()> {
    setup::ensure(Purpose::Lab)?;
    let built = build::build(profile)?;
    if let Some(directory) = built.meshd.parent() {
        take_programs_from(directory.to_owned());
    }
    Ok(())
}

/// Ctrl-C leaves nothing of a lab behind either.
pub(crate) fn clean_up_when_interrupted(prefix: &'static str) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Threads started from now on, and this one, leave these signals to the one that waits for them.
    signals.thread_block()?;
    thread::spawn(move || {
        if signals.wait().is_ok() {
            if let Err(error) = Record::remove(prefix) {
                eprintln!("error: {error:#}");
            }
            exit(130);
        }
    });
    Ok(())
}

/// The mesh of the demo: three replicas of `search`; `web` before `db`, which have a network to themselves.
fn mesh() -> Mesh {
    Mesh::new(3)
        .network("blue", 4097, &["10.0.9.0/24", "fd00:9::/64"])
        .network("front", 4098, &["10.0.10.0/24", "fd00:10::/64"])
        .internal_network("app", 4099, &["10.0.11.0/24", "fd00:11::/64"])
        .service("search", "blue", "10.0.9.2", "rr", &["9200:9200"])
        .backend("search", "search.1", "n1", "blue", "10.0.9.11")
        .backend("search", "search.2", "n2", "blue", "10.0.9.12")
        .backend("search", "search.3", "n3", "blue", "10.0.9.13")
        .service("web", "front", "10.0.10.2", "mh", &["8080:80"])
        .backend("web", "web", "n1", "front", "10.0.10.11")
        .endpoint("web-app", "n1", "app", "10.0.11.12", "web")
        .service("db", "app", "10.0.11.2", "mh", &[])
        .backend("db", "db", "n3", "app", "10.0.11.11")
}

/// Starts the demo's mesh and its servers.
pub(crate) fn up() -> Result<Lab> {
    let lab = mesh().up(HANDS_ON)?;
    for replica in ["search.1", "search.2", "search.3"] {
        lab.host(replica).serve_http(&Web::on(9200))?;
    }
    lab.host("web").serve_http(&Web::on(80).before("http://10.0.11.2:5432/"))?;
    lab.host("db").serve_http(&Web::on(5432))?;
    Ok(lab)
}

/// How to play with it.
pub(crate) fn instructions() -> &'static str {
    "Try:
  cargo xtask lab exec client curl http://192.0.2.1:9200       any node answers: 192.0.2.1, .2 and .3
  cargo xtask lab exec n2 curl http://localhost:9200           so does localhost, on a node
  cargo xtask lab exec client curl http://[2001:db8::3]:9200   and IPv6
  cargo xtask lab exec search.1 ping -c 3 10.0.9.2             the service's virtual IP, in its network
  cargo xtask lab exec client curl http://192.0.2.2:8080/data  web, which asks db over a network of their own
  cargo xtask lab exec n1 meshctl status                       also: services ls, flows ls, drops
  cargo xtask lab exec n3 tcpdump -ni eth0 udp port 4789       the tunnels
  cargo xtask lab status                                       what is running, and where its files are
  cargo xtask lab down                                         when you have done"
}

fn exec(host: &str, words: &[String]) -> Result<()> {
    let lab = Record::find(HANDS_ON)?;
    let (program, arguments) = words.split_first().context("name a command to run")?;
    let mut command = typed(&lab.namespace(host)?, lab.socket(host).as_deref(), program)?;
    command.args(arguments);
    // Returns only if it fails: the command takes the place of this process.
    Err(command.exec()).with_context(|| format!("cannot run {program}"))
}

fn status() -> Result<()> {
    let lab = Record::find(HANDS_ON)?;
    println!("{:10} {:8} addresses", "host", "kind");
    for host in lab.hosts() {
        let text = lab.namespace(host)?.ip("-brief address show scope global up")?;
        let addresses = text.lines().flat_map(|line| line.split_whitespace().skip(2));
        let shown: Vec<_> = addresses.filter(|word| word.contains('/')).collect();
        let kind = match lab.socket(host) {
            Some(_) => "node",
            None if host == "client" => "client",
            None => "task",
        };
        println!("{host:10} {kind:8} {}", shown.join("  "));
    }
    println!("\nconfiguration, logs: {}/HOST/\n\n{}", lab.directory().display(), instructions());
    Ok(())
}
