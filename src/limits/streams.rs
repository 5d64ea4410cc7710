//! Bounds of streams, and of the requests that are forwarded on them.

/// Streams that a peer may open at once in each direction until it uses a quarter of them: then they become more, up to [`super::REQUESTS_LEN_MAX`]
/// and [`STREAMS_UNI_LEN_MAX`].
pub const STREAMS_FIRST_LEN: u64 = 16;
/// Unidirectional streams at once, of each side. With [`super::STREAM_PART_BYTES`], what one connection may have on its way.
pub const STREAMS_UNI_LEN_MAX: u64 = 256;
/// Forwarded requests that a relay looks at in one turn.
pub const FLOWS_LEN_PER_TURN_MAX: usize = 64;
/// Of each list of what waits at a client's worker (PUTs, messages, dials), the entries that one turn looks at.
pub const CLIENT_LOOKS_LEN_PER_TURN_MAX: usize = 64;
