//! How far a connection is, from its handshake to its end.
//!
//! ```text
//! Handshaking ──complete──▶ Open ──────────┐
//!      │                     │             │
//!      ├──────────close──────┴▶ Closing    │ end: it was lost, or the peer closed it
//!      │                           │ end   │
//!      └──────────end──────────────┴───────┴──▶ Over
//! ```

use crate::limits::UNREACHABLE_AGREE_MS;
use quinn_proto::Transmit;
use std::time::{Duration, Instant};

/// The phase of a connection.
#[derive(Debug)]
pub(super) enum Phase {
    /// The handshake is not complete.
    Handshaking {
        /// Whether the applications know of the connection: it carries their early data.
        early: bool,
        /// When an ICMP message first reported that its packets do not arrive.
        refused: Option<Instant>,
    },
    /// The handshake is complete, and the applications know of the connection.
    Open,
    /// This side has closed it, and the peer may not know that yet.
    Closing {
        reached: Reached,
        /// The CONNECTION_CLOSE that was sent.
        sent: Option<Box<SentClose>>,
    },
    /// Nothing is left to send: the peer closed it, it was lost, or the peer knows that this side closed it.
    Over { reached: Reached },
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// Its handshake was not complete, and no application knew of it.
    Handshake,
    /// Its handshake was not complete, and the applications knew of it.
    EarlyData,
    /// It was open.
    Open,
}

impl Reached {
    /// Whether the applications know of the connection.
    pub(super) fn is_known(self) -> bool {
        self != Self::Handshake
    }
}

/// The datagram that closed a connection.
#[derive(Debug)]
pub(super) struct SentClose {
    pub(super) transmit: Transmit,
    pub(super) contents: Vec<u8>,
    /// When it is sent again.
    pub(super) due: Option<Instant>,
    pub(super) repeats: u32,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhaseEnd {
    /// The peer closed it, or it was lost.
    Lost(Reached),
    /// This side had closed it before.
    Closed(Reached),
}

impl Phase {
    /// A connection whose handshake begins.
    pub(super) fn begin() -> Self {
        Self::Handshaking { early: false, refused: None }
    }

    pub(super) fn reached(&self) -> Reached {
        match *self {
            Self::Handshaking { early: false, .. } => Reached::Handshake,
            Self::Handshaking { early: true, .. } => Reached::EarlyData,
            Self::Open => Reached::Open,
            Self::Closing { reached, .. } | Self::Over { reached } => reached,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Handshaking { .. })
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over { .. })
    }

    /// The applications hear of the connection before its handshake is complete.
    pub(super) fn begin_early(&mut self) {
        if let Self::Handshaking { early, .. } = self {
            *early = true;
        }
    }

    /// The handshake is complete, and the applications know of the connection or hear of it now.
    pub(super) fn complete(&mut self) {
        if self.is_handshaking() {
            *self = Self::Open;
        }
    }

    /// Notes that a packet of the handshake cannot arrive. Returns whether that ends the handshake. A local obstacle (`is_local`) ends it
    /// at once. An ICMP message ends it only if the next flight gets one as well: any host on the path may forge one, and a gateway that
    /// restarts causes one. An established connection never ends in this way (RFC 9000 §14.2.1, §21.5).
    pub(super) fn refuses(&mut self, is_local: bool, now: Instant) -> bool {
        let Self::Handshaking { refused, .. } = self else { return false };
        let first = *refused.get_or_insert(now);
        is_local || now.saturating_duration_since(first) >= Duration::from_millis(UNREACHABLE_AGREE_MS)
    }

    /// This side closes the connection. Returns whether that is new.
    pub(super) fn close(&mut self) -> bool {
        let is_new = self.is_handshaking() || self.is_open();
        if is_new {
            *self = Self::Closing { reached: self.reached(), sent: None };
        }
        is_new
    }

    /// The connection has ended, or the peer knows that this side closed it.
    pub(super) fn end(&mut self) -> PhaseEnd {
        let reached = self.reached();
        let is_closed = !self.is_handshaking() && !self.is_open();
        *self = Self::Over { reached };
        if is_closed { PhaseEnd::Closed(reached) } else { PhaseEnd::Lost(reached) }
    }

    /// The CONNECTION_CLOSE to be repeated.
    pub(super) fn sent_close(&mut self) -> Option<&mut SentClose> {
        match self {
            Self::Closing { sent, .. } => sent.as_deref_mut(),
            _ => None,
        }
    }

