//! What the commands need, and whether it is here.

use crate::{
    process, project,
    toolchain::{Linker, Toolchain},
};

/// What a machine is to be ready for; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// Building meshd and meshctl
    Build,
    /// Running them in the lab's network namespaces, with real servers and clients
    Lab,
    /// Running them under Debian's kernels in a virtual machine
    Vm,
    /// Running every test
    Test,
}

/// Something that is not here, and what provides it.
#[derive(Debug)]
pub(super) struct Missing {
    /// What it is, for people.
    pub(super) what: String,
    /// What provides it.
    pub(super) mend: Mend,
}

/// What provides something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// Debian's packages of these names.
    Packages(&'static [&'static str]),
    /// A compiler for eBPF: Debian's, or rustup's nightly with the source of `core`.
    Compiler,
    /// bpf-linker, from its source, which takes LLVM's development files.
    Linker,
    /// A component of rustup's toolchain.
    Component(&'static str),
}

/// The version of bpf-linker that is installed where there is none.
pub(super) const LINKER_VERSION: &str = "0.13.0";
/// The LLVM that it is built with.
pub(super) const LLVM: u32 = 22;

/// Programs of the lab and its tests, and Debian's packages of them.
const LAB: &[(&str, &[&str])] = &[
    ("arping", &["iputils-arping"]),
    ("bpftool", &["bpftool"]),
    ("curl", &["curl"]),
    ("dig", &["bind9-dnsutils"]),
    ("dnsmasq", &["dnsmasq-base"]),
    ("dnsperf", &["dnsperf"]),
    ("ethtool", &["ethtool"]),
    ("ip", &["iproute2"]),
    ("iperf3", &["iperf3"]),
    ("musl-gcc", &["musl-tools"]),
    ("ncat", &["ncat"]),
    ("nft", &["nftables"]),
    ("nginx", &["nginx-light"]),
    ("ping", &["iputils-ping"]),
    ("python3", &["python3-minimal"]),
    ("socat", &["socat"]),
    ("sysctl", &["procps"]),
    ("tcpdump", &["tcpdump"]),
];

/// What a virtual machine takes, and what is compared with there: IPVS, iptables, and conntrack to empty their tables.
const VM: &[(&str, &[&str])] = &[
    ("busybox", &["busybox-static"]),
    ("conntrack", &["conntrack"]),
    ("ipvsadm", &["ipvsadm"]),
    ("iptables", &["iptables"]),
    ("modprobe", &["kmod"]),
    ("qemu-system-x86_64", &["qemu-system-x86"]),
    ("xz", &["xz-utils"]),
    ("zstd", &["zstd"]),
];

/// Looks for everything that `purpose` takes.
pub(super) fn survey(purpose: Purpose) -> Vec<Missing> {
    let mut missing = Vec::new();
    let linker = Linker::find();
    let newest_llvm = linker.as_ref().map_or(Some(LLVM), |linker| linker.llvm);
    if Toolchain::find(newest_llvm).is_none() {
        missing.push(Missing {
            what: "a Rust compiler for eBPF, with the source of `core`".to_owned(),
            mend: Mend::Compiler,
        });
    }
    if linker.is_none() {
        missing.push(Missing { what: format!("bpf-linker {LINKER_VERSION}"), mend: Mend::Linker });
    }
    for (from, programs) in [(Purpose::Lab, LAB), (Purpose::Vm, VM)] {
        for &(program, packages) in programs {
            if purpose >= from && process::find(program).is_none() {
                missing.push(Missing { what: program.to_owned(), mend: Mend::Packages(packages) });
            }
        }
    }
    if purpose >= Purpose::Test {
        for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
            let mut cargo = process::command(project::cargo());
            if process::answer(cargo.args([command, "--version"])).is_none() {
                missing.push(Missing { what: format!("cargo {command}"), mend: Mend::Component(component) });
            }
        }
    }
    missing
}
