//! From a question to its answer, as bytes: pure, for any bytes.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA, SRV},
    },
    serialize::binary::{BinEncodable, BinEncoder},
};
use ipnet::IpNet;

use super::{
    meaning::{Meaning, Server, meaning, reverse},
    names::{Names, lower_text},
    random::shuffle,
};

/// For how many seconds an answer may be kept (docs/decisions/0023).
pub const TTL: u32 = 5;
/// For how many seconds it may be kept that there is no such name (RFC 2308).
pub const NEGATIVE_TTL: u32 = 1;
/// Bytes of the longest datagram that is sent, whatever a client would take: it fits into one packet on every network
/// (dnsflagday.net, 2020).
const LONGEST_DATAGRAM: u16 = 1232;
/// Bytes of the longest datagram without EDNS (RFC 1035, section 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;
/// Bytes of a message's header.
pub(super) const HEADER: usize = 12;
/// Bytes of the shortest record that an answer has: an IPv4 address, its name a pointer.
const SHORTEST_RECORD: usize = 16;
/// The most records of an answer: they fit into a message of TCP, and nobody needs to know of more tasks at once.
const MOST_RECORDS: usize = 1000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The network whose gateway was asked.
    pub network: &'a str,
    /// The address that it was asked from.
    pub client: IpAddr,
    /// Whether it was asked by TCP.
    pub by_tcp: bool,
}

/// What a message is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// This.
    Answer(Vec<u8>),
    /// What the host's resolvers say, in at most so many bytes.
    Forward {
        /// Bytes of the longest answer that the client takes.
        longest: u16,
    },
    /// Nothing: it is no question.
    Silence,
}

/// Answers a message. `chance` orders the addresses.
#[must_use]
pub fn react(message: &[u8], asker: Asker<'_>, names: &Names, chance: u64) -> Reaction {
    let Some(&[_, _, flags, _, q1, q2, an1, an2, ns1, ns2, ad1, ad2]) = message.first_chunk::<HEADER>()
    else {
        return Reaction::Silence;
    };
    if flags & 0x80 != 0 {
        // An answer: to answer that could go on forever.
        return Reaction::Silence;
    }
    if flags & 0x78 != 0 {
        return refusal(message, ResponseCode::NotImp);
    }
    // Looked at before memory is taken for so many records as it says.
    let is_question = [q1, q2] == [0, 1] && [an1, an2, ns1, ns2] == [0; 4] && ad1 == 0 && ad2 <= 2;
    let question = if is_question { Message::from_vec(message).ok() } else { None };
    let Some(question) = question else { return refusal(message, ResponseCode::FormErr) };
    let Some(query) = question.queries.first() else { return refusal(message, ResponseCode::FormErr) };
    let longest = match (&question.edns, asker.by_tcp) {
        (_, true) => u16::MAX,
        (Some(edns), false) => edns.max_payload().clamp(PLAIN_DATAGRAM, LONGEST_DATAGRAM),
        (None, false) => PLAIN_DATAGRAM,
    };
    let answer = Answering { question: &question, query, longest };
    if question.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return answer.plain(ResponseCode::BADVERS);
    }
    if query.query_class() != DNSClass::IN
        || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR)
    {
        return answer.plain(ResponseCode::Refused);
    }
    let networks = names.networks_of(asker.network, asker.client);
    let meaning = match (lower_text(query.name().iter()), in_arpa(query.name())) {
        (_, Some(asked)) => reverse(names, &networks, asked),
        (Some(text), None) => meaning(names, &networks, &text),
        (None, None) if query.name().num_labels() == 1 => Meaning::Unknown,
        (None, None) => Meaning::Foreign,
    };
    let leads_outside = networks.iter().any(|network| names.leads_outside(network));
    match meaning {
        Meaning::Foreign if leads_outside => Reaction::Forward { longest },
        // What the world says of its own top-level domains beside their addresses is for validating resolvers.
        Meaning::Unknown if leads_outside && is_of_zones(query) => Reaction::Forward { longest },
        // Where no way leads outside, there is nothing else: names must not carry out what packets may not.
        Meaning::Unknown | Meaning::Foreign => answer.negative(names, &networks, ResponseCode::NXDomain),
        known => answer.known(names, &networks, known, chance),
    }
}

/// Whether it is asked for what only a zone's apex has, by a name of one label.
fn is_of_zones(query: &Query) -> bool {
    query.name().num_labels() == 1
        && matches!(
            query.query_type(),
            RecordType::NS | RecordType::SOA | RecordType::DS | RecordType::DNSKEY
        )
}

/// The addresses that a name under in-addr.arpa or ip6.arpa stands for.
fn in_arpa(name: &Name) -> Option<IpNet> {
    let last = name.iter().next_back()?;
    if last.eq_ignore_ascii_case(b"arpa") { name.parse_arpa_name().ok() } else { None }
}

/// A refusal that says nothing but why: of a message that could not be read, or is not for us.
pub(super) fn refusal(message: &[u8], why: ResponseCode) -> Reaction {
    let Some(&[id1, id2, flags, ..]) = message.first_chunk::<HEADER>() else { return Reaction::Silence };
    // A response; the operation and "recursion desired" as in the question (RFC 1035, section 4.1.1).
    let flags = 0x80 | flags & 0x79;
    Reaction::Answer(vec![id1, id2, flags, 0x80 | why.low(), 0, 0, 0, 0, 0, 0, 0, 0])
}

