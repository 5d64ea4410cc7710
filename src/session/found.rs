//! What verify threads found of the groups of requests.

use super::reading::Reading;
use super::stream::{Role, Stream};
use super::{Context, Session};
use crate::queue::GroupsFound;
use quinn_proto::Connection;

impl Session {
    /// Takes what came of a check, and delivers the pieces that waited for it.
    pub(crate) fn found(&mut self, conn: &mut Connection, found: &GroupsFound, cx: &mut Context<'_>) {
        // The applications were told of the connection's end, or the request has ended meanwhile.
        if self.closed_told {
            return;
        }
        let id = found.stream;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.recv.is_some()) else { return };
        let body = match &mut stream.role {
            Role::Serving(serving) => serving.body(),
            Role::Asking(asking) => asking.body(),
            _ => None,
        };
        let taken = match body.map_or(Ok(false), |body| body.take_found(found)) {
            Ok(false) => return,
            Ok(true) => Ok(()),
            Err(fault) => Err(fault),
        };
        let mut reading = Reading {
            connection: self.id,
            stream: id,
            owner: self.owner,
            peer: &mut self.peer,
            flow: &mut self.flow,
            leaving: self.leaving,
            cx,
        };
        let ended = taken.and_then(|()| stream.settle(&mut reading));
        stream.charge(conn, &mut self.flow);
        match ended {
            // The end of the stream was left unread.
            Ok(()) if !stream.is_checking() => self.line_up(id),
            Ok(()) => {}
            Err(fault) => self.fault(conn, id, fault, cx),
        }
    }
}

impl Stream {
    /// Whether verify threads check pieces of it.
    fn is_checking(&self) -> bool {
        match &self.role {
            Role::Serving(serving) => serving.checking_bytes() > 0,
            Role::Asking(asking) => asking.checking_bytes() > 0,
            _ => false,
        }
    }
}
