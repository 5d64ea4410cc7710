//! What answers the requests of this side.

use super::body::Body;
use super::fault::Fault;
use super::inbound::{Inbound, Kind, unexpected};
use super::reading::Reading;
use crate::queue::{Credit, Delivery, RequestId};
use crate::record::{Done, ErrorCode, ErrorRecord, Holders, OkRecord, Payload, Record, RecordType};
use crate::shard::{Descriptor, Lanes};
use crate::token::{AnyToken, Ranges};

/// What a FETCH of ours asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) token: AnyToken,
    pub(super) lanes: Option<(Lanes, Box<Descriptor>)>,
    pub(super) ranges: Ranges,
    pub(super) describe: bool,
    pub(super) pace: Option<Credit>,
}

impl Inbound {
    pub(super) fn put_answered(
        &mut self,
        kind: RecordType,
        body: Payload,
        cx: &mut Reading<'_, '_>,
    ) -> Result<(), Fault> {
        let Kind::PutAnswer { app, request, accepted, over } = &mut self.kind else { return Ok(()) };
        let (app, request) = (*app, *request);
        let body = body.to_bytes();
        let delivery = match kind {
            RecordType::Ok if !*over && !*accepted => {
                *accepted = true;
                let length = OkRecord::parse(&body)?.length_bytes;
                Delivery::Accepted { request, length, descriptor: None }
            }
            RecordType::Done if !*over => {
                *over = true;
                done(request, &body)?
            }
            RecordType::Error if !*over => {
                *over = true;
                Delivery::Failed { request, failure: ErrorRecord::parse(&body)? }
            }
            _ => return Err(unexpected(kind, "in the answer to PUT")),
        };
        cx.deliver(app, delivery);
        Ok(())
    }

    pub(super) fn fetch_answered(
        &mut self,
        kind: RecordType,
        record: Payload,
        cx: &mut Reading<'_, '_>,
    ) -> Result<(), Fault> {
        let Kind::FetchAnswer { app, request, asked, body, over } = &mut self.kind else {
            return Ok(());
        };
        let (app, request) = (*app, *request);
        let record = record.to_bytes();
        let delivery = match kind {
            RecordType::Ok if !*over => {
                let ok = OkRecord::parse(&record)?;
                let (length, descriptor) = (ok.length_bytes, ok.descriptor.map(Box::new));
                let checked = asked.body(length, descriptor.as_deref())?;
                if asked.describe {
                    *over = true;
                    cx.deliver(app, Delivery::Accepted { request, length, descriptor });
                    Delivery::Complete { request }
                } else {
                    *body = Some(checked);
                    Delivery::Accepted { request, length, descriptor }
                }
            }
            RecordType::Error if !*over => {
                *over = true;
                Delivery::Failed { request, failure: ErrorRecord::parse(&record)? }
            }
            _ => return Err(unexpected(kind, "in the answer to FETCH")),
        };
        cx.deliver(app, delivery);
        Ok(())
    }

    pub(super) fn one_answered(
        &mut self,
        kind: RecordType,
        body: Payload,
        cx: &mut Reading<'_, '_>,
    ) -> Result<(), Fault> {
        let Kind::OneAnswer { app, request, kind: expected, over } = &mut self.kind else { return Ok(()) };
        let (app, request) = (*app, *request);
        if std::mem::replace(over, true) || (kind != *expected && kind != RecordType::Error) {
            return Err(unexpected(kind, "in an answer of one record"));
        }
        let body = body.to_bytes();
        let delivery = match kind {
            RecordType::Error => Delivery::Failed { request, failure: ErrorRecord::parse(&body)? },
            RecordType::Done => done(request, &body)?,
            _ => Delivery::Holders { request, holders: Holders::parse(&body)?.holders },
        };
        cx.deliver(app, delivery);
        Ok(())
    }
}

impl Asked {
    /// What the answer's encoding must be, now that the peer has said what the payload is.
    pub(super) fn body(&self, length: u64, descriptor: Option<&Descriptor>) -> Result<Body, Fault> {
        let set = match self.token {
            AnyToken::Content(token) if self.lanes.is_none() => {
                return Body::payload(token, length, &self.ranges);
            }
            AnyToken::Content(_) => None,
            AnyToken::Set(set) => descriptor.filter(|found| found.set_token() == set),
        };
        // The set token proves the descriptor, and the descriptor the tokens of both blobs.
        let Some(found) = set.filter(|found| found.length_bytes() == length) else {
            return Err(Fault::new(ErrorCode::BadDescriptor, "the answer's descriptor is not the set's"));
        };
        match &self.lanes {
            Some((lanes, _)) => Body::lanes(Box::new(*found), *lanes, &self.ranges),
            None => Body::payload(found.content(), length, &self.ranges),
        }
    }
}

fn done(request: RequestId, body: &[u8]) -> Result<Delivery, Fault> {
    let done = Done::parse(body)?;
    Ok(Delivery::Done { request, bytes: done.bytes, token: done.token })
}
