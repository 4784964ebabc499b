//! The same by nftables' destination NAT, as kube-proxy has it: a chain for each service, found by a map of ports.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use mesh_tests::lab::Lab;

use super::{Case, timing::Sign};

/// Who has the rules, and the servers, which stand beside it on the underlay.
pub(super) const HOSTS: [&str; 4] = ["balancer", "alpha", "beta", "gamma"];
pub(super) const SERVERS: [&str; 3] = ["alpha", "beta", "gamma"];

const BALANCER: &str = "balancer";

/// A backend is added to a service.
pub(super) const ADD: Case = Case {
    host: BALANCER,
    port: 7001,
    sign: Sign::Answers("gamma"),
    make: |lab| replace(lab, 7001, &SERVERS),
    undo: |lab| replace(lab, 7001, &["alpha", "beta"]),
};

/// A backend gets no new flow; those that it has go on, which connection tracking knows.
pub(super) const DRAIN: Case = Case {
    host: BALANCER,
    port: 7002,
    sign: Sign::IsSilent("beta"),
    make: |lab| replace(lab, 7002, &["alpha"]),
    undo: |lab| replace(lab, 7002, &["alpha", "beta"]),
};

/// A service is made, with a backend.
pub(super) const CREATE: Case = Case {
    host: BALANCER,
    port: 7003,
    sign: Sign::Answers("gamma"),
    make: |lab| {
        let chain = chain(lab, 7003, &["gamma"])?;
        apply(lab, &format!("{chain}add element ip nat ports {{ udp . 7003 : goto service-7003 }}\n"))
    },
    undo: |lab| {
        let text = "delete element ip nat ports { udp . 7003 }\ndelete chain ip nat service-7003\n";
        apply(lab, text)
    },
};

/// Sets up the rules: for the services that change, and for `services` more.
pub(super) fn set_up(lab: &mut Lab, services: u32, backends: u32) -> Result<()> {
    let balancer = lab.mesh().address_v4(BALANCER)?;
    let mut rules = "add table ip nat\n\
         add map ip nat ports { type inet_proto . inet_service : verdict; }\n"
        .to_owned();
    for port in [7001, 7002] {
        rules += &chain(lab, port, &["alpha", "beta"])?;
        let _ = writeln!(rules, "add element ip nat ports {{ udp . {port} : goto service-{port} }}");
    }
    let mut elements = String::new();
    for port in (10_000..).take(usize::try_from(services)?) {
        let targets = (0..backends).map(|number| format!("{number} : 198.51.100.{} . 80", number + 1));
        let targets = targets.collect::<Vec<_>>().join(", ");
        let _ = writeln!(rules, "add chain ip nat service-{port}");
        let _ = writeln!(
            rules,
            "add rule ip nat service-{port} meta l4proto tcp dnat to numgen inc mod {backends} map {{ {targets} }}"
        );
        let _ = write!(elements, "tcp . {port} : goto service-{port}, ");
    }
    if services > 0 {
        let _ = writeln!(rules, "add element ip nat ports {{ {elements} }}");
    }
    let _ = write!(
        rules,
        "add chain ip nat prerouting {{ type nat hook prerouting priority dstnat; }}\n\
         add rule ip nat prerouting ip daddr {balancer} meta l4proto . th dport vmap @ports\n\
         add chain ip nat postrouting {{ type nat hook postrouting priority srcnat; }}\n\
         add rule ip nat postrouting masquerade\n"
    );
    lab.host(BALANCER).namespace.sysctl("net.ipv4.ip_forward", "1")?;
    apply(lab, &rules)
}

/// A service's chain as these servers make it.
fn chain(lab: &Lab, port: u16, servers: &[&str]) -> Result<String> {
    Ok(format!("add chain ip nat service-{port}\n{}", rule(lab, port, servers)?))
}

fn rule(lab: &Lab, port: u16, servers: &[&str]) -> Result<String> {
    let mut targets = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        targets.push(format!("{number} : {} . 7000", lab.mesh().address_v4(server)?));
    }
    let (count, targets) = (servers.len(), targets.join(", "));
    Ok(format!(
        "add rule ip nat service-{port} meta l4proto udp dnat to numgen inc mod {count} map {{ {targets} }}\n"
    ))
}

/// Gives a service other servers, in one step.
fn replace(lab: &mut Lab, port: u16, servers: &[&str]) -> Result<()> {
    let rule = rule(lab, port, servers)?;
    apply(lab, &format!("flush chain ip nat service-{port}\n{rule}"))
}

fn apply(lab: &mut Lab, rules: &str) -> Result<()> {
    let host = lab.host(BALANCER);
    let path = host.directory().join("rules.nft");
    fs::write(&path, rules).with_context(|| format!("cannot write {}", path.display()))?;
    host.namespace.exec(&format!("nft -f {}", path.display())).map(drop)
}
