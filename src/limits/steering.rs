//! Bounds of what workers hand to each other: datagrams and new connections.

/// Datagrams handed to a worker that it has not taken yet: by the others, and its own ones while it hands over those of others first.
pub const HANDOVER_RING_LEN: usize = 1024;
/// Bursts in one turn, where each is full and half of it is for other workers.
pub const RX_BURSTS_LEN_MAX: usize = 8;
/// Datagrams of own connections that a worker takes in a turn, while it hands over those of others first.
pub const DEFERRED_TURN_LEN: usize = 16;
/// Between two publications of a worker's load, milliseconds.
pub const LOAD_INTERVAL_MS: u64 = 10;
/// The intervals over which the packets of a worker's load are averaged.
pub const LOAD_AVERAGE_LEN: u64 = 8;
/// What a connection counts in a worker's load, packets in that time, whatever it does: about those of its handshake.
pub const LOAD_CONNECTION_LEN: u64 = 64;
/// Datagrams handed over to other workers that count as one packet of the load.
pub const LOAD_HANDOVERS_LEN: u64 = 4;
/// A new connection goes to another worker whose load is less by more than this, packets: half a connection, so that few connections of one queue
/// have a worker each.
pub const LOAD_DIFFERENCE_LEN: u64 = LOAD_CONNECTION_LEN / 2;
/// And by this part.
pub const LOAD_DIFFERENCE_PART_LEN: u64 = 8;
/// Workers whose loads are looked at for a new connection, others each time.
pub const LOAD_LOOKS_LEN_MAX: usize = 8;
/// Connections placed by a worker whose clients may still send to the connection IDs of their own choice.
pub const PLACED_LEN_MAX: usize = 4096;
