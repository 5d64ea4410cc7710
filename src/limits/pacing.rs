//! When the packets of a connection leave.

/// The lowest rate that an operator may give a connection, bits a second.
pub const RATE_BITS_PER_S_MIN: u64 = 1_000_000;
/// The highest such rate, bits a second.
pub const RATE_BITS_PER_S_MAX: u64 = 1_000_000_000_000;
/// Packets of one paced connection that leave at once.
pub const PACING_BURST_LEN: usize = 16;
/// The least span of such packets, microseconds: a turn of a worker. At high rates bursts are longer for it.
pub const PACING_BURST_US: u64 = 20;
/// The longest span of such packets, microseconds, and so what acknowledgments wait; two packets always leave together.
pub const PACING_STEP_US: u64 = 1000;
/// How late a worker may come to a burst and make up for it: this part of the path's round trip.
pub const PACING_LATE_DIVISOR_LEN: u32 = 8;
/// It is at least this long, microseconds: twice the longest sleep of an idle worker.
pub const PACING_LATE_US_MIN: u64 = 1000;
/// It is at most this long, microseconds: a slice of the kernel's scheduler.
pub const PACING_LATE_US_MAX: u64 = 5000;
/// Packets that only acknowledge are this part of the round trip apart.
pub const ACK_GAP_DIVISOR_LEN: u32 = 32;
/// They are at most this far apart, microseconds: quinn-proto acknowledges the newest 64 runs of packets and forgets others, and between
/// two acknowledgments of 10 Gbit/s over which 5 % is lost there are 40.
pub const ACK_GAP_US_MAX: u64 = 1000;
/// Where they would be less than this apart, microseconds, they wait for nothing.
pub const ACK_GAP_US_MIN: u64 = 100;
