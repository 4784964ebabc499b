//! The system call bpf(2), for programs and maps of our own making.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use nix::libc;

use super::code::Instruction;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;

/// What a program hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Tc = 3,
    Xdp = 6,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

#[repr(C)]
struct ObjectPin {
    path: u64,
    object: u32,
    flags: u32,
}

#[repr(C)]
struct TestRun {
    program: u32,
    answer: u32,
    data_size_in: u32,
    data_size_out: u32,
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

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// `struct xdp_md`, by which a test run is told where its packets come from.
#[repr(C)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Loads a program; where the kernel refuses it, its log is in the error.
pub(super) fn load(kind: Kind, instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let attributes = ProgramLoad {
        kind: kind as u32,
        instruction_count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr() as u64,
    };
    // SAFETY: the addresses are of what outlives the call, as long as it says, or ended by zero.
    let loaded = unsafe { bpf(PROG_LOAD, &attributes) };
    match loaded {
        // SAFETY: the kernel has just given us this descriptor; nobody else has it.
        Ok(descriptor) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        Err(error) => {
            let log = String::from_utf8_lossy(&log);
            bail!("cannot load a program: {error}\n{}", log.trim_end_matches('\0'));
        }
    }
}

/// Makes a map of one value of so many numbers.
pub(super) fn map(numbers: u32) -> Result<OwnedFd> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let attributes = MapCreate { kind: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size: 8 * numbers, entries: 1 };
    // SAFETY: the attributes hold no addresses.
    let descriptor = unsafe { bpf(MAP_CREATE, &attributes) }.context("cannot make a map")?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Reads a map's value into a buffer that has room for it.
pub(super) fn read(map: BorrowedFd<'_>, value: &mut [u64]) -> Result<()> {
    let key = 0_u32;
    let attributes = element(map, &key, value.as_mut_ptr() as u64);
    // SAFETY: key and value outlive the call, and the caller's buffer has room for the whole value.
    unsafe { bpf(MAP_LOOKUP_ELEM, &attributes) }.context("cannot read a map")?;
    Ok(())
}

/// Writes a map's value, from a buffer that holds all of it.
pub(super) fn write(map: BorrowedFd<'_>, value: &[u64]) -> Result<()> {
    let key = 0_u32;
    let attributes = element(map, &key, value.as_ptr() as u64);
    // SAFETY: key and value outlive the call, and the caller's buffer is the whole value.
    unsafe { bpf(MAP_UPDATE_ELEM, &attributes) }.context("cannot write a map")?;
    Ok(())
}

fn element(map: BorrowedFd<'_>, key: &u32, value: u64) -> Element {
    Element { map: descriptor(map), padding: 0, key: std::ptr::from_ref(key) as u64, value, flags: 0 }
}

/// Pins a program or map in a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    let attributes = ObjectPin { path: name.as_ptr() as u64, object: descriptor(object), flags: 0 };
    // SAFETY: the path is ended by zero and outlives the call.
    unsafe { bpf(OBJ_PIN, &attributes) }.with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(())
}

/// Hangs a program on an interface of this thread's namespace, in its driver, as long as the answer lives.
pub(super) fn attach_xdp(program: BorrowedFd<'_>, interface: u32) -> Result<OwnedFd> {
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let attributes = LinkCreate {
        program: descriptor(program),
        interface,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: the attributes hold no addresses.
    let link = unsafe { bpf(LINK_CREATE, &attributes) }.context("cannot attach an XDP program")?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Runs a program on so many live frames, each as if it had come in by an interface of this thread's namespace: what the program
/// says is done with them.
pub(super) fn run_live(
    program: BorrowedFd<'_>,
    interface: u32,
    frame: &[u8],
    count: u32,
    batch: u32,
) -> io::Result<()> {
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
    let length = frame.len() as u32;
    let context = XdpContext {
        data: 0,
        data_end: length,
        data_meta: 0,
        ingress_ifindex: interface,
        rx_queue_index: 0,
        egress_ifindex: 0,
    };
    let attributes = TestRun {
        program: descriptor(program),
        answer: 0,
        data_size_in: length,
        data_size_out: 0,
        data_in: frame.as_ptr() as u64,
        data_out: 0,
        repeat: count,
        duration: 0,
        context_size_in: size_of::<XdpContext>() as u32,
        context_size_out: 0,
        context_in: std::ptr::from_ref(&context) as u64,
        context_out: 0,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        processor: 0,
        batch_size: batch,
        padding: 0,
    };
    // SAFETY: frame and context outlive the call and are as long as it says.
    unsafe { bpf(PROG_TEST_RUN, &attributes) }.map(drop)
}

fn descriptor(object: BorrowedFd<'_>) -> u32 {
    object.as_raw_fd().cast_unsigned()
}

/// The system call, which has no wrapper in the C library; what follows the attributes the kernel takes for zero.
///
/// # Safety
/// The attributes must be the command's, and each address in them must be of what the command may read or write there.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are as long as we say; the rest the caller answers for.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
