//! A stream of records, cut anywhere. Input: the length of the cuts (one byte), then the stream.
//!
//! Held: the cuts change nothing; a record that is read is written in no more bytes and reads the same again. The letters of ERROR's reason that act
//! on a terminal become longer ones, within the longest reason.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::fmt::Debug;
use stoq::limits::REASON_BYTES_MAX;
use stoq::record::{
    Continuation, Done, ErrorCode, ErrorRecord, Fetch, GoAway, Have, Holders, Hop, List, Listed, Locate,
    MessageHeader, Mirror, OkRecord, Payload, Put, Record, RecordReader, RecordType, Remove, Renew, Settings,
    Stat,
};

/// What one stream gives: its records, then how it ends.
#[derive(Debug, Default, PartialEq)]
struct Read {
    bodies: Vec<(RecordType, Payload)>,
    error: Option<ErrorCode>,
    at_border: bool,
}

fn read(stream: &[u8], cut_len: usize) -> Read {
    let mut reader = RecordReader::new();
    let mut read = Read::default();
    for chunk in stream.chunks(cut_len) {
        reader.push(Bytes::copy_from_slice(chunk));
        loop {
            let header = match reader.next_header() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    read.error = Some(error.code());
                    return read;
                }
            };
            let Some(body) = reader.take_body() else { break };
            assert_eq!(body.len(), header.body_len);
            read.bodies.push((header.record_type, body));
        }
    }
    read.at_border = reader.is_at_record_border();
    read
}

fn rewrite<R: Record + PartialEq + Debug>(body: &[u8]) {
    if let Ok(record) = R::parse(body) {
        assert!(written_len(&record) <= body.len());
    }
}

fn rewrite_error(body: &[u8]) {
    if let Ok(record) = ErrorRecord::parse(body) {
        assert!(record.reason().len() <= REASON_BYTES_MAX);
        written_len(&record);
    }
}

/// The bytes of a record, which read the same again.
fn written_len<R: Record + PartialEq + Debug>(record: &R) -> usize {
    let mut written = Vec::new();
    record.emit(&mut written);
    assert_eq!(written.len(), record.encoded_len());
    assert_eq!(R::parse(&written).as_ref(), Ok(record));
    written.len()
}

fn rewrite_message(mut payload: Payload) {
    let Ok(header) = MessageHeader::take_from(&mut payload) else { return };
    let mut written = Vec::new();
    header.emit(&mut written);
    assert_eq!(written.len(), header.encoded_len());
    assert_eq!(MessageHeader::parse(&written), Ok((header, written.len())));
}

fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else { return };
    let whole = read(stream, stream.len().max(1));
    assert_eq!(read(stream, usize::from(cut).max(1)), whole);
    for (record_type, payload) in whole.bodies {
        let body = payload.to_bytes();
        match record_type {
            RecordType::Settings => rewrite::<Settings>(&body),
            RecordType::Have => rewrite::<Have>(&body),
            RecordType::GoAway => rewrite::<GoAway>(&body),
            RecordType::Message => rewrite_message(payload),
            RecordType::Hop => rewrite::<Hop>(&body),
            RecordType::Put => rewrite::<Put>(&body),
            RecordType::Fetch => rewrite::<Fetch>(&body),
            RecordType::Mirror => rewrite::<Mirror>(&body),
            RecordType::Locate => rewrite::<Locate>(&body),
            RecordType::List => rewrite::<List>(&body),
            RecordType::Stat => rewrite::<Stat>(&body),
            RecordType::Remove => rewrite::<Remove>(&body),
            RecordType::Renew => rewrite::<Renew>(&body),
            RecordType::Listed => rewrite::<Listed>(&body),
            RecordType::Ok => rewrite::<OkRecord>(&body),
            RecordType::Holders => rewrite::<Holders>(&body),
            RecordType::Done => rewrite::<Done>(&body),
            RecordType::Error => rewrite_error(&body),
            RecordType::Continuation => rewrite::<Continuation>(&body),
        }
    }
});
