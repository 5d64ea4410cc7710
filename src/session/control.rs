//! The peer's CONTROL stream, and the first record of every unidirectional stream.

use super::chain::Following;
use super::fault::{Fault, unexpected};
use super::messages::Messages;
use super::reading::Reading;
use super::stream::{NextRole, Reader, Role};
use crate::limits::{HAVE_BURST, HAVE_RATE_PER_S};
use crate::queue::{ConnectionEvent, Credit, Delivery};
use crate::record::{
    Continuation, ErrorCode, GoAway, Have, Payload, Record, RecordError, RecordType, Settings,
};

/// The peer's unidirectional stream before its first record.
#[derive(Debug)]
pub(super) struct Opening {
    /// Whether it began in early data.
    pub(super) early: bool,
    /// Messages are read only while this credit has room.
    pub(super) pace: Option<Credit>,
}

impl Reader for Opening {
    fn app(&self) -> Option<usize> {
        None
    }

    fn on_record(&mut self, kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> NextRole {
        match kind {
            RecordType::Settings if !cx.peer.control_seen => {
                cx.peer.control_seen = true;
                let mut control = Control;
                // The first record decides on the stream's role. A fault in it ends the connection.
                control.on_record(kind, body, cx)?;
                Ok(Some(Box::new(Role::Control(control))))
            }
            RecordType::Message => {
                let messages = Messages::begin(self, body, cx)?;
                Ok(Some(Box::new(Role::Messages(messages))))
            }
            RecordType::Continuation => {
                let continuation = Continuation::parse(&body.to_bytes())?;
                Ok(Some(Box::new(Role::Following(Following::new(continuation)?))))
            }
            _ => Err(unexpected(kind, "at the start of a unidirectional stream")),
        }
    }

    fn on_end(&mut self, at_border: bool, _cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if at_border { Ok(()) } else { Err(Fault::malformed("CONTROL ends inside a record")) }
    }
}

/// The peer's CONTROL stream: SETTINGS once and first, then HAVE and GOAWAY.
#[derive(Debug)]
pub(super) struct Control;

fn fatal(error: RecordError) -> Fault {
    Fault { fatal: true, ..Fault::from(error) }
}

impl Reader for Control {
    fn app(&self) -> Option<usize> {
        None
    }

