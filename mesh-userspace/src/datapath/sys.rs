//! The system calls that aya has no way for: links by interface index, without its silent fallback for XDP;
//! links of control groups, replaced in place; what a link hangs on.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_info, bpf_prog_info,
    bpf_prog_type,
};
use mesh_common::abi::Pod;
use nix::libc;

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Interface(u32),
    Cgroup(BorrowedFd<'a>),
}

/// What a link is.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkFacts {
    /// The link's own number.
    pub(super) link: u32,
    /// The program's number.
    pub(super) program: u32,
    /// The interface that it hangs on; 0 once that is gone, none for links of another kind.
    pub(super) ifindex: Option<u32>,
}

/// What the kernel knows of a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramFacts {
    pub(super) verified_instructions: u32,
    pub(super) runs: u64,
    pub(super) run_time_ns: u64,
}

/// Attaches a program; it is detached when the descriptor is closed, unless it is pinned.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: bpf_attach_type,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    match target {
        Target::Interface(index) => attr.link_create.__bindgen_anon_2.target_ifindex = index,
        Target::Cgroup(cgroup) => attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup),
    }
    attr.link_create.attach_type = attach_type as u32;
    attr.link_create.flags = flags;
    new_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Asks what is attached to an interface's ingress by tcx; the answer is of no interest, but whether there is one.
pub(super) fn query_tcx(ifindex: u32) -> io::Result<()> {
    let mut attr = empty_attr();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr).map(drop)
}

/// Loads a program of a tc hook from its instructions.
pub(super) fn load_classifier(instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    attr.__bindgen_anon_3.insns = instructions.as_ptr() as u64;
    attr.__bindgen_anon_3.license = c"Dual MIT/GPL".as_ptr() as u64;
    new_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// Runs a program once, on a frame that nobody sent; returns what it returned.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let mut attr = empty_attr();
    attr.test.prog_fd = raw(program);
    attr.test.data_in = frame.as_ptr() as u64;
    attr.test.data_size_in = u32::try_from(frame.len()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel has filled in the variant of this command; it is made of integers.
    Ok(unsafe { attr.test.retval })
}

/// Puts another program of the same kind into a link, in one atomic step.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once, whoever has it open or pinned.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Pins an object at a path on a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(super) fn get_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    new_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// What a link is.
pub(super) fn link_facts(link: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    // SAFETY: a plain structure of integers, for which zeroes are valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    object_info(link, &mut info)?;
    let is = |kind: bpf_link_type| info.type_ == kind as u32;
    let ifindex = if is(bpf_link_type::BPF_LINK_TYPE_TCX) {
        // SAFETY: the kernel has filled in the variant of this type; each is made of integers.
        Some(unsafe { info.__bindgen_anon_1.tcx.ifindex })
    } else if is(bpf_link_type::BPF_LINK_TYPE_XDP) {
        // SAFETY: as above.
        Some(unsafe { info.__bindgen_anon_1.xdp.ifindex })
    } else {
        None
    };
    Ok(LinkFacts { link: info.id, program: info.prog_id, ifindex })
}

/// The number of a loaded program.
pub(super) fn program_number(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(program_info(program)?.id)
}

/// What the kernel knows of the program with this number.
pub(super) fn program_facts(number: u32) -> io::Result<ProgramFacts> {
    let mut attr = empty_attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = number;
    let program = new_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr)?;
    let info = program_info(program.as_fd())?;
    Ok(ProgramFacts {
        verified_instructions: info.verified_insns,
        runs: info.run_cnt,
        run_time_ns: info.run_time_ns,
    })
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: a plain structure of integers, for which zeroes are valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    object_info(program, &mut info)?;
    Ok(info)
}

/// What the kernel knows of a map.
pub(super) fn map_facts(map: &OwnedFd) -> io::Result<bpf_map_info> {
    // SAFETY: a plain structure of integers, for which zeroes are valid.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    object_info(map.as_fd(), &mut info)?;
    Ok(info)
}

/// A new file system of this type, mounted nowhere; its root as a descriptor that lives as long as it is open.
pub(super) fn detached_mount(kind: &std::ffi::CStr) -> io::Result<OwnedFd> {
    /// `FSCONFIG_CMD_CREATE` of linux/mount.h.
    const CREATE: libc::c_uint = 6;
    // SAFETY: fsopen(2) reads the string, which lives across the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::c_uint::from(true)) })?;
    // SAFETY: fsconfig(2) with this command takes no key and no value.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_void>(),
            0,
        )
    })?;
    // SAFETY: fsmount(2) takes integers only. Its flag 1 is FSMOUNT_CLOEXEC.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

fn empty_attr() -> bpf_attr {
    // SAFETY: a union of plain structures of integers, for which zeroes are valid; the kernel demands them
    // in everything that a command does not use.
    unsafe { std::mem::zeroed() }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = empty_attr();
    attr.info.bpf_fd = raw(object);
    attr.info.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the union is as large as is said, and every pointer in it is to memory that its caller keeps
    // alive across the call and that is as long as the command and the counts beside it say.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    })
}

fn new_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    owned(bpf(command, attr)?)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The value of a key, if the map has it. The map's keys and values must be as long as these types.
pub(super) fn lookup<K: Pod, V: Pod + Default>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut attr = element(map, Some(key));
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_mut(&mut value) as u64;
    Ok(unless_absent(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))?.then_some(value))
}

