//! The rules of IPVS, nftables and iptables for the service, and how they forget the flows that they remember.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    case::{Case, Family, Forwarding, Way},
    rest,
    stage::{PORT, SERVER_NUMBERS, server},
};
use crate::lab::{Host, output, run};

/// For how many seconds IPVS remembers a UDP flow here.
const MEMORY: u64 = 2;

/// Rules of a director, which are gone when this is.
pub(super) struct Rules<'a> {
    director: &'a Host,
    way: Way,
    family: Family,
}

impl<'a> Rules<'a> {
    /// Why this kernel cannot do it, if it cannot.
    pub(super) fn lack(way: Way) -> Option<String> {
        let (module, command) = match way {
            Way::Ipvs { .. } => ("ip_vs", "ipvsadm"),
            Way::Nftables => ("nf_tables", "nft"),
            Way::Iptables => ("nft_compat", "iptables"),
            _ => return None,
        };
        let is_there = |program: &str, argument: &str| {
            output(Command::new(program).arg(argument)).is_ok_and(|output| output.status.success())
        };
        // ipvsadm fails, whatever it is asked, where the kernel has no IPVS.
        if output(Command::new(command).arg("--version")).is_err() {
            return Some(format!("there is no {command}: `cargo xtask setup` installs it"));
        }
        let has_module = Path::new("/sys/module").join(module).exists() || is_there("modprobe", module);
        // What is part of the kernel shows itself by its files.
        let is_built_in = match way {
            Way::Ipvs { .. } => Path::new("/proc/net/ip_vs").exists(),
            Way::Nftables => is_there("nft", "list ruleset"),
            _ => is_there("iptables", "-S"),
        };
        (!has_module && !is_built_in).then(|| format!("this kernel has no {module}"))
    }

    /// Puts the rules of a case in force.
    pub(super) fn put(director: &'a Host, case: Case, vip: IpAddr) -> Result<Self> {
        let rules = Self { director, way: case.way, family: case.family };
        match case.way {
            Way::Ipvs { forwarding, scheduler, one_packet } => {
                let service = SocketAddr::new(vip, PORT);
                let namespace = &director.namespace;
                let one_packet = if one_packet { "-o" } else { "" };
                namespace.exec(&format!("ipvsadm --set 0 0 {MEMORY}"))?;
                namespace.exec(&format!("ipvsadm -A -u {service} -s {} {one_packet}", scheduler.name()))?;
                let (port, method) = match forwarding {
                    Forwarding::Nat => (53, "-m"),
                    Forwarding::Dr => (PORT, "-g"),
                    Forwarding::Ipip => (PORT, "-i"),
                };
                for number in SERVER_NUMBERS {
                    let server = SocketAddr::new(server(case.family, number), port);
                    namespace.exec(&format!("ipvsadm -a -u {service} -r {server} {method}"))?;
                }
            }
            Way::Nftables => rules.nftables(vip)?,
            Way::Iptables => rules.iptables(vip)?,
            _ => bail!("{} has no rules", case.way),
        }
        Ok(rules)
    }

    /// One server after the other, each for the flows that begin with it.
    fn nftables(&self, vip: IpAddr) -> Result<()> {
        let (family, address) = match self.family {
            Family::V4 => ("ip", "ip"),
            Family::V6 => ("ip6", "ip6"),
        };
        let servers: Vec<_> = SERVER_NUMBERS
            .zip(0..)
            .map(|(number, turn)| format!("{turn} : {}", server(self.family, number)))
            .collect();
        let text = format!(
            "table {family} director {{\n\
             chain clients {{\n\
             type nat hook prerouting priority dstnat;\n\
             {address} daddr {vip} udp dport {PORT} dnat to numgen inc mod {} map {{ {} }} : 53\n}}\n}}\n",
            servers.len(),
            servers.join(", ")
        );
        let path = self.director.directory().join("director.nft");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.director.namespace.exec(&format!("nft -f {}", path.display())).map(drop)
    }

    /// The same, by a rule for each server, as kube-proxy has them.
    fn iptables(&self, vip: IpAddr) -> Result<()> {
        let servers = SERVER_NUMBERS.count();
        for (turn, number) in SERVER_NUMBERS.enumerate() {
            let to = SocketAddr::new(server(self.family, number), 53);
            let left = servers - turn;
            let turns = if left > 1 {
                format!("-m statistic --mode nth --every {left} --packet 0")
            } else {
                String::new()
            };
            let rule = format!(
                "-t nat -A PREROUTING -d {vip} -p udp --dport {PORT} {turns} -j DNAT --to-destination {to}"
            );
            self.director.namespace.exec(&format!("{} {rule}", self.iptables_command()))?;
        }
        Ok(())
    }

    const fn iptables_command(&self) -> &'static str {
        match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }

    /// Has it forget the flows that it knows.
    pub(super) fn forget_flows(&self) -> Result<()> {
        match self.way {
            // It has no command for it.
            Way::Ipvs { .. } => rest(MEMORY + 2),
            _ => {
                // It tells how many they were, on its standard error.
                let mut flush = self.director.namespace.command("conntrack")?;
                run(flush.arg("-F").stderr(Stdio::null()))?;
            }
        }
        Ok(())
    }

    fn take_away(&self) -> Result<()> {
        let namespace = &self.director.namespace;
        match self.way {
            Way::Ipvs { .. } => namespace.exec("ipvsadm -C")?,
            Way::Nftables => namespace.exec("nft flush ruleset")?,
            _ => namespace.exec(&format!("{} -t nat -F", self.iptables_command()))?,
        };
        self.forget_flows()
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        // The lab's end takes away what stays now.
        if let Err(error) = self.take_away() {
            eprintln!("Rules of {} stay: {error:#}", self.way);
        }
    }
}
