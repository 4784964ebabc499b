//! The smallest XDP program: it lets everything pass.
//!
//! A veth that transmits from XDP only wakes a peer that has an XDP program of its own (`veth_xdp_flush` in the kernel's
//! drivers/net/veth.c); without one the packets wait for the next that comes another way. A real card has no such peer.

use std::{
    ffi::CString,
    fs, io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
};

/// The program, pinned for as long as this lives; interfaces keep it longer.
#[derive(Debug)]
pub(super) struct Pass {
    directory: PathBuf,
}

impl Pass {
    /// Loads it, and pins it in a bpffs that is mounted on a new directory.
    pub(super) fn load(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs on {}", directory.display()))?;
        let pass = Self { directory: directory.to_owned() };
        let program = load().context("cannot load an XDP program")?;
        pin(&program, &pass.path()).context("cannot pin an XDP program")?;
        Ok(pass)
    }

    /// Where it is pinned.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join("pass")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // The lab's end takes away what stays now.
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}

/// `r0 = XDP_PASS; exit`, as the kernel's instructions of eight bytes.
const INSTRUCTIONS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// The program takes packets of more than a page, without which it may not hang where the MTU is a jumbo frame's.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// The beginning of `bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what follows for zero.
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

/// `bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjectPin {
    path: u64,
    object: u32,
    flags: u32,
}

fn load() -> io::Result<OwnedFd> {
    let attributes = ProgramLoad {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: INSTRUCTIONS.len() as u32,
        instructions: INSTRUCTIONS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: BPF_F_XDP_HAS_FRAGS,
    };
    // SAFETY: the addresses in the attributes are of what outlives the call, as long as it says, or ended by zero.
    let descriptor = unsafe { bpf(BPF_PROG_LOAD, &attributes) }?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn pin(program: &OwnedFd, path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let object = u32::try_from(program.as_raw_fd())?;
    let attributes = ObjectPin { path: path.as_ptr() as u64, object, flags: 0 };
    // SAFETY: the path is ended by zero and outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &attributes) }?;
    Ok(())
}

/// The system call bpf(2), which has no wrapper in the C library.
///
/// # Safety
/// The attributes must be the command's, and each address in them must be of what the command may read there.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are as long as we say; the rest the caller answers for.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
