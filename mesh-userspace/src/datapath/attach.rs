//! Programs on interfaces and control groups, by links that are pinned; on the ingress of interfaces of kernels without
//! tcx, by filters.
//!
//! The kernel looks for an interface's index in the network namespace of the calling thread: it must be the
//! node's.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type};

use super::{
    Datapath, DatapathError, cgroup,
    clsact::{Filter, Filters},
    error::chain,
    sys::{self, Target},
};
use crate::table::XdpMode;

/// The directory of the links' pins.
pub(super) const LINKS: &str = "links";

/// The programs of the sockets, and what each is called for.
const SOCKETS: [(&str, bpf_attach_type); 8] = [
    ("connect4", bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
    ("connect6", bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
    ("sendmsg4", bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    ("sendmsg6", bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
    ("recvmsg4", bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG),
    ("recvmsg6", bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG),
    ("getpeername4", bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME),
];

/// Where a program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Every packet that comes in by an interface, after the kernel has made an skb of it (tcx).
    Ingress,
    /// The same where the kernel has no tcx: a filter of the queueing discipline `clsact`.
    Filter,
    /// Every frame in the interface's driver.
    XdpNative,
    /// Every frame in the kernel's generic hook.
    XdpGeneric,
    /// The system calls of every process of the node.
    Cgroup,
}

impl Hook {
    /// Its name in a status.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "tcx",
            Self::Filter => "clsact",
            Self::XdpNative => "xdp native",
            Self::XdpGeneric => "xdp generic",
            Self::Cgroup => "cgroup",
        }
    }
}

/// What became of the XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpOutcome {
    /// It runs in the driver.
    Native,
    /// It runs in the kernel's generic hook.
    Generic,
    /// It was not asked for: tc does the same work.
    Off,
    /// It was asked for and cannot be: tc does the same work.
    Unavailable {
        /// Why, as a sentence.
        why: String,
    },
}

/// A program that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub program: String,
    /// Where it is called.
    pub hook: Hook,
    /// The index of the interface, for programs on one.
    pub ifindex: Option<u32>,
    /// The kernel's number for its link, the same for as long as it is attached; filters have none.
    pub link_id: Option<u32>,
    /// The kernel's number for the program.
    pub program_id: u32,
    /// How many instructions the verifier looked at.
    pub verified_instructions: u32,
    /// How often it ran, while `kernel.bpf_stats_enabled` was 1.
    pub runs: u64,
    /// For how long in all, in nanoseconds, while the same.
    pub run_time_ns: u64,
}

/// A link's pin, read from its name.
struct Pin<'a> {
    program: &'a str,
    hook: Hook,
    ifindex: Option<u32>,
}

impl Datapath {
    /// Puts `endpoint_tc` on the node's end of a task's pair.
    pub fn attach_endpoint(&self, ifindex: u32) -> Result<(), DatapathError> {
        self.attach_ingress("endpoint_tc", ifindex)
    }

    /// Puts `host_tc` on `mesh0-gate`.
    pub fn attach_host(&self, ifindex: u32) -> Result<(), DatapathError> {
        self.attach_ingress("host_tc", ifindex)
    }

    /// Puts `underlay_tc` on an interface of the node's, and `underlay_xdp` in the given way.
    pub fn attach_underlay(&self, ifindex: u32, xdp: XdpMode) -> Result<XdpOutcome, DatapathError> {
        self.attach_ingress("underlay_tc", ifindex)?;
        let (hook, flags, outcome) = match xdp {
            XdpMode::Off => {
                self.detach_xdp(ifindex, None)?;
                return Ok(XdpOutcome::Off);
            }
            XdpMode::Auto | XdpMode::Native => (Hook::XdpNative, XDP_FLAGS_DRV_MODE, XdpOutcome::Native),
            XdpMode::Generic => (Hook::XdpGeneric, XDP_FLAGS_SKB_MODE, XdpOutcome::Generic),
        };
        // The kernel does not run both ways at once on one interface.
        self.detach_xdp(ifindex, Some(hook))?;
        let pin = pin_name("underlay_xdp", hook, Some(ifindex));
        let attached = self.ensure_link(
            "underlay_xdp",
            &pin,
            Target::Interface(ifindex),
            bpf_attach_type::BPF_XDP,
            flags,
        );
        match attached {
            Ok(()) => Ok(outcome),
            Err(DatapathError::Attach { source, .. }) if is_refusal(&source) => {
                Ok(XdpOutcome::Unavailable { why: refusal(&source) })
            }
            Err(error) => Err(error),
        }
    }

