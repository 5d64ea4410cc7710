//! Every bound by name. Units stand last in a name; const assertions check the relations between bounds.

mod checking;
mod fleet;
mod pacing;
mod proof;
mod scrub;
mod steering;
mod store;
mod streams;
mod turns;

pub use checking::*;
pub use fleet::*;
pub use pacing::*;
pub use proof::*;
pub use scrub::*;
pub use steering::*;
pub use store::*;
pub use streams::*;
pub use turns::*;

/// Frames or datagrams requested from the network in one burst.
pub const RX_BURST_LEN: usize = 64;
/// Datagrams requested from one connection at a time, and the most in a [`crate::datagram::Network::send`].
pub const TX_SEGMENTS_LEN_MAX: usize = 64;
/// Frames that wait for the device, a worker. Past it, connections are not polled for more.
pub const TX_PENDING_LEN_MAX: usize = 1024;
/// Ports of one gateway: each worker has a queue at each, and one word has a bit for each.
pub const PORTS_LEN_MAX: usize = 16;
/// Received frames on their way to a worker that shares its device, and frames on their way from it to a queue.
pub const SPREAD_RING_LEN: usize = 1024;
/// Frames that a queue takes from one worker before the others have their turn.
pub const SPREAD_CARRY_LEN: usize = 16;
/// How long a device may take no queued frame, milliseconds: then the frames are dropped, or a link that is
/// down would hold connections forever.
pub const TX_STALL_MS_MAX: u64 = 50;
/// Largest UDP payload that a worker handles, bytes.
pub const UDP_PAYLOAD_BYTES_MAX: usize = 65_527;
/// The largest packet threshold (RFC 9002 §6.1.1): quinn-proto takes a packet that comes more than 128 packets late for a duplicate.
pub const PACKET_THRESHOLD_LEN_MAX: u32 = 128;
/// The most packets that one acknowledgment is asked to cover.
pub const PACKETS_PER_ACK_LEN_MAX: u32 = 64;
/// The longest delay of an acknowledgment that a peer is asked for (draft-ietf-quic-ack-frequency §4), milliseconds. It ends the wait
/// where the window holds fewer packets than an acknowledgment covers, so it is short.
pub const ACK_DELAY_MS: u64 = 2;
/// How long a connection whose path stopped carrying large packets waits before it searches for a larger size again, milliseconds.
pub const MTU_RETRY_MS: u64 = 1_000;
/// The search for a path's MTU ends this part of what it searches below the largest size that passes.
pub const MTU_STEPS_LEN: u16 = 32;
/// The least difference that the search for a path's MTU looks for, bytes.
pub const MTU_STEP_BYTES_MIN: u16 = 20;
/// Packets that wait for one neighbor to be resolved.
pub const NEIGHBOR_PENDING_LEN_MAX: usize = 64;
/// Neighbors remembered, a worker.
pub const NEIGHBORS_LEN_MAX: usize = 1024;
/// Those of them that have not answered, a worker: they make room first.
pub const NEIGHBORS_UNRESOLVED_LEN_MAX: usize = 256;
/// Neighbors whose stations the configuration names.
pub const STATIONS_LEN_MAX: usize = 256;
/// A neighbor counts as in use for this time after a packet last looked it up, milliseconds: traffic looks it up
/// every [`NEIGHBOR_REACHABLE_MS`].
pub const NEIGHBOR_IN_USE_MS: u64 = 2 * NEIGHBOR_REACHABLE_MS;
/// Neighbors newly asked for, a second and worker (RFC 6583 §7.1). Each is asked for [`NEIGHBOR_SOLICITS_MAX`] times
/// at most; the routers of the configuration are asked for in any case.
pub const NEIGHBOR_SOLICITS_PER_S: u32 = 50;
/// Neighbors newly asked for at once after a silence, a worker.
pub const NEIGHBOR_SOLICITS_BURST: u32 = 256;
/// From one question to the next, to a station whose address another one claims, milliseconds. It loses the address
/// after [`NEIGHBOR_SOLICITS_MAX`] without an answer.
pub const NEIGHBOR_CONTEST_INTERVAL_MS: u64 = 200;
/// From one such contest about a neighbor to the next, milliseconds.
pub const NEIGHBOR_CONTEST_PAUSE_MS: u64 = 1000;
/// Answers to ARP requests and neighbor solicitations, a second and worker: for neighbors in use, and for all other
/// stations together.
pub const NEIGHBOR_REPLIES_PER_S: u32 = 1000;
/// Such answers at once after a silence.
pub const NEIGHBOR_REPLIES_BURST: u32 = 256;
/// Answers to echo requests (ICMP, ICMPv6), a second and worker.
pub const ECHO_REPLIES_PER_S: u32 = 1000;
/// Such answers at once after a silence.
pub const ECHO_REPLIES_BURST: u32 = 256;
/// Packets for this host that STOQ does not use and that its kernel is given, a second and worker: those that only a neighbor can send, those
/// of neighbors' addresses, and all others.
pub const EXCEPTIONS_PER_S: u32 = 5_000;
/// Such packets at once after a silence, and the kernel's packets that leave in one turn.
pub const EXCEPTIONS_BURST: u32 = 256;
/// Packets that wait for the kernel, and as many of the kernel's that wait for the port.
pub const EXCEPTION_RING_LEN: usize = 1024;
/// Solicitations sent for one neighbor before it counts as unreachable (RFC 4861 §10: MAX_MULTICAST_SOLICIT).
pub const NEIGHBOR_SOLICITS_MAX: u32 = 3;
/// Bytes of packets that wait for neighbors, all neighbors of a worker together.
pub const NEIGHBOR_PENDING_BYTES_MAX: usize = 4 << 20;
/// From one solicitation to the next (RFC 4861 §10: RETRANS_TIMER), milliseconds.
pub const NEIGHBOR_SOLICIT_INTERVAL_MS: u64 = 1000;
/// How long an answered neighbor is used without asking again, milliseconds.
pub const NEIGHBOR_REACHABLE_MS: u64 = 60_000;
/// How long a neighbor that did not answer is not asked again, milliseconds.
pub const NEIGHBOR_UNREACHABLE_MS: u64 = 3000;
/// Claims about neighbors that a worker has not taken from the others yet.
pub const NEIGHBOR_EXCHANGE_LEN_MAX: usize = 256;
/// Destinations whose packet headers are kept prebuilt, a worker.
pub const PATHS_LEN_MAX: usize = 16_384;

