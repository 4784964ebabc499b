//! What `meshctl` takes.

use std::{net::IpAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::{
    args::{self, words},
    health::HealthArguments,
};
use crate::{
    api::types::{KeyText, Place, Vip},
    table::{EndpointMode, OnNoBackend, Protocol, PublishedPort, Scheduler},
};

/// Ask and steer the mesh daemon of this node.
///
/// meshctl speaks to meshd over its Unix socket. Errors go to standard error and say what is wrong and what mends it.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, max_term_width = 110, subcommand_required = true)]
#[command(after_help = "\
Exit status:
  0  done
  1  refused: by the daemon, or because there is none to be reached
  2  the command line is wrong

Examples:
  meshctl status
  meshctl networks create blue --subnet 10.0.9.0/24
  meshctl services create search --network blue --publish 9200:9200
  meshctl attach --network blue --netns search1 --service search
  meshctl explain --from 198.51.100.9:40000 --to 192.0.2.1:9200")]
pub struct Cli {
    /// The daemon's socket: `meshd.sock` in its `run_dir`
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "MESH_SOCKET",
        default_value = "/run/mesh/meshd.sock",
        value_name = "PATH"
    )]
    pub(super) socket: PathBuf,

    /// How to print: a table for people, or JSON or YAML for programs
    #[arg(long, short, global = true, help_heading = "Global options", value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    pub(super) output: Output,

    #[command(subcommand)]
    pub(super) command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// For programs; the fields are those of the API
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show this node, its programs, its peers and what is wrong
    ///
    /// Problems are part of the answer, so the exit status is 0 also with problems, unless --check is given.
    #[command(after_help = "\
Examples:
  meshctl status
  meshctl status --check && echo all is well")]
    Status {
        /// Exit with 1 if there is a problem
        #[arg(long)]
        check: bool,
    },

    /// Show the nodes of the mesh; leave it
    #[command(subcommand, visible_alias = "node")]
    Nodes(Nodes),

    /// Show, make and remove networks
    #[command(subcommand, visible_alias = "network")]
    Networks(Networks),

    /// Show, make and remove services
    #[command(subcommand, visible_alias = "service")]
    Services(Services),

    /// Show and change what services choose from, and drain it
    #[command(subcommand, visible_alias = "backend")]
    Backends(Backends),

    /// Show the tasks' attachments to networks
    #[command(subcommand, visible_alias = "endpoint")]
    Endpoints(Endpoints),

    /// Attach a task of this node to a network
    ///
    /// The task's network namespace gets an interface with an address on the network, the routes and the MTU. What is
    /// not given is chosen, and printed.
    ///
    /// In a cluster every node learns of it. Without one only this node does: a task that others are to reach from their nodes
    /// stands in the file of each.
    #[command(after_help = "\
Examples:
  meshctl attach --network blue --netns search1
  meshctl attach --network blue --netns /proc/4711/ns/net --service search --address 10.0.9.14 --name search.4")]
    Attach(Attach),

    /// Detach a task from its network
    ///
    /// Its interface goes. Its connections break; new ones go to the other backends of its service.
    ///
    /// With --drain its service gives it no new flow first, as `meshctl backends drain --wait` does, and it is detached when its
    /// last flow has ended, or when the time is over. Other nodes that clients enter by must drain it, too.
    #[command(after_help = "\