    /// Puts the programs of the sockets on the root of the control groups.
    pub fn attach_cgroup(&self) -> Result<(), DatapathError> {
        let root = cgroup::open_root()?;
        SOCKETS.iter().try_for_each(|(program, attach_type)| {
            self.ensure_link(program, program, Target::Cgroup(root.as_fd()), *attach_type, 0)
        })
    }

    /// Takes everything of ours from an interface; it is no error if there is nothing.
    pub fn detach(&self, ifindex: u32) -> Result<(), DatapathError> {
        self.unpin_where(|pin| pin.ifindex == Some(ifindex))?;
        if self.abilities.tcx {
            return Ok(());
        }
        Filters::open().and_then(|filters| filters.remove(ifindex)).map_err(|source| DatapathError::Filter {
            doing: format!("take the filter from {}", interface(ifindex)),
            source,
        })
    }

    /// Takes everything of ours from every interface but these, and the programs of the sockets unless
    /// `cgroup` is set.
    pub fn detach_all_but(&self, ifindices: &[u32], cgroup: bool) -> Result<(), DatapathError> {
        self.unpin_where(|pin| match pin.ifindex {
            Some(ifindex) => !ifindices.contains(&ifindex),
            None => !cgroup,
        })?;
        for Filter { ifindex, .. } in self.filters()? {
            if !ifindices.contains(&ifindex) {
                self.detach(ifindex)?;
            }
        }
        Ok(())
    }

    /// Takes everything away, the maps and the file system of the pins too.
    pub fn detach_all(self, run_dir: &std::path::Path) -> Result<(), DatapathError> {
        self.detach_all_but(&[], false)?;
        drop(self.fs);
        Self::remove(run_dir)
    }

