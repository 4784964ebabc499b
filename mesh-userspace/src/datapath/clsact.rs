//! Programs on the ingress of interfaces as filters, for kernels without tcx (before Linux 6.6): each in a filter of its own
//! at the interface's queueing discipline `clsact` (or `ingress`), with a preference and a handle that no other is likely to
//! have, and with a name that tells whose it is.
//!
//! A filter holds its program for as long as the interface is there, whoever put it there; another program takes the place of
//! the one before in one step. Filters of others stay as they are. So does the queueing discipline, also when the last filter
//! of ours goes: the kernel does not say who made it, and without filters it does nothing.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
        TcU32OptionFlags,
    },
};
use nix::libc;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
        NetlinkPayload,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// The filters' preference: before those that the kernel gives one, which count down from 49152.
const PREFERENCE: u16 = u16::from_be_bytes(*b"ME");
/// The filters' number among those of the same preference.
const HANDLE: u16 = u16::from_be_bytes(*b"SH");
/// What each filter's name begins with; the program's name follows.
const NAME: &str = "mesh:";
/// The queueing disciplines that have filters for what comes in.
const DISCIPLINES: [&str; 2] = ["clsact", "ingress"];

/// A filter of the mesh's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// The interface that it is on.
    pub(super) ifindex: u32,
    /// The name of its program.
    pub(super) program: String,
    /// The kernel's number for the program.
    pub(super) program_id: u32,
}

/// A socket for requests about the interfaces of the calling thread's network namespace.
pub(super) struct Filters {
    socket: Socket,
}

impl Filters {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// The mesh's filters on all interfaces.
    pub(super) fn all(&self) -> io::Result<Vec<Filter>> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(0));
        let mut filters = Vec::new();
        for answer in self.ask(request, NLM_F_DUMP)? {
            let RouteNetlinkMessage::NewQueueDiscipline(discipline) = answer else { continue };
            let is_ours = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if DISCIPLINES.contains(&kind.as_str()));
            if discipline.attributes.iter().any(is_ours)
                && let Ok(ifindex) = u32::try_from(discipline.header.index)
            {
                filters.extend(self.on(ifindex)?);
            }
        }
        Ok(filters)
    }

    /// The mesh's filter on an interface.
    pub(super) fn on(&self, ifindex: u32) -> io::Result<Option<Filter>> {
        let answers = match self.ask(RouteNetlinkMessage::GetTrafficFilter(message(ifindex)?), 0) {
            Ok(answers) => answers,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(filter) => filter_of(ifindex, filter),
            _ => None,
        }))
    }

    /// Makes a program the one of the mesh's filter on an interface, and makes that if it is not there.
    pub(super) fn put(&self, ifindex: u32, name: &str, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut discipline = message(ifindex)?;
        discipline.header = TcHeader {
            handle: TcHandle { major: u16::MAX, minor: 0 },
            parent: TcHandle::CLSACT,
            info: 0,
            ..discipline.header
        };
        discipline.attributes = vec![TcAttribute::Kind("clsact".into())];
        let request = RouteNetlinkMessage::NewQueueDiscipline(discipline);
        match self.ask(request, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
        let mut filter = message(ifindex)?;
        filter.attributes.push(TcAttribute::Options(
            [
                // A borrowed descriptor is never negative.
                TcFilterBpfOption::ProgFd(u32::try_from(program.as_raw_fd()).unwrap_or(u32::MAX)),
                TcFilterBpfOption::ProgName(format!("{NAME}{name}")),
                // What the program returns is what is done.
                TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
                TcFilterBpfOption::FlagsGeneric(TcU32OptionFlags::SkipHw),
            ]
            .map(TcOption::Bpf)
            .to_vec(),
        ));
        // Ours is replaced; another's, if it has been given the same numbers, is not.
        let how = if self.on(ifindex)?.is_some() { NLM_F_CREATE } else { NLM_F_CREATE | NLM_F_EXCL };
        self.ask(RouteNetlinkMessage::NewTrafficFilter(filter), how).map(drop)
    }

    /// Takes the mesh's filter from an interface; it is no error if there is none.
    pub(super) fn remove(&self, ifindex: u32) -> io::Result<()> {
        if self.on(ifindex)?.is_none() {
            return Ok(());
        }
        match self.ask(RouteNetlinkMessage::DelTrafficFilter(message(ifindex)?), 0) {
            Err(error) if !is_absence(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a request, and returns what the kernel answers.
    fn ask(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | flags;
        if flags & NLM_F_DUMP != NLM_F_DUMP {
            request.header.flags |= NLM_F_ACK;
        }
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length();
                let length = usize::try_from(length).map_err(io::Error::other)?;
                let end = length.next_multiple_of(4).min(rest.len());
                let (one, others) = rest.split_at(end);
                rest = others;
                // What cannot be read is of a discipline that the mesh has nothing to do with.
                let Ok(answer) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) else { continue };
                match answer.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// What names the mesh's filter on an interface.
fn message(ifindex: u32) -> io::Result<TcMessage> {
    let every_protocol = u32::from(u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be());
    let mut message = TcMessage::with_index(i32::try_from(ifindex).map_err(io::Error::other)?);
    message.header.handle = TcHandle { major: 0, minor: HANDLE };
    message.header.parent = TcHandle { minor: TcHandle::MIN_INGRESS, ..TcHandle::CLSACT };
    message.header.info = u32::from(PREFERENCE) << 16 | every_protocol;
    message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.into())];
    Ok(message)
}

/// A filter that the kernel tells of, if it is the mesh's.
fn filter_of(ifindex: u32, message: &TcMessage) -> Option<Filter> {
    let mut filter = Filter { ifindex, program: String::new(), program_id: 0 };
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                    filter.program = name.strip_prefix(NAME)?.to_owned();
                }
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = *id,
                _ => {}
            }
        }
    }
    (!filter.program.is_empty()).then_some(filter)
}

/// Whether the kernel says that there is no such filter, none of its discipline, or no such interface.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}