Examples:
  meshctl detach search.4
  meshctl detach search.4 --drain --timeout 30s")]
    #[command(group = ArgGroup::new("patience").multiple(true))]
    Detach {
        /// The endpoint's name
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Let its flows end first
        #[arg(long, group = "patience")]
        drain: bool,
        /// Return when every living node of the cluster has applied it, or with 1 and the names of those that have not
        #[arg(long, group = "patience")]
        wait: bool,
        /// Drain and wait no longer than this, as in 90s, 10m or 1h; otherwise 10m and 30s
        #[arg(long, value_name = "DURATION", requires = "patience", value_parser = args::duration)]
        timeout: Option<Duration>,
    },

    /// Show the flows that this node keeps
    #[command(subcommand, visible_alias = "flow")]
    Flows(Flows),

    /// Show what packets were lost, and why
    ///
    /// Counted since the data plane was set up, on this node.
    #[command(
        visible_alias = "drop",
        after_help = "\
Examples:
  meshctl drops
  meshctl drops --all --output json"
    )]
    Drops {
        /// Also the reasons for which nothing was lost
        #[arg(long)]
        all: bool,
    },

    /// Show this node's counters, and how full its tables are
    #[command(
        visible_alias = "stat",
        after_help = "\
Examples:
  meshctl stats
  meshctl stats --watch
  meshctl stats --watch 10"
    )]
    Stats {
        /// Show them again every so many seconds, until interrupted
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
        #[arg(value_parser = args::count)]
        watch: Option<NonZeroU32>,
    },

    /// Show a sample of the packets that pass, as they pass
    ///
    /// Tracing is on only as long as this command runs. Sampling one packet in a thousand costs next to nothing; every
    /// packet of a busy node costs a lot.
    #[command(after_help = "\
Examples:
  meshctl trace
  meshctl trace --every 1 --count 20")]
    Trace {
        /// Trace one packet in this many
        #[arg(long, value_name = "N", default_value = "1000", value_parser = args::count)]
        every: NonZeroU32,
        /// End after this many lines
        #[arg(long, value_name = "N", value_parser = args::count)]
        count: Option<NonZeroU32>,
    },

    /// Tell where a flow would go, and why
    ///
    /// Nothing is sent: the daemon decides with the tables that it gave to the kernel. Without the client's port, the
    /// shares of the backends are told.
    #[command(after_help = "\
Examples:
  meshctl explain --from 198.51.100.9:40000 --to 192.0.2.1:9200
  meshctl explain --from 10.0.9.11:5000 --to 10.0.9.2:9200 --network blue
  meshctl explain --from fd00:9::a00:90b --to '[fd00:9::2]:53' --protocol udp")]
    Explain(Explain),

    /// Make, show and rotate the cluster's keys
    #[command(subcommand, visible_alias = "key")]
    Keys(Keys),

    /// Take the mesh down on this node
    ///
    /// Detaches every program, removes every map and every interface that meshd made, and ends meshd. Tasks lose their
    /// networks. Stopping meshd alone leaves all this running.
    #[command(after_help = "\
Example:
  meshctl down")]
    Down,
}

#[derive(Debug, Subcommand)]
pub(super) enum Nodes {
    /// List the nodes
    #[command(visible_alias = "list", after_help = "Example:\n  meshctl nodes ls")]
    Ls,
    /// Show a node in full
    #[command(after_help = "Example:\n  meshctl nodes inspect n2")]
    Inspect(Named),
    /// Have this node leave its cluster
    ///
    /// Its backends take no new flow first; then its endpoints and its own entry are withdrawn, the others are told, and the mesh
    /// goes down here as with `meshctl down`. When meshd is started again, the node joins again with what its file says.
    ///
    /// With --drain it stays until the last flow of its backends has ended, or the time is over.
    #[command(after_help = "Examples:\n  meshctl nodes leave\n  meshctl nodes leave --drain --timeout 1h")]
    Leave {
        /// Let the flows of its backends end first
        #[arg(long)]
        drain: bool,
        /// Drain no longer than this, as in 90s, 10m or 1h
        #[arg(long, value_name = "DURATION", default_value = "10m", requires = "drain")]
        #[arg(value_parser = args::duration)]
        timeout: Duration,
    },
    /// Remove a node that does not come back, with its endpoints
    ///
    /// Refused while it is alive: `meshctl nodes leave` there is the way then.
    #[command(visible_alias = "remove", after_help = "Example:\n  meshctl nodes rm n5 --wait")]
    Rm {
        #[command(flatten)]
        of: Names,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Whether a change waits for the other nodes.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Wait {
    /// Return when every living node of the cluster has applied it, or with 1 and the names of those that have not
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this, as in 90s, 10m or 1h
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "wait")]
    #[arg(value_parser = args::duration)]
    timeout: Duration,
}