/// Control records: SETTINGS, GOAWAY, requests and answers, bytes of body (protocol §8).
pub const CONTROL_RECORD_BYTES_MAX: u64 = 64 * 1024;
/// A MESSAGE's payload, bytes (protocol §8).
pub const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// Memory of a message beside its payload wherever it waits, bytes: credit is taken for it.
pub const MESSAGE_COST_BYTES: usize = 128;
/// Messages of one connection in an application's ring, bytes with [`MESSAGE_COST_BYTES`] for each: past it, the connection's messages
/// are not read.
pub const MESSAGES_UNTAKEN_BYTES_MAX: usize = 1 << 20;
/// The front of a MESSAGE's body: queue (8), flags (1), content token (33), bytes.
pub const MESSAGE_HEADER_BYTES_MAX: usize = 8 + 1 + 33;
/// The longest record: a message, its header, its type and its length, bytes.
pub const RECORD_BYTES_MAX: u64 = 8 + 8 + MESSAGE_HEADER_BYTES_MAX as u64 + MESSAGE_BYTES_MAX;
/// Settings in one SETTINGS record.
pub const SETTINGS_LEN_MAX: usize = 64;
/// Ranges in one FETCH (protocol §8).
pub const RANGES_LEN_MAX: u64 = 256;
/// A payload, bytes (protocol §8).
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 50;
/// A shard, bytes (protocol §3).
pub const SHARD_BYTES_MAX: u64 = 1 << 20;
/// A shard where the user names no length, bytes (protocol §3).
pub const SHARD_BYTES_DEFAULT: u64 = 64 * 1024;
/// Data lanes of a set: k (protocol §3).
pub const LANES_DATA_MAX: u64 = 64;
/// Parity lanes of a set: m (protocol §3).
pub const LANES_PARITY_MAX: u64 = 64;
/// Lanes of a set: k + m (protocol §8).
pub const LANES_MAX: u64 = 128;
/// Node IDs in a route (protocol §8).
pub const HOPS_LEN_MAX: usize = 8;
/// A route's `hop_limit` (protocol §8).
pub const HOP_LIMIT_MAX: u8 = 16;
/// Holders in one HOLDERS (protocol §8).
pub const HOLDERS_LEN_MAX: usize = 64;
/// Entries in one LISTED (protocol §8).
pub const LISTED_LEN_MAX: usize = 256;
/// Leases that one entry of LISTED shows (protocol §8).
pub const LISTED_LEASES_LEN_MAX: usize = 1024;
/// Sources in one MIRROR (protocol §8).
pub const MIRROR_SOURCES_MAX: usize = 64;
/// HAVE records that a peer may send, a second (protocol §8).
pub const HAVE_RATE_PER_S: u32 = 100;
/// HAVE records that a peer may send at once after a silence (protocol §8).
pub const HAVE_BURST: u32 = 1000;
/// Nonces of HOP records that a gateway remembers (protocol §8).
pub const NONCES_LEN_MAX: usize = 1 << 20;
/// How long a nonce is remembered, seconds (protocol §8).
pub const NONCE_TTL_S: u64 = 600;
/// Requests in flight, a connection (protocol §8).
pub const REQUESTS_LEN_MAX: u64 = 256;
/// Reasons and names, bytes of UTF-8 (protocol §8).
pub const REASON_BYTES_MAX: usize = 256;
/// Unverified bytes held a stream, in groups of 16 KiB (protocol §8).
pub const UNVERIFIED_GROUPS_MAX: usize = 4;
/// The unit of verification: BLAKE3's tree in groups of 16 chunks, bytes.
pub const GROUP_BYTES: usize = 16 * 1024;
/// A block of the seed's memory tier, bytes: one huge page.
pub const MEMORY_BLOCK_BYTES: usize = 2 << 20;
/// Connections that a worker keeps to peer gateways where the operator names no number.
pub const PEER_GATEWAY_CONNECTIONS_DEFAULT: usize = 32;
/// Connections to peer gateways that a worker looks at, to find those to close for one that a request needs.
pub const REACH_CONNECTIONS_MAX: usize = 64;
/// The first wait before a peer gateway that failed is dialed again, milliseconds. It doubles.
pub const PEER_GATEWAY_BACKOFF_MS_MIN: u64 = 200;
/// The longest of those waits, milliseconds.
pub const PEER_GATEWAY_BACKOFF_MS_MAX: u64 = 30_000;
/// How long a request to be forwarded waits for its peer gateway, milliseconds.
pub const RELAY_REACH_MS: u64 = 3_000;
/// How long an asker may take no bytes of a relayed answer before the relay drops it, milliseconds: waiting
/// bytes use the flow control of the connection between two gateways, which other requests share.
pub const RELAY_STALL_MS: u64 = 10_000;
/// How long a FETCH that joined another may be held back by it before it is sent on its own, milliseconds.
pub const MERGE_STALL_MS: u64 = 1_000;
/// Runs of forwarded bytes that wait for the cache; past it, the payload is not kept.
pub const CACHE_QUEUE_LEN: usize = 256;
/// The approximate size of one request of a gathering over a short path, bytes.
pub const GATHER_WINDOW_BYTES: u64 = 4 << 20;
/// The same over a path that has more than [`GATHER_FLIGHT_BYTES_MIN`] in flight, bytes: at least.
pub const GATHER_RANGE_BYTES: u64 = 1 << 20;
/// What a gathering keeps in flight to one holder, in products of rate and round trip: losses need two of them.
pub const GATHER_FLIGHT_PRODUCTS_LEN: u64 = 3;
/// What a gathering keeps in flight to one holder at least, bytes.
pub const GATHER_FLIGHT_BYTES_MIN: u64 = 3 * GATHER_WINDOW_BYTES;
/// The same at most, bytes: also what a payload that is read in order waits for and holds.
pub const GATHER_FLIGHT_BYTES_MAX: u64 = 256 << 20;
/// Requests of a gathering in flight to one holder.
pub const GATHER_REQUESTS_LEN_MAX: usize = 120;
/// The highest rate of a holder counts that was measured in this many round trips, or in as many before them.
pub const GATHER_SPAN_ROUND_TRIPS_LEN: u32 = 4;
/// The same, milliseconds: at least.
pub const GATHER_SPAN_MS_MIN: u64 = 10;
/// Checked bytes that wait for the host of a gathering; past it no new request is sent.
pub const GATHER_AHEAD_BYTES: usize = 32 << 20;
/// A holder that is asked and sends nothing for this time has stalled, milliseconds.
pub const GATHER_STALL_MS: u64 = 5_000;
/// Stalls after which a holder is dropped.
pub const GATHER_STALLS_MAX: u32 = 2;
/// Holders of a gathering that failed which its error tells of.
pub const HOLDERS_TOLD_LEN_MAX: usize = 16;
/// Bad proofs that a holder may send (protocol §6: three strikes).
pub const GATHER_STRIKES_MAX: u32 = 3;
/// Attempts with a holder that is busy.
pub const GATHER_TRIES_MAX: u32 = 8;
/// The wait before the next attempt, if the holder names none, milliseconds.
pub const GATHER_WAIT_MS: u64 = 250;
/// Requests of a worker that wait for a connection to one peer gateway; further ones are refused.
pub const RELAY_WAITING_LEN_MAX: usize = 1024;
/// FETCHes that share one forwarded answer; an equal one after them is forwarded itself.
pub const MERGE_LEN_MAX: usize = 256;
/// Between two looks for members of shared answers that others hold back, milliseconds.
pub const MERGE_LOOK_MS: u64 = 100;
/// Holdings that one peer gateway may announce.
pub const DIRECTORY_LEN_MAX: usize = 1 << 16;
/// Between two looks for holdings to announce to peer gateways, milliseconds.
pub const ANNOUNCE_INTERVAL_MS: u64 = 100;
/// Between two looks for expired leases, milliseconds.
pub const EXPIRY_INTERVAL_MS: u64 = 1_000;
/// A lease with less time left than this counts as expired for a holder that would renew it, seconds:
/// renewing takes a moment.
pub const LEASE_MARGIN_S: u64 = 5;
/// How far the wall clock may differ from the machine's uptime, either way, before the store doubts it,
/// seconds.
pub const CLOCK_JUMP_S_MAX: u64 = 600;
/// How long a wall clock that jumped must run steadily before leases end by it, seconds.
pub const CLOCK_STEADY_S: u64 = 3600;
/// Between two notes of the time in the store, seconds.
pub const CLOCK_SAVE_S: u64 = 60;
/// The earliest possible time of a correct wall clock, seconds since the Unix epoch: the start of 2026.
pub const CLOCK_EARLIEST_S: u64 = 1_767_225_600;
/// Damaged payloads that a store names in its status.
pub const DAMAGE_LEN_MAX: usize = 64;
/// Bytes read of one payload in a check before another payload has its turn.
pub const CHECK_TURN_BYTES: usize = 4 << 20;
/// The rate of background checks, bytes a second.
pub const CHECK_BYTES_PER_S: u64 = 64 << 20;
/// Background checks that may be due; past it, further ones are skipped.
pub const CHECKS_LEN_MAX: usize = 64;
/// How long a payload that was found intact is not checked again, seconds.
pub const CHECK_FRESH_S: u64 = 600;
/// Payloads remembered as found intact.
pub const CHECKS_FRESH_LEN_MAX: usize = 4096;
/// Checks that one peer may cause at once by reporting bad proofs.
pub const HINTS_BURST: u32 = 4;
/// The wait before it may cause another, seconds.
pub const HINT_INTERVAL_S: u32 = 30;
/// Finished answers whose tokens are remembered: their peers may still report a bad proof.
pub const SERVED_LEN_MAX: usize = 1024;
/// Payloads that a worker mirrors at once.
pub const MIRRORS_LEN_MAX: usize = 64;
/// The same, of those that one node asked for.
pub const NODE_MIRRORS_LEN_MAX: usize = 8;
/// The most that a FETCH in early data may select, bytes (protocol §7).
pub const EARLY_FETCH_BYTES_MAX: u64 = 64 * 1024;
/// Stream errors within [`STREAM_ERROR_WINDOW_S`] that close the connection (protocol §8).
pub const STREAM_ERRORS_MAX: usize = 3;
/// Errors within [`STREAM_ERROR_WINDOW_S`] on requests that a peer gateway forwards; then its requests behind HOP are refused until fewer are in
/// the window. The gateway is not to blame, so its connection stays.
pub const ROUTED_ERRORS_MAX: usize = 64;
/// The window of [`STREAM_ERRORS_MAX`], seconds.
pub const STREAM_ERROR_WINDOW_S: u64 = 60;

