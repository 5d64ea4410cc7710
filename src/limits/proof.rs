//! The proofs of addresses, and what a process still knows of an earlier one: resets, tokens, connection IDs.

/// Handshakes with addresses that proved nothing and that do not come to their end: at once, a worker. Past it a client must prove its address
/// first. A handshake that is completed does not count.
pub const UNPROVEN_HANDSHAKES_BURST: u32 = 256;
/// The same, a second: each costs a signature.
pub const UNPROVEN_HANDSHAKES_PER_S: u32 = 10;
/// Retry packets of a worker that is busy, a second. Each costs the keys of an Initial packet and an encrypted token; an attempt past it is dropped.
/// A turn without work allows one more.
pub const RETRIES_PER_S: u32 = 500;
/// Retry packets of a worker at once.
pub const RETRIES_BURST: u32 = 1_000;
/// Between two stateless resets of a worker, microseconds. A reset is shorter than the packet that it answers
/// (RFC 9000 §10.3), and a restarted gateway owes one to each peer.
pub const RESET_INTERVAL_US: u64 = 1_000;
/// How long a connection ID of a fleet is used, seconds: its peer then gets another one, of the rotation that issues by then.
pub const CID_LIFETIME_S: u64 = 600;
/// How long a rotation of a fleet is accepted after it issued, seconds. quinn-proto may let IDs that it issued together with others live
/// for two lifetimes: it asks a peer to retire no further ones before the peer has retired those before.
pub const CID_ROTATION_KEPT_S: u64 = 3 * CID_LIFETIME_S;
/// How long an address is taken as proven by a NEW_TOKEN token, seconds: a process does not know which tokens were used with others that have its
/// key, so that an observer of a token can use it once at each of them.
pub const ADDRESS_TOKEN_S: u64 = 86_400;