    /// When the CONNECTION_CLOSE is sent again.
    pub(super) fn close_due(&self) -> Option<Instant> {
        match self {
            Self::Closing { sent: Some(close), .. } => close.due,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early() -> Phase {
        let mut phase = Phase::begin();
        phase.begin_early();
        phase
    }

    fn open() -> Phase {
        let mut phase = Phase::begin();
        phase.complete();
        phase
    }

    fn closing() -> Phase {
        let mut phase = open();
        assert!(phase.close());
        phase
    }

    fn sent() -> SentClose {
        let transmit = Transmit {
            destination: "192.0.2.1:4433".parse().unwrap(),
            ecn: None,
            size: 3,
            segment_size: None,
            src_ip: None,
        };
        SentClose { transmit, contents: vec![1, 2, 3], due: Some(Instant::now()), repeats: 0 }
    }

    #[test]
    fn a_complete_handshake_opens_a_connection() {
        let mut phase = Phase::begin();
        assert_eq!(phase.reached(), Reached::Handshake);
        assert!(phase.is_handshaking() && !phase.is_open());
        assert!(!phase.reached().is_known());
        phase.complete();
        assert!(phase.is_open() && !phase.is_handshaking());
        assert_eq!(phase.reached(), Reached::Open);
    }

    #[test]
    fn applications_that_send_early_data_know_of_a_connection_before_it_is_open() {
        let mut phase = early();
        assert_eq!(phase.reached(), Reached::EarlyData);
        assert!(phase.reached().is_known() && phase.is_handshaking());
        phase.complete();
        assert_eq!(phase.reached(), Reached::Open);
        phase.begin_early();
        assert!(phase.is_open(), "what is open is early no more");
    }

    #[test]
    fn what_is_lost_is_told_by_how_far_it_came() {
        for (mut phase, reached) in
            [(Phase::begin(), Reached::Handshake), (early(), Reached::EarlyData), (open(), Reached::Open)]
        {
            assert_eq!(phase.end(), PhaseEnd::Lost(reached));
            assert!(phase.is_over() && phase.reached() == reached);
            assert_eq!(phase.end(), PhaseEnd::Closed(reached), "an end is told once");
        }
    }

    #[test]
    fn what_this_side_closed_is_not_lost() {
        for (mut phase, reached) in
            [(Phase::begin(), Reached::Handshake), (early(), Reached::EarlyData), (open(), Reached::Open)]
        {
            assert!(phase.close());
            assert!(!phase.close(), "it is closed once");
            assert_eq!(phase.reached(), reached);
            assert!(!phase.is_over(), "the peer may not know yet");
            assert_eq!(phase.end(), PhaseEnd::Closed(reached));
            assert!(phase.is_over());
        }
    }

    #[test]
    fn nothing_opens_a_connection_that_was_closed_or_is_over() {
        let mut over = open();
        over.end();
        for mut phase in [closing(), over] {
            phase.complete();
            phase.begin_early();
            assert!(!phase.is_open() && !phase.is_handshaking());
        }
        let mut over = open();
        over.end();
        assert!(!over.close(), "what is over is not closed");
        assert!(over.is_over());
    }

    #[test]
    fn a_close_is_repeated_until_the_connection_is_over() {
        let mut phase = closing();
        assert!(phase.sent_close().is_none() && phase.close_due().is_none(), "it was not sent yet");
        if let Phase::Closing { sent: place, .. } = &mut phase {
            *place = Some(Box::new(sent()));
        }
        assert!(phase.sent_close().is_some() && phase.close_due().is_some());
        phase.end();
        assert!(phase.sent_close().is_none() && phase.close_due().is_none());
    }

    #[test]
    fn a_handshake_ends_at_once_by_what_this_host_knows_and_by_two_icmp_messages() {
        let now = Instant::now();
        let agreed = now + Duration::from_millis(UNREACHABLE_AGREE_MS);
        assert!(Phase::begin().refuses(true, now));
        let mut phase = Phase::begin();
        assert!(!phase.refuses(false, now));
        assert!(!phase.refuses(false, agreed - Duration::from_nanos(1)));
        assert!(phase.refuses(false, agreed));
    }

    #[test]
    fn an_icmp_message_never_ends_a_connection_that_is_established() {
        let now = Instant::now();
        let later = now + Duration::from_millis(2 * UNREACHABLE_AGREE_MS);
        for mut phase in [open(), closing()] {
            for at in [now, later] {
                assert!(!phase.refuses(false, at) && !phase.refuses(true, at));
            }
        }
    }
}
