//! The one shape of a request: on the wire, on the rings, in a client, in a session and in a store.

use super::{Fetch, Hop, List, Locate, Mirror, Put, Record, RecordError, RecordType, Remove, Renew, Stat};

/// A request to the peer: the record itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Keep a payload, or lanes of a set. Its verified encoding follows the answer.
    Put(Put),
    /// Send ranges of a payload, or of lanes of a set.
    Fetch(Fetch),
    /// Name the holders of a payload or set.
    Locate(Locate),
    /// Fetch a payload or lanes elsewhere and hold them.
    Mirror(Mirror),
    /// Name the payloads and sets that are kept.
    List(List),
    /// Say what is kept of a payload or set.
    Stat(Stat),
    /// Give up the asker's lease.
    Remove(Remove),
    /// Let the asker's lease last longer.
    Renew(Renew),
}

impl Request {
    /// Reads the body of a record of this type; none for a record that is no request.
    ///
    /// # Errors
    /// The fault of the body.
    pub fn parse(record_type: RecordType, body: &[u8]) -> Option<Result<Self, RecordError>> {
        Some(match record_type {
            RecordType::Put => Put::parse(body).map(Self::Put),
            RecordType::Fetch => Fetch::parse(body).map(Self::Fetch),
            RecordType::Locate => Locate::parse(body).map(Self::Locate),
            RecordType::Mirror => Mirror::parse(body).map(Self::Mirror),
            RecordType::List => List::parse(body).map(Self::List),
            RecordType::Stat => Stat::parse(body).map(Self::Stat),
            RecordType::Remove => Remove::parse(body).map(Self::Remove),
            RecordType::Renew => Renew::parse(body).map(Self::Renew),
            _ => return None,
        })
    }

    /// The type of its record.
    pub const fn record_type(&self) -> RecordType {
        match self {
            Self::Put(_) => Put::TYPE,
            Self::Fetch(_) => Fetch::TYPE,
            Self::Locate(_) => Locate::TYPE,
            Self::Mirror(_) => Mirror::TYPE,
            Self::List(_) => List::TYPE,
            Self::Stat(_) => Stat::TYPE,
            Self::Remove(_) => Remove::TYPE,
            Self::Renew(_) => Renew::TYPE,
        }
    }

    /// Whether it is about leases: LIST, STAT, REMOVE or RENEW. Such a request takes no route, and a node takes it that announced `leases` in its
    /// SETTINGS.
    pub const fn is_about_leases(&self) -> bool {
        matches!(self, Self::List(_) | Self::Stat(_) | Self::Remove(_) | Self::Renew(_))
    }

    /// Appends the whole record, header and body, to `out`.
    pub fn emit_record(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put(put) => put.emit_record(out),
            Self::Fetch(fetch) => fetch.emit_record(out),
            Self::Locate(locate) => locate.emit_record(out),
            Self::Mirror(mirror) => mirror.emit_record(out),
            Self::List(list) => list.emit_record(out),
            Self::Stat(stat) => stat.emit_record(out),
            Self::Remove(remove) => remove.emit_record(out),
            Self::Renew(renew) => renew.emit_record(out),
        }
    }
}

impl From<Put> for Request {
    fn from(put: Put) -> Self {
        Self::Put(put)
    }
}

impl From<Fetch> for Request {
    fn from(fetch: Fetch) -> Self {
        Self::Fetch(fetch)
    }
}

impl From<Locate> for Request {
    fn from(locate: Locate) -> Self {
        Self::Locate(locate)
    }
}

impl From<Mirror> for Request {
    fn from(mirror: Mirror) -> Self {
        Self::Mirror(mirror)
    }
}

impl From<List> for Request {
    fn from(list: List) -> Self {
        Self::List(list)
    }
}

impl From<Stat> for Request {
    fn from(stat: Stat) -> Self {
        Self::Stat(stat)
    }
}

impl From<Remove> for Request {
    fn from(remove: Remove) -> Self {
        Self::Remove(remove)
    }
}

impl From<Renew> for Request {
    fn from(renew: Renew) -> Self {
        Self::Renew(renew)
    }
}

/// A request with its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The route; none: the peer itself answers.
    pub hop: Option<Box<Hop>>,
    /// The request.
    pub request: Request,
}

impl Routed {
    /// Appends the records that open the request's stream to `out`: HOP where there is one, and the request.
    /// Returns their number.
    pub fn emit_records(&self, out: &mut Vec<u8>) -> u64 {
        if let Some(hop) = &self.hop {
            hop.emit_record(out);
        }
        self.request.emit_record(out);
        1 + u64::from(self.hop.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LeaseScope, RecordReader};
    use super::*;
    use crate::shard::{Descriptor, Lanes};
    use crate::tls::NodeId;
    use crate::token::{Ranges, Token};

    fn requests() -> [Request; 8] {
        let token = Token::of(b"payload");
        let descriptor = Descriptor::plain(token, 7).unwrap();
        [
            Put { queue: 3, lease_s: 60, descriptor, lanes: None }.into(),
            Fetch { token: token.into(), bytes_max: 9, lanes: None, ranges: Ranges::all(), describe: true }
                .into(),
            Locate { token: token.into() }.into(),
            Mirror { token: token.into(), lanes: Lanes::NONE, lease_s: 1, sources: vec![] }.into(),
            List { after: Some(token.into()), ..List::default() }.into(),
            Stat { scope: LeaseScope::All, token: token.into() }.into(),
            Remove { token: token.into() }.into(),
            Renew { token: token.into(), lease_s: 5 }.into(),
        ]
    }

    #[test]
    fn every_request_is_read_as_it_was_written_with_and_without_a_route() {
        let hop = Hop {
            cache: false,
            hop_limit: 2,
            nonce: [1; 16],
            budget_bytes: 1,
            cursor: 0,
            route: [NodeId([1; 32])].into_iter().collect(),
        };
        for request in requests() {
            for hop in [None, Some(Box::new(hop.clone()))] {
                let routed = Routed { hop: hop.clone(), request: request.clone() };
                let mut out = Vec::new();
                let records = routed.emit_records(&mut out);
                let mut reader = RecordReader::new();
                reader.push(out.into());
                let mut read = Vec::new();
                while let Some(header) = reader.next_header().unwrap() {
                    read.push((header.record_type, reader.take_body().unwrap().to_bytes()));
                }
                assert_eq!(read.len() as u64, records);
                if let Some(hop) = hop {
                    assert_eq!((read[0].0, Hop::parse(&read[0].1).unwrap()), (RecordType::Hop, *hop));
                }
                let (record_type, body) = read.last().unwrap();
                assert_eq!(*record_type, request.record_type());
                assert_eq!(Request::parse(*record_type, body), Some(Ok(request.clone())));
            }
        }
    }

    #[test]
    fn a_record_that_is_no_request_is_none() {
        for record_type in [RecordType::Hop, RecordType::Ok, RecordType::Settings, RecordType::Error] {
            assert_eq!(Request::parse(record_type, &[]), None);
        }
    }
}
