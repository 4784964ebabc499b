//! The system call bpf(2), where aya has no way to it: programs of a few instructions, and single packets run through a program
//! (`BPF_PROG_TEST_RUN`).

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};
use nix::libc;

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// An instruction as the kernel takes it: eight bytes.
pub type Instruction = [u8; 8];

/// `exit`.
pub const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// `r0 = VALUE`.
#[must_use]
pub const fn answer(value: u8) -> Instruction {
    [0xb7, 0, 0, 0, value, 0, 0, 0]
}

/// What a program hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// tc: `BPF_PROG_TYPE_SCHED_CLS`.
    Tc,
    /// XDP, and the program takes packets of more than a page: without that it may not hang where the MTU is a jumbo frame's.
    XdpFrags,
    /// XDP.
    Xdp,
}

impl Kind {
    const fn program_type(self) -> u32 {
        match self {
            Self::Tc => 3,
            Self::Xdp | Self::XdpFrags => 6,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            // BPF_F_XDP_HAS_FRAGS.
            Self::XdpFrags => 1 << 5,
            Self::Tc | Self::Xdp => 0,
        }
    }
}

/// Loads a program that needs no maps.
///
/// # Errors
/// If the kernel refuses it.
pub fn load(kind: Kind, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = ProgramLoad {
        program_type: kind.program_type(),
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        flags: kind.flags(),
        ..ProgramLoad::default()
    };
    // SAFETY: the addresses in the attributes are of what outlives the call, as long as it says, or ended by zero.
    let descriptor = unsafe { bpf(BPF_PROG_LOAD, &mut { attributes }) }?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins a program on a bpffs.
///
/// # Errors
/// If the kernel refuses.
pub fn pin(program: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attributes =
        ObjectPin { path: path.as_ptr() as u64, object: program.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the path is ended by zero and outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Reads what a map has for a key: for every processor, if each has its own. None if it has nothing.
///
/// # Errors
/// If the map cannot be read, or its keys have another length.
pub fn lookup(map: &MapData, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let info = map.info().map_err(io::Error::other)?;
    if info.key_size() as usize != key.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a key of another length than the map's"));
    }
    let mut size = info.value_size() as usize;
    if matches!(info.map_type(), Ok(MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash)) {
        size = size.next_multiple_of(8) * nr_cpus().map_err(|(_, error)| error)?;
    }
    let mut value = vec![0; size];
    let mut attributes = Lookup {
        map: map.fd().as_fd().as_raw_fd() as u32,
        padding: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value are as long as the map's, and outlive the call.
    match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What came of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program returned.
    pub code: u32,
    /// Bytes of the packet afterwards.
    pub length: usize,
    /// Nanoseconds from the kernel's look at the clock before the program to that after it.
    pub nanoseconds: u32,
}

/// Runs a packet through a program, once: more would feed it what it has made. As much of the packet as there is room for is
/// written to `after`. The context is that of the program's type: [`skb_context`] or [`xdp_context`].
///
/// # Errors
/// If the kernel takes no such packet or context for a test.
pub fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    after: Option<&mut [u8]>,
) -> io::Result<Ran> {
    let mut attributes = TestRun {
        program: program.as_fd().as_raw_fd() as u32,
        size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        context_size_in: context.len() as u32,
        context_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    if let Some(after) = after {
        attributes.size_out = after.len() as u32;
        attributes.data_out = after.as_mut_ptr() as u64;
    }
    // SAFETY: each address is of what outlives the call and is as long as is said.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }?;
    let TestRun { code, size_out, duration, .. } = attributes;
    Ok(Ran { code, length: size_out as usize, nanoseconds: duration })
}

/// A `struct __sk_buff` with what a test may set of it: the interface that it hangs on, and the one that the frame came in by.
#[must_use]
pub fn skb_context(interface: u32, ingress: u32, gso: bool) -> Vec<u8> {
    const SIZE: usize = 192;
    const SET: [usize; 4] = [36, 40, 164, 176];
    // `ingress_ifindex`, `ifindex`, `gso_segs`, `gso_size`.
    let values = [ingress, interface, if gso { 2 } else { 0 }, if gso { 1000 } else { 0 }];
    let word = |at| SET.iter().zip(values).find(|(place, _)| **place == at).map_or(0, |(_, value)| value);
    (0..SIZE).step_by(4).flat_map(|at| word(at).to_ne_bytes()).collect()
}

/// A `struct xdp_md` of a packet of so many bytes that came in by an interface, which must have a queue of XDP's: a program on
/// it.
#[must_use]
pub fn xdp_context(length: usize, interface: u32) -> Vec<u8> {
    let [data, data_meta, queue, egress] = [0; 4];
    [data, length as u32, data_meta, interface, queue, egress]
        .iter()
        .flat_map(|word: &u32| word.to_ne_bytes())
        .collect()
}

/// The object that the programs are loaded from: where `MESH_EBPF_OBJECT` says, or where it is built.
#[must_use]
pub fn object() -> PathBuf {
    std::env::var_os("MESH_EBPF_OBJECT").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/mesh-ebpf.o"),
        PathBuf::from,
    )
}

/// The beginning of `bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what follows for zero.
#[derive(Default)]
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// `bpf_attr` for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct Lookup {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjectPin {
    path: u64,
    object: u32,
    flags: u32,
}

/// `bpf_attr` for `BPF_PROG_TEST_RUN`.
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    code: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch_size: u32,
    padding: u32,
}

/// The system call, which has no wrapper in the C library.
///
/// # Safety
/// The attributes must be the command's, and each address in them must be of what the command may read or write there.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes are as long as we say; the rest the caller answers for.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_context_says_stands_where_the_kernel_looks() {
        let context = skb_context(7, 9, true);
        assert_eq!(context.len(), 192);
        for (at, value) in [(36, 9_u32), (40, 7), (164, 2), (176, 1000)] {
            assert_eq!(context[at..at + 4], value.to_ne_bytes());
        }
        assert_eq!(context.iter().filter(|byte| **byte != 0).count(), 5);
        assert_eq!(xdp_context(60, 3)[4..8], 60_u32.to_ne_bytes());
    }
}