impl Wait {
    /// For how long, if at all.
    pub(super) fn time(self) -> Option<Duration> {
        self.wait.then_some(self.timeout)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Networks {
    /// List the networks
    #[command(visible_alias = "list", after_help = "Example:\n  meshctl networks ls")]
    Ls,
    /// Show a network in full
    #[command(after_help = "Example:\n  meshctl networks inspect blue")]
    Inspect(Named),
    /// Make a network
    ///
    /// Tasks on one network reach each other on whatever nodes they run; nothing of one network reaches another.
    #[command(after_help = "\
Examples:
  meshctl networks create blue
  meshctl networks create blue --subnet 10.0.9.0/24 --subnet fd00:9::/64 --vni 4097
  meshctl networks create vault --internal")]
    Create {
        /// Its name
        name: String,
        /// A subnet, such as 10.0.9.0/24 or fd00:9::/64; chosen where none is given
        #[arg(long = "subnet", value_name = "CIDR", value_parser = args::subnet)]
        subnets: Vec<IpNet>,
        /// Its VXLAN network identifier, chosen where it is not given
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(mesh_common::abi::VNI_MAX)))]
        vni: Option<u32>,
        /// Let no task of it reach the world outside
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove networks on which nothing is left
    #[command(visible_alias = "remove", after_help = "Example:\n  meshctl networks rm blue")]
    Rm {
        #[command(flatten)]
        of: Names,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Services {
    /// List the services
    #[command(visible_alias = "list", after_help = "Example:\n  meshctl services ls")]
    Ls,
    /// Show a service in full
    #[command(after_help = "Example:\n  meshctl services inspect search")]
    Inspect(Named),
    /// List the tasks of a service
    #[command(after_help = "Example:\n  meshctl services ps search")]
    Ps(Named),
    /// Make a service
    ///
    /// Its tasks are what is attached with `--service NAME`. On each of its networks it has a virtual IP; a
    /// published port of it answers on every node.
    #[command(after_help = "\
Examples:
  meshctl services create search --network blue --publish 9200:9200
  meshctl services create dns --network blue --publish 53:5353/udp --scheduler rr
  meshctl services create agent --network blue --publish published=9100,target=9100,mode=host
  meshctl services create admin --network blue --publish 192.0.2.1:9443:443 --source 10.0.0.0/8
  meshctl services create search --network blue --vip 10.0.9.2 --vip fd00:9::2
  meshctl services create web --network blue --publish 80:8080 --health-http /healthz --health-interval 5s")]
    Create {
        /// Its name
        name: String,
        /// A network that it has a virtual IP on
        #[arg(long = "network", value_name = "NETWORK")]
        networks: Vec<String>,
        /// A port that nodes answer on: 9200:80, 53:5353/udp, 192.0.2.1:9200:80 or [2001:db8::1]:9200:80 for one address,
        /// or published=9100,target=9100,protocol=tcp,mode=host with any of host_ip=, interface=, node= and source=
        #[arg(long = "publish", short = 'p', value_name = "PORT", value_parser = args::port)]
        ports: Vec<PublishedPort>,
        /// A range of clients that may ask for the ports, such as 10.0.0.0/8; everybody may where none is given
        #[arg(long = "source", value_name = "CIDR", requires = "ports", value_parser = args::source)]
        sources: Vec<IpNet>,
        /// How a backend is chosen: mh hashes each flow and keeps no state, rr takes them in turn
        #[arg(long, default_value = "mh", value_parser = words::<Scheduler>(&["mh", "rr"]))]
        scheduler: Scheduler,
        /// What its name stands for: a virtual IP, or the addresses of its tasks
        #[arg(long, value_name = "MODE", default_value = "vip")]
        #[arg(value_parser = words::<EndpointMode>(&["vip", "dnsrr"]))]
        endpoint_mode: EndpointMode,
        /// What becomes of a request while it has no backend: reject tells its client at once, drop says nothing
        #[arg(long, value_name = "WAY", default_value = "reject")]
        #[arg(value_parser = words::<OnNoBackend>(&["reject", "drop"]))]
        on_no_backend: OnNoBackend,
        /// A client comes back to the backend that it had, for so many seconds after it last spoke to it
        #[arg(long, value_name = "SECONDS")]
        persistent: Option<NonZeroU32>,
        /// A virtual IP, chosen where none is given; NETWORK=ADDRESS where networks share addresses
        #[arg(long = "vip", value_name = "ADDRESS", value_parser = args::vip)]
        vips: Vec<Vip>,
        #[command(flatten)]
        health: HealthArguments,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove services; their tasks stay on their networks
    #[command(visible_alias = "remove", after_help = "Example:\n  meshctl services rm search")]
    Rm {
        #[command(flatten)]
        of: Names,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Backends {
    /// List the backends of a service, or of all
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  meshctl backends ls\n  meshctl backends ls search"
    )]
    Ls {
        /// Only of this service
        service: Option<String>,
    },
    /// Make an endpoint a backend of a service
    ///
    /// In a cluster every node learns of it. Without one only this node does: what holds on every node stands in the file of each.
    #[command(after_help = "\
Examples:
  meshctl backends add search 10.0.9.14
  meshctl backends add search extra --weight 3")]
    Add {
        /// The service
        service: String,
        /// The endpoint on a network of the service: its address or its name
        #[arg(value_name = "ADDRESS[:PORT]")]
        backend: String,
        /// Its share of new flows, in units: one of weight 3 gets three times as many as one of weight 1 [default: 1]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16))]
        weight: Option<u16>,
        /// The node that it is on, to be sure
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// How packets are forwarded to an outside backend (not supported yet)
        #[arg(long, value_name = "METHOD")]
        forward: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a backend out of its service; its endpoint stays attached
    ///
    /// Without a cluster only this node learns of it. Its live connections go on where they are known; drain it first to see them
    /// end.
    #[command(visible_alias = "remove", after_help = "Example:\n  meshctl backends rm search 10.0.9.14")]
    Rm {
        #[command(flatten)]
        of: OneBackend,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a backend another weight
    ///
    /// Without a cluster only this node learns of it: what holds on every node stands in the file of each (`weight:` of the
    /// endpoint).
    #[command(after_help = "Example:\n  meshctl backends weight search 10.0.9.14 3")]
    Weight {
        #[command(flatten)]
        of: OneBackend,
        /// Its share of new flows, in units; 0 drains it
        #[arg(value_name = "WEIGHT", value_parser = clap::value_parser!(u16))]
        weight: u16,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a backend no new flow, and let its live ones go on
    ///
    /// Its weight becomes 0, and stays so until `meshctl backends weight` gives it another. Without a cluster only this node learns
    /// of it: drain it on each node that clients enter by, or write `weight: 0` into the file of each.
    ///
    /// With --wait, which works on the backend's own node, the exit status is 0 when its last flow has ended, and 1 when
    /// the time is over. A TCP flow ends by a RST, by a FIN of each side or after 15 quiet minutes, any other after 2
    /// quiet minutes. Flows of tasks on other nodes to the service's virtual IP are known there only: `meshctl backends
    /// ls` tells them there.
    #[command(after_help = "\
Examples:
  meshctl backends drain search 10.0.9.14
  meshctl backends drain search search.4 --wait --timeout 1h")]
    Drain {
        #[command(flatten)]
        of: OneBackend,
        /// Wait until its last flow has ended
        #[arg(long)]
        wait: bool,
        /// Wait no longer than this, as in 90s, 10m or 1h
        #[arg(long, value_name = "DURATION", default_value = "10m", requires = "wait")]
        #[arg(value_parser = args::duration)]
        timeout: Duration,
    },
}

/// A backend of a service.
#[derive(Debug, Args)]
pub(super) struct OneBackend {
    /// The service
    pub(super) service: String,
    /// The backend: its address, or its endpoint's name
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub(super) backend: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Endpoints {
    /// List the endpoints of all nodes
    #[command(visible_alias = "list", after_help = "Example:\n  meshctl endpoints ls")]
    Ls,
    /// Show an endpoint in full
    #[command(after_help = "Example:\n  meshctl endpoints inspect search.1")]
    Inspect(Named),
}

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Print a new keyring with one key
    ///
    /// It needs no daemon and changes nothing. The file belongs to every node of the cluster, for root alone (mode 0600), where
    /// the configuration names it as `cluster: {keyring: FILE}`.
    #[command(after_help = "\
Examples:
  meshctl keys generate
  (umask 077; meshctl keys generate > /etc/mesh/keyring)
  meshctl keys generate | meshctl keys install -")]
    Generate,
    /// Add a key to the keyring of every node
    ///
    /// Whatever is sealed with it is opened from then on; nothing is sealed with it until it is put into use.
    #[command(after_help = "Example:\n  meshctl keys install - < fresh.keyring")]
    Install {
        /// The key in base64, or - for a keyring with it on standard input; others on this host can see what stands here
        #[arg(value_name = "KEY|-")]
        key: KeyText,
    },
    /// Have every node seal with a key
    ///
    /// Nobody is cut off: to a node that does not know of it yet, others go on sealing with the one that it has.
    #[command(after_help = "Example:\n  meshctl keys use 00c8a1f25e03b7d9")]
    Use {
        /// The key's id
        id: String,
    },
    /// Remove a key from the keyring of every node
    ///
    /// Nothing that is sealed with it is opened any longer. A node that was away since before another key came into use has to be
    /// given that in its keyring, before it comes back.
    #[command(visible_alias = "rm", after_help = "Example:\n  meshctl keys remove 00c8a1f25e03b7d9")]
    Remove {
        /// The key's id
        id: String,
    },
    /// List the keys, the one in use first
    #[command(visible_alias = "list", after_help = "Example:\n  meshctl keys ls")]
    Ls,
}

#[derive(Debug, Subcommand)]
pub(super) enum Flows {
    /// List the flows, those that moved last first
    ///
    /// A flow is one direction of a conversation that this node translates: from a task to a virtual IP, from a client to
    /// a published port on the node that delivers it, or from a task to the world outside.
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  meshctl flows ls
  meshctl flows ls --service search --client 198.51.100.9
  meshctl flows ls --network blue --protocol udp --limit 0 --output json"
    )]
    Ls(FlowFilters),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// Its name
    pub(super) name: String,
}

#[derive(Debug, Args)]
pub(super) struct Names {
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Attach {
    /// The network
    #[arg(long)]
    pub(super) network: String,
    /// The task's network namespace: a name under /run/netns, or a path
    #[arg(long, value_name = "NETNS")]
    pub(super) netns: String,
    /// The service that it becomes a backend of
    #[arg(long)]
    pub(super) service: Option<String>,
    /// Its share of the service's new flows, in units; 0 for none [default: 1]
    #[arg(long, value_name = "N", requires = "service", value_parser = clap::value_parser!(u16))]
    pub(super) weight: Option<u16>,
    /// Its address on the network, chosen where it is not given
    #[arg(long, value_parser = args::address)]
    pub(super) address: Option<IpAddr>,
    /// The endpoint's name, chosen where it is not given
    #[arg(long)]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct FlowFilters {
    /// Only of this service
    #[arg(long)]
    pub(super) service: Option<String>,
    /// Only to this backend: an endpoint's name or address
    #[arg(long)]
    pub(super) backend: Option<String>,
    /// Only from this client's address
    #[arg(long, value_name = "ADDRESS", value_parser = args::address)]
    pub(super) client: Option<IpAddr>,
    /// Only of this protocol
    #[arg(long, value_parser = words::<Protocol>(&["tcp", "udp"]))]
    pub(super) protocol: Option<Protocol>,
    /// Only on this network
    #[arg(long)]
    pub(super) network: Option<String>,
    /// At most this many; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(super) limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The client, with its port if the backend is to be named
    #[arg(long, value_name = "IP[:PORT]")]
    pub(super) from: Place,
    /// What it asks for
    #[arg(long, value_name = "IP:PORT", value_parser = args::place_with_port)]
    pub(super) to: Place,
    /// By which protocol
    #[arg(long, default_value = "tcp", value_parser = words::<Protocol>(&["tcp", "udp"]))]
    pub(super) protocol: Protocol,
    /// The network that the client is on; found by its address where it is not given
    #[arg(long)]
    pub(super) network: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    /// Each command that does something shows how, and fits a page's width.
    #[test]
    fn every_command_has_a_help_with_an_example() {
        fn check(command: &mut clap::Command, name: &str) -> usize {
            let help = command.render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 120, "{name}: {line}");
            }
            assert!(!help.contains("[default: ]"), "{name}");
            let mut commands = 0;
            let nested: Vec<_> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
            if nested.is_empty() {
                let first =
                    help.lines().find(|line| line.trim_start().starts_with("meshctl ")).unwrap_or_default();
                assert!(first.trim_start().starts_with(name), "{name} has no example: {help}");
                return 1;
            }
            for inner in nested.iter().filter(|inner| *inner != "help") {
                let inner_command = command.find_subcommand_mut(inner).unwrap();
                commands += check(inner_command, &format!("{name} {inner}"));
            }
            commands
        }
        let mut command = Cli::command();
        command.build();
        assert_eq!(check(&mut command, "meshctl"), 34);
    }

    #[test]
    fn nouns_are_accepted_in_the_singular() {
        for noun in ["node", "network", "service", "backend", "endpoint", "flow", "key"] {
            for (noun, verb) in [(noun.to_owned(), "ls"), (format!("{noun}s"), "list")] {
                Cli::try_parse_from(["meshctl", &noun, verb]).unwrap();
            }
        }
    }

    #[test]
    fn wrong_arguments_are_told_with_what_would_be_right() {
        for (arguments, says) in [
            (vec!["networks", "create", "blue", "--vni", "16777216"], "not in 1..=16777215"),
            (
                vec!["networks", "create", "blue", "--subnet", "10.0.9.0"],
                "it is no subnet; write an address and a prefix length, such as 10.0.9.0/24",
            ),
            (vec!["services", "create", "s", "--publish", "80"], "write PUBLISHED:TARGET"),
            (vec!["services", "create", "s", "--scheduler", "lc"], "possible values: mh, rr"),
            (vec!["explain", "--from", "10.0.0.1", "--to", "10.0.0.2"], "has no port"),
            (vec!["explain", "--from", "here", "--to", "10.0.0.2:1"], "is no address with or without a port"),
            (vec!["trace", "--every", "0"], "write a number from 1 to"),
            (vec!["stats", "--watch", "often"], "write a number from 1 to"),
            (vec!["flows", "ls", "--client", "10.0.9"], "it is no address; write one such as"),
            (vec!["flows", "ls", "--protocol", "icmp"], "possible values: tcp, udp"),
            (vec!["detach"], "required arguments were not provided"),
        ] {
            let error = Cli::try_parse_from(["meshctl"].into_iter().chain(arguments.clone())).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
            assert!(error.to_string().contains(says), "{arguments:?}: {error}");
        }
    }
}
