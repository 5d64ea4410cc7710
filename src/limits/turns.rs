//! What one turn of a worker does of each kind before it does the next.

/// Batches taken from one connection before the others have their turn.
pub const BATCHES_PER_TURN_MAX: usize = 8;
/// Packets that a worker sends before it receives again. The connection that sends the last of them ends its own turn first.
pub const TURN_PACKETS_LEN: usize = 256;
/// Chunks read from one stream before the others have their turn.
pub const CHUNKS_PER_TURN_MAX: usize = 512;
/// Unreachable destinations that a worker polls in one turn: for each it searches all its connections.
pub const UNREACHABLE_LEN_PER_TURN_MAX: usize = 4;
/// Handshakes begun in one turn: each costs a signature, hundreds of microseconds that established traffic
/// waits.
pub const HANDSHAKES_PER_TURN_MAX: usize = 1;
/// Connections that a worker looks at in one turn, for a drain, for an inspection and of those that wait for their consumers.
pub const CONNECTIONS_LEN_PER_TURN_MAX: usize = 64;
/// Connections that a survey reads in one turn.
pub const SURVEY_TURN_LEN: usize = 16;