/// Sets the value of a key. The map's keys and values must be as long as these types.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = element(map, Some(key));
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Sets the values of many keys, one after the other; there must be as many of both, and the map's keys and values must be
/// as long as these types.
pub(super) fn update_all<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut attr = empty_attr();
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// Removes a key; false if it was not there. The map's keys must be as long as this type.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    unless_absent(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(map, Some(key))))
}

/// The key after another in the map's own order, or its first. The map's keys must be as long as this type.
pub(super) fn next_key<K: Pod + Copy>(map: BorrowedFd<'_>, after: Option<&K>) -> io::Result<Option<K>> {
    // Any bytes are a key, and the kernel writes all of them.
    let mut next = std::mem::MaybeUninit::<K>::zeroed();
    let mut attr = element(map, after);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    let found = unless_absent(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))?;
    // SAFETY: zeroes, like any bytes, are a valid value of such a type.
    Ok(found.then(|| unsafe { next.assume_init() }))
}

/// Adds the entries of a hash that follow a place in its own order, or its first, to both lists, at most so many; tells
/// the place where they end, or none at the hash's end. The map's keys and values must be as long as these types.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    after: Option<u32>,
    most: u32,
    entries: &mut Vec<(K, V)>,
) -> io::Result<Option<u32>> {
    let room = usize::try_from(most).map_err(io::Error::other)?;
    let (mut keys, mut values) = (Vec::<K>::with_capacity(room), Vec::<V>::with_capacity(room));
    let mut place = 0_u32;
    let mut attr = empty_attr();
    attr.batch.map_fd = raw(map);
    attr.batch.in_batch = after.as_ref().map_or(0, |after| std::ptr::from_ref(after) as u64);
    attr.batch.out_batch = std::ptr::from_mut(&mut place) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = most;
    let has_more = unless_absent(bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr))?;
    // SAFETY: the kernel has set the count in this very structure, which begins as zeroes.
    let count = usize::try_from(unsafe { attr.batch.count }).map_err(io::Error::other)?.min(room);
    // SAFETY: both have room for as many, and the kernel has written that many of each; any bytes are a value.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    entries.extend(keys.into_iter().zip(values));
    Ok(has_more.then_some(place))
}

fn element<K: Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> bpf_attr {
    let mut attr = empty_attr();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    attr
}

fn unless_absent(result: io::Result<libc::c_long>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The entries of a map, read many at a time. Of what changes meanwhile, some may be missed or met twice.
#[derive(Debug)]
pub(super) struct Batch {
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Bytes of a key and of a value.
    sizes: (usize, usize),
    count: u32,
    /// Where the next batch begins, by the kernel's own reckoning; none at the beginning.
    token: Option<Vec<u8>>,
    is_over: bool,
}

impl Batch {
    /// Of a map with keys and values of so many bytes, so many entries at a time.
    pub(super) fn new(key: u32, value: u32, count: u32) -> Self {
        let sizes = (key as usize, value as usize);
        let room = |size: usize| vec![0; size * count as usize];
        Self { keys: room(sizes.0), values: room(sizes.1), sizes, count, token: None, is_over: false }
    }

    /// The keys and the values of the next entries; none at the end. The map must be of the sizes that this was made for.
    pub(super) fn next(&mut self, map: BorrowedFd<'_>) -> io::Result<Option<(&[u8], &[u8])>> {
        if self.is_over {
            return Ok(None);
        }
        // A hash counts its buckets, in four bytes; what has no buckets names a key.
        let mut out = vec![0; self.sizes.0.max(size_of::<u32>())];
        let mut attr = empty_attr();
        attr.batch.map_fd = raw(map);
        attr.batch.in_batch = self.token.as_ref().map_or(0, |token| token.as_ptr() as u64);
        attr.batch.out_batch = out.as_mut_ptr() as u64;
        attr.batch.keys = self.keys.as_mut_ptr() as u64;
        attr.batch.values = self.values.as_mut_ptr() as u64;
        attr.batch.count = self.count;
        self.is_over = !unless_absent(bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr))?;
        self.token = Some(out);
        // SAFETY: the kernel has left in the union what it was given, but for the count of what it has copied.
        let count = unsafe { attr.batch.count }.min(self.count) as usize;
        let of = |bytes: usize| count * bytes;
        Ok(Some((
            self.keys.get(..of(self.sizes.0)).unwrap_or_default(),
            self.values.get(..of(self.sizes.1)).unwrap_or_default(),
        )))
    }
}

/// Copies the value of a key, if the map has it. Both must be as long as the map's.
pub(super) fn lookup_bytes(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = empty_attr();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    unless_absent(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// Sets so many entries of a map; the keys and the values must be as long as that many of the map's.
pub(super) fn update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let mut attr = empty_attr();
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = u32::try_from(count).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// A value from its bytes; none if there are not as many as it has.
pub(super) fn from_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: any bytes are a value of such a type, and there are enough of them; their place need not be aligned.
    (bytes.len() == size_of::<T>()).then(|| unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The bytes of a value.
pub(super) fn to_bytes<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: such a type is nothing but its bytes, without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