/// How long a peer that this side connected to may take for its SETTINGS, where no other time is named, milliseconds.
pub const SETTINGS_MS_MAX: u64 = 10_000;
/// How long a gateway may be silent toward a client that names no other time, milliseconds: before its SETTINGS, and while a request waits for
/// it. Longer than QUIC's idle timeout, by which a gateway on a route finds that the next one is dead.
pub const SILENCE_MS_DEFAULT: u64 = 60_000;
/// Between two WORKING records about one request, milliseconds (protocol §4).
pub const WORKING_INTERVAL_MS: u64 = 1_000;
/// How long the first record of a peer's stream may take, milliseconds: its time does not begin anew with its bytes.
pub const REQUEST_BEGUN_MS_MAX: u64 = 30_000;
/// How long a request may go no further while others of its connection do, milliseconds. A gateway bounds PUTs in the same way
/// ([`PUT_TURN_MS_MAX`]).
pub const REQUEST_TURN_MS_MAX: u64 = 3_600_000;

/// How long a node that leaves waits for a peer to close after the last acknowledged answer, milliseconds:
/// acknowledged bytes may still wait in the peer's buffers, and a close throws them away.
pub const ANSWER_LINGER_MS: u64 = 5_000;

/// Deliveries that wait for an application, a ring.
pub const DELIVERY_RING_LEN: usize = 1024;
/// Commands that wait for a worker, a ring.
pub const COMMAND_RING_LEN: usize = 1024;
/// Bytes that an application may have outstanding on one outgoing stream before it must wait.
pub const OUTSTANDING_BYTES_MAX: usize = 8 << 20;
/// Bytes that the answers on one connection may have outstanding together. One answer has at most as many as all of them leave.
pub const ANSWERS_BYTES_MAX: usize = 32 << 20;
/// The same where the process's budget is short and the peer's node holds more than its share.
pub const ANSWERS_BYTES_MIN: usize = 2 << 20;
/// How long a peer may take no byte while an answer waits for it, milliseconds: then its connection is closed.
pub const ANSWERS_UNTAKEN_MS_MAX: u64 = 60_000;
/// Bytes of one stream that QUIC gets before the next stream that waits for its windows has its turn: some ranges of a gathering, so that
/// these end in the order in which they were asked for.
pub const SEND_TURN_BYTES: usize = 4 << 20;
/// Bytes that a relay holds of one direction of one stream: read, and not yet taken by QUIC on the other
/// side.
pub const RELAY_WINDOW_BYTES: usize = 1 << 20;
/// Requests that a client's connection has in flight; further ones wait their turn. Finished requests whose
/// streams have not ended count toward [`REQUESTS_LEN_MAX`] too.
pub const CLIENT_REQUESTS_LEN: usize = 128;
/// Messages of one connection that wait for a client to take them.
pub const CLIENT_MESSAGES_LEN: usize = 1024;
/// Bytes of those messages, and of those that wait to be sent.
pub const CLIENT_MESSAGES_BYTES: usize = 8 << 20;
/// Pieces of an answer that a client's worker collects, while more arrive, before it wakes the task that
/// takes them.
pub const CLIENT_PIECES_LEN: usize = 16;
/// A file's name where the file system does not say, bytes (POSIX NAME_MAX of Linux).
pub const NAME_BYTES_MAX: usize = 255;
/// The note beside a file that is being fetched, bytes: a longer one is invalid.
pub const NOTE_BYTES_MAX: u64 = 4096;
/// Read size when a fetched file is checked before it gets its name, bytes. Signals are handled between
/// reads.
pub const PART_READ_BYTES: usize = 1 << 20;
/// Attempts to open a part file that another get deletes meanwhile.
pub const PART_TRIES_MAX: usize = 16;
/// A file of many that is read into memory and put, or fetched into memory and written, bytes; longer ones go through memory in pieces.
pub const FILE_IN_MEMORY_BYTES: u64 = 256 << 10;
/// Pieces of a payload that wait for the reader of standard output or a pipe.
pub const STREAM_PIECES_LEN: usize = 8;
/// Batches of a payload being put that wait for the worker.
pub const CLIENT_BATCHES_LEN: usize = 8;
/// Frames that a tap copied and no capture has taken yet.
pub const CAPTURE_RING_LEN: usize = 4096;
/// Lines of a TLS key log that no capture has taken yet.
pub const CAPTURE_SECRETS_LEN: usize = 1024;
/// Runs of qlog records that are not written yet.
pub const QLOG_QUEUE_LEN: usize = 1024;
/// Bytes of records that a connection collects before they are written.
pub const QLOG_RUN_BYTES: usize = 16 << 10;
/// Files of qlog that are open at once.
pub const QLOG_FILES_OPEN_MAX: usize = 256;
/// Workers in one process: a connection ID names the worker in 16 bits.
pub const WORKERS_MAX: usize = 1024;
/// Workers for each core that the process may run on: with many more, each waits long enough for a core that
/// connections time out.
pub const WORKERS_PER_CORE_MAX: usize = 8;
/// Unreachable destinations that a network has noticed and its worker has not polled; beyond it, timeouts
/// tell.
pub const UNREACHABLE_LEN_MAX: usize = 16;
/// Destinations with a connected socket of a client, which receives ICMP errors about them; the newest ones.
pub const PEERS_CONNECTED_MAX: usize = 16;
/// How long a peer that has answered gets no connected socket again, seconds: such a socket is bound to one
/// local address.
pub const PEER_ANSWERED_S: u64 = 60;
/// The smallest distance of two ICMP messages that end a handshake, milliseconds: more than within the
/// packets of one flight, less than the second before the first packet is sent again.
pub const UNREACHABLE_AGREE_MS: u64 = 200;
/// The UDP port of a gateway where none is named.
pub const PORT_DEFAULT: u16 = 4433;
/// Addresses of one name that are tried.
pub const ADDRESSES_LEN_MAX: usize = 16;
/// RFC 8305 §5: how long one address of a name may take before the next is tried beside it, milliseconds.
pub const ATTEMPT_DELAY_MS: u64 = 250;
/// Connection attempts that wait for their turn; further ones are dropped silently.
pub const INCOMING_LEN_MAX: usize = 256;
/// With more attempts than this waiting, a client must prove its address first (RFC 9000 §8.1.2).
pub const INCOMING_RETRY_LEN: usize = 64;
/// Bytes of an attempt that waits for its turn, after its first packet.
pub const INCOMING_BYTES_MAX: u64 = 64 * 1024;
/// The same of all attempts of a worker together.
pub const INCOMING_ALL_BYTES_MAX: u64 = 4 << 20;
/// Connections that peers began and whose handshakes are not complete, a worker. For a further one, one of them ends.
pub const HALF_OPEN_LEN_MAX: usize = 1024;
/// Those of them whose clients have not proven their addresses. From there on a client must prove its address first (RFC 9000 §8.1.2).
pub const HALF_OPEN_UNPROVEN_LEN_MAX: usize = 512;
/// How long the handshake of a peer's connection may take, milliseconds. No packet makes it longer.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;
/// How long after the handshake the SETTINGS of a peer that connected to this side may take, milliseconds. A half of a stream that is longer
/// than [`STREAM_PART_BYTES`] waits for them, and keeps its file and its credit meanwhile.
pub const ACCEPTED_SETTINGS_MS_MAX: u64 = 30_000;
/// Times that a CONNECTION_CLOSE is sent again without a sign of the peer (RFC 9000 §10.2.1).
pub const CLOSE_REPEATS_MAX: u32 = 2;
/// The margin over the measured round trip before a CONNECTION_CLOSE is sent again, milliseconds: the delay of
/// acknowledgments, and a turn. Two fit into the three PTOs after which QUIC forgets a closed connection (RFC 9000 §10.2).
pub const CLOSE_REPEAT_MS: u64 = ACK_DELAY_MS + 1;
/// How long a node that ends keeps closing its connections, milliseconds: a little more than three round
/// trips with far peers (RFC 9000 §10.2: three times the PTO).
pub const CLOSE_MS_MAX: u64 = 1_000;
/// Connections that one node may have opened to a process, where the operator names no number.
pub const CONNECTIONS_PER_NODE_DEFAULT: u32 = 1024;
/// Connections, a worker.
pub const CONNECTIONS_LEN_MAX: usize = 131_072;
/// Log lines that standard error has not taken yet. Further ones are lost, and counted.
pub const LOG_QUEUE_LINES_MAX: usize = 8192;
/// The bytes of these lines.
pub const LOG_QUEUE_BYTES_MAX: usize = 4 << 20;
/// How long the end of a process waits for standard error to take the last log lines, milliseconds.
pub const LOG_FLUSH_MS_MAX: u64 = 1000;
/// Panics that a gateway that ends shows by their threads. Further ones are counted and logged.
pub const PANICS_SHOWN_LEN_MAX: usize = 16;
/// From one survey of a worker's connections to the next, milliseconds.
pub const SURVEY_INTERVAL_MS: u64 = 1_000;
/// How long a peer may leave packets unacknowledged before its connection counts as unacknowledged,
/// milliseconds.
pub const UNACKNOWLEDGED_MS: u64 = 3_000;
/// Seconds without any acknowledgment, though some are due, after which the port counts as unheard.
pub const UNHEARD_S: u32 = 15;
/// Between two looks at the kernel's interface under a port, milliseconds.
pub const INTERFACE_INTERVAL_MS: u64 = 1_000;
/// Between two looks at whether the gateway is ready, for the addresses that it announces, milliseconds.
pub const READY_INTERVAL_MS: u64 = 50;
/// Between two passes of a drain over more connections than that, milliseconds.
pub const DRAIN_PASS_MS: u64 = 10;
/// Connections that a worker reports to an inspection.
pub const INSPECTION_LEN_MAX: usize = 256;
/// Connections to the admin endpoint at once from loopback, and as many from other addresses, including those in their handshake. A further one
/// takes the place of the oldest without a request in progress.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// The same from one IPv4 address or IPv6 network of 64 bits other than loopback.
pub const ADMIN_ADDRESS_CONNECTIONS_MAX: usize = 16;
/// How long a connection to the admin endpoint may be silent, seconds.
pub const ADMIN_IDLE_S: u64 = 60;
/// How long the head of a request to the admin endpoint may take from the end of the request before, seconds: between the usual intervals of
/// scrapers, 10 and 15 s.
pub const ADMIN_HEAD_S: u64 = 12;
/// After this time a connection to the admin endpoint gets no further request, seconds.
pub const ADMIN_AGE_S: u64 = 600;
/// How long a TLS handshake with the admin endpoint may take, seconds.
pub const ADMIN_HANDSHAKE_S: u64 = 5;
/// The shortest bearer token of the admin endpoint, bytes.
pub const ADMIN_TOKEN_BYTES_MIN: usize = 16;
/// Seconds without a turn after which a worker counts as stuck.
pub const WORKER_STUCK_S: u32 = 10;

