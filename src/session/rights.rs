//! What the peer of a session may ask for.

use super::{Context, Session};
use crate::rights::Grant;
use crate::tls::PeerChain;
use quinn_proto::Connection;
use std::sync::Arc;

impl Session {
    /// Looks up what the peer may ask for, if that is not known or a reload has changed it. Requests that run go on as they were allowed.
    #[inline]
    pub(super) fn meet_rights(&mut self, conn: &Connection, cx: &Context<'_>) {
        if self.peer.rights_number != cx.rights.number() {
            self.look_up_rights(conn, cx);
        }
    }

    #[cold]
    fn look_up_rights(&mut self, conn: &Connection, cx: &Context<'_>) {
        self.peer.rights_number = cx.rights.number();
        self.peer.grant = match self.owner {
            // The application that opened the connection decides by itself.
            Some(_) => Arc::new(Grant::everything()),
            None => cx.rights.table().of(PeerChain::of(conn).as_ref()),
        };
    }
}