    /// Everything that is attached, in the order of its pins' names; filters come last.
    pub fn attached(&self) -> Result<Vec<Attached>, DatapathError> {
        let mut all = Vec::new();
        for name in self.fs.list(LINKS)? {
            let fault = |source| DatapathError::Pin { pin: name.clone(), source };
            let Some(pin) = parse_pin(&name) else { continue };
            let link = match sys::get_pinned(&self.link_path(&name)) {
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(fault)?,
            };
            let facts = sys::link_facts(link.as_fd()).map_err(fault)?;
            if facts.ifindex != pin.ifindex {
                continue;
            }
            let program = sys::program_facts(facts.program).map_err(fault)?;
            all.push(Attached {
                program: pin.program.to_owned(),
                hook: pin.hook,
                ifindex: pin.ifindex,
                link_id: Some(facts.link),
                program_id: facts.program,
                verified_instructions: program.verified_instructions,
                runs: program.runs,
                run_time_ns: program.run_time_ns,
            });
        }
        for Filter { ifindex, program: name, program_id } in self.filters()? {
            let program = match sys::program_facts(program_id) {
                // Replaced or removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|source| DatapathError::Filter {
                    doing: format!("look at the program of the filter on {}", interface(ifindex)),
                    source,
                })?,
            };
            all.push(Attached {
                program: name,
                hook: Hook::Filter,
                ifindex: Some(ifindex),
                link_id: None,
                program_id,
                verified_instructions: program.verified_instructions,
                runs: program.runs,
                run_time_ns: program.run_time_ns,
            });
        }
        Ok(all)
    }

    /// The mesh's filters; none where the kernel has tcx.
    fn filters(&self) -> Result<Vec<Filter>, DatapathError> {
        if self.abilities.tcx {
            return Ok(Vec::new());
        }
        Filters::open().and_then(|filters| filters.all()).map_err(|source| DatapathError::Filter {
            doing: "list the filters of the interfaces".into(),
            source,
        })
    }

    /// The pins of links that run another agent's programs; none if each is replaced.
    pub(super) fn foreign(&self) -> Result<Vec<String>, DatapathError> {
        let mut own = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let fault = |source| DatapathError::Pin { pin: name.to_owned(), source };
            let fd = program.fd().map_err(|error| fault(io::Error::other(chain(&error))))?;
            own.push(sys::program_number(fd.as_fd()).map_err(fault)?);
        }
        let attached = self.attached()?.into_iter().filter(|attached| !own.contains(&attached.program_id));
        Ok(attached.map(|attached| pin_name(&attached.program, attached.hook, attached.ifindex)).collect())
    }

    /// Removes the pins of links whose interface is gone.
    pub fn sweep(&self) -> Result<(), DatapathError> {
        for name in self.fs.list(LINKS)? {
            let stale = match (parse_pin(&name), sys::get_pinned(&self.link_path(&name))) {
                (Some(pin), Ok(link)) => sys::link_facts(link.as_fd())
                    .map_err(|source| DatapathError::Pin { pin: name.clone(), source })?
                    .ifindex
                    .is_some_and(|ifindex| Some(ifindex) != pin.ifindex),
                // Not a link, or not one of ours.
                _ => true,
            };
            if stale {
                self.fs.remove_pin(&format!("{LINKS}/{name}"))?;
            }
        }
        Ok(())
    }

    fn attach_ingress(&self, program: &str, ifindex: u32) -> Result<(), DatapathError> {
        if !self.abilities.tcx {
            return self.ensure_filter(program, ifindex);
        }
        let pin = pin_name(program, Hook::Ingress, Some(ifindex));
        self.ensure_link(program, &pin, Target::Interface(ifindex), bpf_attach_type::BPF_TCX_INGRESS, 0)
    }

    /// Makes `program` the one of the filter on an interface.
    fn ensure_filter(&self, program: &str, ifindex: u32) -> Result<(), DatapathError> {
        let fault = |source| DatapathError::Attach {
            program: program.to_owned(),
            target: interface(ifindex),
            source,
        };
        let fd = self.program(program)?;
        let filters = Filters::open().map_err(fault)?;
        let wanted = Filter {
            ifindex,
            program: program.to_owned(),
            program_id: sys::program_number(fd).map_err(fault)?,
        };
        if filters.on(ifindex).map_err(fault)?.as_ref() == Some(&wanted) {
            return Ok(());
        }
        filters.put(ifindex, program, fd).map_err(fault)
    }

    /// Takes the XDP program from an interface, but for the way that is to stay.
    fn detach_xdp(&self, ifindex: u32, stays: Option<Hook>) -> Result<(), DatapathError> {
        self.unpin_where(|pin| {
            pin.ifindex == Some(ifindex)
                && matches!(pin.hook, Hook::XdpNative | Hook::XdpGeneric)
                && Some(pin.hook) != stays
        })
    }

    /// Makes `program` the one in the link that is pinned as `pin`, and makes that if it is not there.
    fn ensure_link(
        &self,
        program: &str,
        pin: &str,
        target: Target<'_>,
        attach_type: bpf_attach_type,
        flags: u32,
    ) -> Result<(), DatapathError> {
        let fault = |source| DatapathError::Attach {
            program: program.to_owned(),
            target: match target {
                Target::Interface(index) => interface(index),
                Target::Cgroup(_) => "the root of the control groups".into(),
            },
            source,
        };
        let fd = self.program(program)?;
        let path = self.link_path(pin);
        match sys::get_pinned(&path) {
            Ok(link) => {
                let facts = sys::link_facts(link.as_fd()).map_err(fault)?;
                let alive = match target {
                    Target::Interface(index) => facts.ifindex == Some(index),
                    Target::Cgroup(_) => true,
                };
                if alive && facts.program == sys::program_number(fd).map_err(fault)? {
                    return Ok(());
                }
                if alive {
                    match sys::update_link(link.as_fd(), fd) {
                        Ok(()) => return Ok(()),
                        Err(error) => {
                            tracing::warn!(pin, %error, "a link could not be taken over and is made anew");
                        }
                    }
                }
                self.fs.remove_pin(&format!("{LINKS}/{pin}"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fault(error)),
        }
        let link = sys::create_link(fd, target, attach_type, flags).map_err(fault)?;
        sys::pin(link.as_fd(), &path).map_err(fault)
    }

    fn program(&self, name: &str) -> Result<BorrowedFd<'_>, DatapathError> {
        let program = self
            .ebpf
            .program(name)
            .ok_or_else(|| DatapathError::Missing { what: "program", name: name.to_owned() })?;
        let fd = program
            .fd()
            .map_err(|error| DatapathError::Load { why: format!("the program {name}: {}", chain(&error)) })?;
        Ok(fd.as_fd())
    }

    fn link_path(&self, name: &str) -> std::path::PathBuf {
        self.fs.path(LINKS).join(name)
    }

    fn unpin_where(&self, doomed: impl Fn(&Pin<'_>) -> bool) -> Result<(), DatapathError> {
        for name in self.fs.list(LINKS)? {
            if parse_pin(&name).is_some_and(|pin| doomed(&pin)) {
                self.fs.remove_pin(&format!("{LINKS}/{name}"))?;
            }
        }
        Ok(())
    }
}

/// An interface as it is called in a sentence.
fn interface(index: u32) -> String {
    match nix::net::if_::if_indextoname(index) {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => format!("interface number {index}"),
    }
}

/// The name of a link's pin. (A bpffs refuses names with dots.)
fn pin_name(program: &str, hook: Hook, ifindex: Option<u32>) -> String {
    match (ifindex, hook) {
        (Some(index), Hook::XdpNative) => format!("{program}-{index}-native"),
        (Some(index), Hook::XdpGeneric) => format!("{program}-{index}-generic"),
        (Some(index), _) => format!("{program}-{index}"),
        (None, _) => program.to_owned(),
    }
}

fn parse_pin(name: &str) -> Option<Pin<'_>> {
    let mut parts = name.split('-');
    let program = parts.next()?;
    let Some(index) = parts.next() else {
        let known = SOCKETS.iter().any(|(socket, _)| *socket == program);
        return known.then_some(Pin { program, hook: Hook::Cgroup, ifindex: None });
    };
    let hook = match (parts.next(), parts.next()) {
        (None, _) => Hook::Ingress,
        (Some("native"), None) => Hook::XdpNative,
        (Some("generic"), None) => Hook::XdpGeneric,
        _ => return None,
    };
    Some(Pin { program, hook, ifindex: Some(index.parse().ok()?) })
}