/// The smallest flow control window and send window of QUIC, bytes. It is larger than the longest record: a window that is full of a record
/// which has not arrived whole would never open again.
pub const WINDOW_BYTES_MIN: u64 = 128 * 1024;
/// The largest of them, bytes.
pub const WINDOW_BYTES_MAX: u64 = 1 << 30;
/// A half of a stream that is longer is carried on by another stream, bytes. quinn-proto walks the unacknowledged chunks of a stream for each
/// packet, and takes no stream with more than about a thousand gaps.
pub const STREAM_PART_BYTES: u64 = 2 << 20;
/// The time that one packet may take at a connection's own rate, milliseconds: keep-alives and acknowledgments wait behind it.
pub const PACKET_MS_MAX: u64 = 50;
/// The smallest budget of the memory that a process promises to its peers, bytes: the windows of a few of them, and their answers.
pub const WINDOW_BUDGET_BYTES_MIN: u64 = 16 << 20;
/// The windows of a connection before its peer is known and its bytes flow, bytes: receive and send each.
pub const WINDOW_FIRST_BYTES: u64 = 256 * 1024;
/// A window holds the bytes of this many round trips: one on its way, one until a loss is known, one until it is mended, one to grow.
pub const WINDOW_TRIPS_LEN: u32 = 4;
/// The shortest time between two looks at the windows of a connection, milliseconds.
pub const WINDOW_ROUND_MS_MIN: u64 = 10;
/// A window whose size was not needed for this time becomes smaller, milliseconds.
pub const WINDOW_QUIET_MS: u64 = 10_000;
/// The number of the last queue: a record carries it as a QUIC integer (protocol §2).
pub const QUEUE_MAX: u64 = (1 << 62) - 1;
/// The longest timeout or pause in a configuration, seconds: a day.
pub const SPAN_S_MAX: u64 = 24 * 3600;
/// The longest lease, seconds: a hundred years.
pub const LEASE_S_MAX: u64 = 100 * 365 * 24 * 3600;
/// Round trips or handshakes whose times one run of a tool keeps.
pub const TRIPS_LEN_MAX: u64 = 10_000_000;
/// CPU cores in the kernel's set (CPU_SETSIZE).
pub const CORES_MAX: usize = 1024;
/// The largest store, bytes.
pub const STORE_BYTES_MAX: u64 = 1 << 60;