    fn on_record(&mut self, kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> NextRole {
        let body = body.to_bytes();
        match kind {
            RecordType::Settings if cx.peer.settings.is_none() => {
                cx.peer.settings = Some(Settings::parse(&body).map_err(fatal)?);
            }
            RecordType::GoAway => {
                GoAway::parse(&body).map_err(fatal)?;
                cx.peer.going_away = true;
            }
            RecordType::Have => {
                let have = Have::parse(&body).map_err(fatal)?;
                if !cx.peer.haves.take(cx.cx.now) {
                    let reason = format!("more than {HAVE_RATE_PER_S} HAVE a second after {HAVE_BURST}");
                    return Err(Fault { fatal: true, ..Fault::new(ErrorCode::Limit, reason) });
                }
                // A peer without a certificate has no node ID under which others could find its holdings.
                if let (Some(node), Some(app)) = (cx.peer.node, cx.owner.or(cx.cx.routes.store)) {
                    let have = ConnectionEvent::Have { node, have };
                    cx.deliver(app, Delivery::Connection(cx.connection, have));
                }
            }
            _ => return Err(Fault { fatal: true, ..unexpected(kind, "on CONTROL") }),
        }
        Ok(None)
    }

    fn on_end(&mut self, _at_border: bool, _cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        Err(Fault { fatal: true, ..Fault::malformed("CONTROL was closed") })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, NODE, record};
    use super::*;
    use crate::limits::SETTINGS_LEN_MAX;
    use crate::record::Coverage;
    use crate::token::Token;

    fn settings() -> Vec<u8> {
        record(&Settings::default())
    }

    fn control(bench: &mut Bench) -> super::super::stream::Stream {
        let mut stream = bench.uni(false);
        bench.feed(&mut stream, &settings()).unwrap();
        assert!(stream.role.is_control());
        stream
    }

    fn have() -> Have {
        Have { token: Token::of(b"held").into(), coverage: Coverage::All, lease_s: 60 }
    }

    #[test]
    fn a_stream_that_begins_with_settings_is_control_and_any_record_but_its_own_is_fatal() {
        let mut bench = Bench::new();
        let mut stream = control(&mut bench);
        assert!(bench.peer.settings.is_some());
        for kind in
            [RecordType::Message, RecordType::Put, RecordType::Ok, RecordType::Settings, RecordType::Hop]
        {
            let mut out = Vec::new();
            kind.emit_header(0, &mut out);
            let fault = bench.feed(&mut stream, &out).unwrap_err();
            assert_eq!((fault.code, fault.fatal), (ErrorCode::Malformed, true), "{kind:?}");
        }
    }

    #[test]
    fn a_second_control_stream_is_malformed_and_not_fatal() {
        let mut bench = Bench::new();
        control(&mut bench);
        let mut second = bench.uni(false);
        let fault = bench.feed(&mut second, &settings()).unwrap_err();
        assert_eq!((fault.code, fault.fatal), (ErrorCode::Malformed, false));
    }

    #[test]
    fn a_unidirectional_stream_begins_with_settings_or_a_message() {
        for kind in [RecordType::Have, RecordType::GoAway, RecordType::Fetch, RecordType::Done] {
            let mut bench = Bench::new();
            let mut stream = bench.uni(false);
            let mut out = Vec::new();
            kind.emit_header(0, &mut out);
            let fault = bench.feed(&mut stream, &out).unwrap_err();
            assert_eq!((fault.code, fault.fatal), (ErrorCode::Malformed, false), "{kind:?}");
        }
    }

    #[test]
    fn settings_that_cannot_be_read_are_fatal() {
        let mut bench = Bench::new();
        let mut stream = bench.uni(false);
        let mut out = Vec::new();
        let body: Vec<u8> = (0..=SETTINGS_LEN_MAX as u8).flat_map(|id| [id & 0x3f, 0]).collect();
        RecordType::Settings.emit_header(body.len() as u64, &mut out);
        out.extend(body);
        assert!(bench.feed(&mut stream, &out).unwrap_err().fatal);
    }

    #[test]
    fn have_goes_to_the_store_of_a_peer_with_a_certificate_alone() {
        let mut bench = Bench::new();
        let mut stream = control(&mut bench);
        bench.feed(&mut stream, &record(&have())).unwrap();
        assert!(bench.delivered().is_empty());
        bench.peer.node = Some(NODE);
        bench.feed(&mut stream, &record(&have())).unwrap();
        let delivered = bench.delivered();
        assert!(
            matches!(&delivered[..], [Delivery::Connection(_, ConnectionEvent::Have { node: NODE, have: heard })]
                if *heard == have()),
            "{delivered:?}"
        );
    }

    #[test]
    fn more_have_than_the_bound_is_fatal() {
        let mut bench = Bench::new();
        let mut stream = control(&mut bench);
        let record = record(&have());
        for _ in 0..HAVE_BURST {
            bench.feed(&mut stream, &record).unwrap();
        }
        let fault = bench.feed(&mut stream, &record).unwrap_err();
        assert_eq!((fault.code, fault.fatal), (ErrorCode::Limit, true));
    }

    #[test]
    fn goaway_may_come_twice_and_the_end_of_control_is_fatal() {
        let mut bench = Bench::new();
        let mut stream = control(&mut bench);
        for _ in 0..2 {
            bench.feed(&mut stream, &record(&GoAway { retry_ms: 5 })).unwrap();
        }
        assert!(bench.peer.going_away);
        assert!(bench.end(&mut stream).unwrap_err().fatal);
    }

    #[test]
    fn a_stream_that_ends_before_its_first_record_is_ignored_and_inside_it_is_malformed() {
        let mut bench = Bench::new();
        let mut stream = bench.uni(false);
        bench.end(&mut stream).unwrap();
        let mut stream = bench.uni(false);
        bench.feed(&mut stream, &settings()[..1]).unwrap();
        assert_eq!(bench.end(&mut stream).unwrap_err().code, ErrorCode::Malformed);
    }
}
