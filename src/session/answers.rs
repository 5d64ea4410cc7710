//! What answers the requests of this side.

use super::body::Body;
use super::fault::Fault;
use super::inbound::{Inbound, Kind, unexpected};
use super::reading::Reading;
use crate::queue::{Answer, Credit, Delivery, End, RequestId};
use crate::record::{Done, ErrorCode, ErrorRecord, Holders, OkRecord, Payload, Record, RecordType};
use crate::shard::{Descriptor, Lanes};
use crate::token::{AnyToken, Ranges};

/// What a FETCH of ours asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) token: AnyToken,
    pub(super) lanes: Option<Lanes>,
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
                Delivery::Answered(request, Answer::Ok(OkRecord::parse(&body)?))
            }
            RecordType::Done if !*over => {
                *over = true;
                done(request, &body)?
            }
            RecordType::Error if !*over => {
                *over = true;
                Delivery::Ended(request, End::Failed(ErrorRecord::parse(&body)?))
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
                let checked = asked.body(ok.length_bytes, ok.descriptor.as_ref())?;
                if asked.describe {
                    *over = true;
                    cx.deliver(app, Delivery::Answered(request, Answer::Ok(ok)));
                    Delivery::Ended(request, End::Checked)
                } else {
                    *body = Some(checked);
                    Delivery::Answered(request, Answer::Ok(ok))
                }
            }
            RecordType::Error if !*over => {
                *over = true;
                Delivery::Ended(request, End::Failed(ErrorRecord::parse(&record)?))
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
            RecordType::Error => Delivery::Ended(request, End::Failed(ErrorRecord::parse(&body)?)),
            RecordType::Done => done(request, &body)?,
            _ => Delivery::Answered(request, Answer::Holders(Holders::parse(&body)?)),
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
            Some(lanes) => Body::lanes(Box::new(*found), *lanes, &self.ranges),
            None => Body::payload(found.content(), length, &self.ranges),
        }
    }
}

fn done(request: RequestId, body: &[u8]) -> Result<Delivery, Fault> {
    Ok(Delivery::Answered(request, Answer::Done(Done::parse(body)?)))
}