/// A question that is being answered.
struct Answering<'a> {
    question: &'a Message,
    query: &'a Query,
    longest: u16,
}

impl Answering<'_> {
    fn known(&self, names: &Names, networks: &[&str], meaning: Meaning, chance: u64) -> Reaction {
        let mut message = self.message(ResponseCode::NoError);
        match meaning {
            Meaning::Addresses(mut addresses) => {
                addresses.retain(|address| self.wants(of_family(*address)));
                shuffle(&mut addresses, chance);
                addresses.truncate(MOST_RECORDS);
                message.answers.extend(addresses.into_iter().map(|address| self.record(of_address(address))));
            }
            Meaning::Servers(mut servers) if self.wants(RecordType::SRV) => {
                shuffle(&mut servers, chance);
                servers.truncate(MOST_RECORDS);
                self.servers(&mut message, &servers);
            }
            Meaning::Pointer(name) if self.wants(RecordType::PTR) => {
                let pointer = Name::from_ascii(name).ok();
                message.answers.extend(pointer.map(|name| self.record(RData::PTR(PTR(name)))));
            }
            _ => {}
        }
        if message.answers.is_empty() {
            return self.negative(names, networks, ResponseCode::NoError);
        }
        self.encode(message)
    }

    fn servers(&self, message: &mut Message, servers: &[Server]) {
        for server in servers {
            // A name that is too long for DNS has no record.
            let Ok(name) = Name::from_ascii(&server.name) else { continue };
            let data = SRV::new(0, server.weight, server.port, name.clone());
            message.answers.push(self.record(RData::SRV(data)));
            let addresses = server.addresses.iter();
            message
                .additionals
                .extend(addresses.map(|address| Record::from_rdata(name.clone(), TTL, of_address(*address))));
        }
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.query.query_type() == kind || self.query.query_type() == RecordType::ANY
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.query.name().clone(), TTL, data)
    }

    /// No such name, or nothing of that kind: with the authority that says for how long that holds (RFC 2308).
    fn negative(&self, names: &Names, networks: &[&str], why: ResponseCode) -> Reaction {
        let mut message = self.message(why);
        let (zone, server) =
            (self.zone(networks), Name::from_ascii("meshd.").unwrap_or_else(|_| Name::root()));
        // The revision of the table, as far as there is room.
        let serial = (names.revision() & u64::from(u32::MAX)) as u32;
        let soa = SOA::new(server.clone(), server, serial, 3600, 600, 86400, NEGATIVE_TTL);
        message.authorities.push(Record::from_rdata(zone, NEGATIVE_TTL, RData::SOA(soa)));
        self.encode(message)
    }

    /// The zone that a name is of: its network's, that of its neighbours among reverse names, or else the root's.
    fn zone(&self, networks: &[&str]) -> Name {
        let name = self.query.name();
        if in_arpa(name).is_some() {
            return name.base_name();
        }
        let zones = networks.iter().filter_map(|network| Name::from_ascii(format!("{network}.")).ok());
        zones.into_iter().find(|zone| zone.zone_of(name)).unwrap_or_else(Name::root)
    }

    fn plain(&self, why: ResponseCode) -> Reaction {
        let mut message = self.message(why);
        message.metadata.authoritative = false;
        self.encode(message)
    }

    fn message(&self, code: ResponseCode) -> Message {
        let asked = &self.question.metadata;
        let mut message = Message::new(asked.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.checking_disabled = asked.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.authoritative = true;
        message.metadata.response_code = code;
        message.queries.push(self.query.clone());
        if let Some(asked) = &self.question.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LONGEST_DATAGRAM).set_dnssec_ok(asked.flags().dnssec_ok);
            message.edns = Some(edns);
        }
        message
    }

    /// As many records as there is room for; what is only helpful goes first.
    fn encode(&self, mut message: Message) -> Reaction {
        let longest = usize::from(self.longest);
        // Not even those that are surely too many are written.
        if message.answers.len() > longest / SHORTEST_RECORD {
            message.answers.truncate(longest / SHORTEST_RECORD);
            message.additionals.clear();
            message.metadata.truncation = true;
        }
        loop {
            let mut bytes = Vec::with_capacity(PLAIN_DATAGRAM.into());
            let mut encoder = BinEncoder::new(&mut bytes);
            encoder.set_max_size(u16::MAX);
            let whole = message.emit(&mut encoder).is_ok();
            if whole && bytes.len() <= longest {
                return Reaction::Answer(bytes);
            }
            if !message.additionals.is_empty() {
                message.additionals.clear();
            } else if !message.answers.is_empty() {
                message.metadata.truncation = true;
                let room = message.answers.len() * longest / bytes.len().max(1);
                message.answers.truncate(room.min(message.answers.len() - 1));
            } else if message.queries.is_empty() {
                // Without records, nothing is too long.
                return Reaction::Silence;
            } else {
                message.authorities.clear();
                message.queries.clear();
            }
        }
    }
}

const fn of_family(address: IpAddr) -> RecordType {
    match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}

const fn of_address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}