const _: () = {
    assert!(RECORD_BYTES_MAX < WINDOW_BYTES_MIN && WINDOW_BYTES_MAX <= u32::MAX as u64);
    assert!(TX_PENDING_LEN_MAX >= 2 * TX_SEGMENTS_LEN_MAX && SPREAD_RING_LEN >= 2 * TX_SEGMENTS_LEN_MAX);
    assert!(MESSAGE_BYTES_MAX <= CONTROL_RECORD_BYTES_MAX);
    assert!(UNVERIFIED_GROUPS_MAX * GROUP_BYTES <= OUTSTANDING_BYTES_MAX);
    assert!(SHARD_BYTES_MAX.is_multiple_of(GROUP_BYTES as u64) && SHARD_BYTES_DEFAULT <= SHARD_BYTES_MAX);
    assert!(LANES_DATA_MAX + LANES_PARITY_MAX <= LANES_MAX);
    assert!(HOPS_LEN_MAX <= HOP_LIMIT_MAX as usize);
    // The longest holder has 58 bytes: node ID, coverage, bitmap, expiry.
    assert!(HOLDERS_LEN_MAX as u64 * 58 + 8 <= CONTROL_RECORD_BYTES_MAX);
    assert!(INCOMING_RETRY_LEN < INCOMING_LEN_MAX);
    assert!(HALF_OPEN_UNPROVEN_LEN_MAX < HALF_OPEN_LEN_MAX && HALF_OPEN_LEN_MAX < CONNECTIONS_LEN_MAX);
    assert!((UNPROVEN_HANDSHAKES_BURST as usize) < HALF_OPEN_UNPROVEN_LEN_MAX);
    assert!(WORKERS_MAX <= u16::MAX as usize);
    assert!(NEIGHBORS_UNRESOLVED_LEN_MAX + STATIONS_LEN_MAX < NEIGHBORS_LEN_MAX);
    assert!(REQUESTS_LEN_MAX <= COMMAND_RING_LEN as u64);
    assert!(CLIENT_REQUESTS_LEN as u64 * 2 <= REQUESTS_LEN_MAX);
    assert!(CLIENT_REQUESTS_LEN + GATHER_REQUESTS_LEN_MAX <= REQUESTS_LEN_MAX as usize);
    assert!(GATHER_RANGE_BYTES.is_multiple_of(GROUP_BYTES as u64));
    assert!(MESSAGE_BYTES_MAX as usize <= CLIENT_MESSAGES_BYTES);
    assert!(NODE_UNFINISHED_LEN_MAX >= REQUESTS_LEN_MAX && NODE_UNFINISHED_LEN_MAX < UNFINISHED_LEN_MAX);
    assert!(NODE_ENTRIES_LEN < STORE_ENTRIES_LEN && STORE_ENTRIES_LEN <= STORE_ENTRIES_LEN_MAX);
    assert!(STORE_FILES_LEN_MAX / 8 >= READ_FILES_LEN_MAX);
    assert!(PUT_LOOK_MS < PUT_STALL_MS && PUT_STALL_MS < PUT_TURN_MS_MAX);
    assert!(10 * WORKING_INTERVAL_MS <= SILENCE_MS_DEFAULT && SILENCE_MS_DEFAULT < REQUEST_TURN_MS_MAX);
    assert!(CLOCK_SAVE_S < CLOCK_JUMP_S_MAX && CLOCK_JUMP_S_MAX < CLOCK_STEADY_S);
};