/// Whether an interface can never take an XDP program in the way that was asked for, as it is now.
fn is_refusal(error: &io::Error) -> bool {
    use nix::libc::{EBUSY, EEXIST, EINVAL, EOPNOTSUPP, ERANGE};
    matches!(error.raw_os_error(), Some(EOPNOTSUPP | EINVAL | EBUSY | EEXIST | ERANGE))
}

fn refusal(error: &io::Error) -> String {
    use nix::libc::{EBUSY, EEXIST, EOPNOTSUPP, ERANGE};
    match error.raw_os_error() {
        Some(EOPNOTSUPP) => "the driver of the interface has no XDP".into(),
        Some(EBUSY | EEXIST) => "another XDP program is on the interface already".into(),
        Some(ERANGE) => "the interface's MTU is too large for XDP in its driver".into(),
        _ => format!("the kernel refused it: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pins_name_says_what_it_is() {
        for (program, hook, ifindex) in [
            ("endpoint_tc", Hook::Ingress, Some(7)),
            ("underlay_xdp", Hook::XdpNative, Some(3)),
            ("underlay_xdp", Hook::XdpGeneric, Some(3)),
            ("connect4", Hook::Cgroup, None),
        ] {
            let name = pin_name(program, hook, ifindex);
            let pin = parse_pin(&name).unwrap();
            assert_eq!((pin.program, pin.hook, pin.ifindex), (program, hook, ifindex), "{name}");
        }
        for other in ["connect5", "endpoint_tc-x", "underlay_xdp-3-odd", "underlay_xdp-3-native-4"] {
            assert!(parse_pin(other).is_none(), "{other}");
        }
    }
}
