//! Load for a gateway's port: floods of datagrams at a rate, handshake storms, messages on many connections.
//!
//! ```text
//! Flood:           Pace ── how many are due ──▶ Load ── datagrams ──▶ Network   no worker, one thread that spins on the clock
//! Storm, Stream:   Pace ── how many are due ──▶ rings ──▶ Worker ──▶ Network    applications on a worker of the usual kind
//! ```
//!
//! Reports separate intended, offered and accepted packets (RFC 2285 §3.5: intended and offered load): a
//! packet that the generator failed to make is no loss of the gateway.

mod flood;
mod initial;
mod load;
mod pace;
mod storm;
mod stream;

pub use flood::{Flood, FloodError, FloodReport};
pub use initial::{INITIAL_DATAGRAM_BYTES, InitialError, Initials};
pub use load::{FCS_BYTES, IMIX, Load, LoadError, Mix};
pub use pace::Pace;
pub use storm::{Storm, StormPlan, StormReport};
pub use stream::{MessageStream, StreamError, StreamPlan, StreamReport};
