//! Why a frame is dropped, and under which counter.

use crate::counters::Counter;

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than its own headers say, or headers that contradict each other.
    #[error("malformed frame")]
    Malformed,
    /// A protocol or message that STOQ does not use.
    #[error("unwanted protocol")]
    Unwanted,
    /// For another station, VLAN or IP address.
    #[error("addressed to another host")]
    Foreign,
    /// An IP fragment.
    #[error("IP fragment")]
    Fragment,
    /// A checksum that does not hold.
    #[error("wrong checksum")]
    Checksum,
    /// UDP to a port that nothing listens on.
    #[error("UDP to a closed port")]
    Port,
}

impl WireError {
    /// The counter of frames dropped for this reason.
    pub const fn counter(self) -> Counter {
        match self {
            Self::Malformed => Counter::DropMalformed,
            Self::Unwanted => Counter::DropUnwanted,
            Self::Foreign => Counter::DropForeign,
            Self::Fragment => Counter::DropFragment,
            Self::Checksum => Counter::DropChecksum,
            Self::Port => Counter::DropPort,
        }
    }
}
