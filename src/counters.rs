//! A worker's counters: one array a worker, written by that worker alone, read by any thread.
//!
//! Reasons are data: nothing is formatted, logged or allocated for one packet.

use crate::histogram::Histogram;
use crate::send_limit::LimitTotals;
use crate::stages::Stages;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Every counter of a worker. Metrics and `--json` results show the name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $variant,)+ }

        impl Counter {
            /// Every counter, in the order of the array.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)+];

            /// The counter's name, in Prometheus form without the unit suffix.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)+ }
            }

            /// Its meaning, in a sentence or two.
            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => concat!($($doc),+).trim_start(),)+ }
            }
        }
    };
}

counters! {
    /// Frames or datagrams taken from the network.
    RxPackets = "rx_packets",
    /// Bytes of UDP payload taken from the network.
    RxBytes = "rx_bytes",
    /// Frames or datagrams given to the network.
    TxPackets = "tx_packets",
    /// Bytes of UDP payload given to the network.
    TxBytes = "tx_bytes",
    /// Turns of the loop that moved no packet, delivery or command.
    EmptyPolls = "empty_polls",
    /// Turns of the loop that moved at least one packet, delivery or command.
    BusyPolls = "busy_polls",
    /// Panics on the worker's thread. Its connections are gone, and it accepts no others.
    WorkersFailed = "workers_failed",
    /// Drop: shorter than its own headers say, or headers that contradict each other.
    DropMalformed = "drop_malformed",
    /// Drop: an Ethernet type, IP protocol or ICMP kind that STOQ does not use.
    DropUnwanted = "drop_unwanted",
    /// Drop: addressed to another station or another IP address.
    DropForeign = "drop_foreign",
    /// Drop: an IP fragment. QUIC never fragments (RFC 9000 §14).
    DropFragment = "drop_fragment",
    /// Drop: a checksum over IP, UDP, ICMP or ICMPv6 that does not hold.
    DropChecksum = "drop_checksum",
    /// Drop: UDP to a port that nothing listens on.
    DropPort = "drop_port",
    /// Drop: a packet for this host's kernel (the exception path) past the rate at which it is given such, or without room.
    DropExceptionLimited = "drop_exception_limited",
    /// Drop: a packet of this host's kernel from an address that the port does not have.
    DropExceptionSource = "drop_exception_source",
    /// Drop: no next hop on a link or through a router for the destination.
    DropNoRoute = "drop_no_route",
    /// Drop: the queue of packets that wait for a neighbor was full.
    DropNeighborQueueFull = "drop_neighbor_queue_full",
    /// Drop: the next hop did not answer ARP or NDP.
    DropNeighborUnreachable = "drop_neighbor_unreachable",
    /// Drop: the next hop is unknown and was not asked for, since new questions are limited in rate, and stations
    /// in use keep their places.
    DropNeighborLimited = "drop_neighbor_limited",
    /// Drop: an ARP request, neighbor solicitation or echo request past the rate at which they are answered.
    DropReplyLimited = "drop_reply_limited",
    /// Drop: an echo request to or from a group or broadcast, of stations or of addresses.
    DropEchoNotUnicast = "drop_echo_not_unicast",
    /// Drop: no packet buffer was free.
    DropNoBuffer = "drop_no_buffer",
    /// Drop: the device took no frame within the bounded retry.
    DropTxStalled = "drop_tx_stalled",
    /// Drop: larger than the device's MTU.
    DropTooBig = "drop_too_big",
    /// Drop: the kernel refused a datagram for good.
    DropSocketError = "drop_socket_error",
    /// Drop: a received frame for another worker of a shared device, whose ring was full.
    DropSpreadFull = "drop_spread_full",
    /// Drop: the hand-over ring of the owning worker was full.
    DropHandoverFull = "drop_handover_full",
    /// Drop: a new connection past the connection limit.
    DropConnectionLimit = "drop_connection_limit",
    /// Drop: a connection attempt from an address that proved nothing, past the rate of Retry packets.
    DropRetryLimit = "drop_retry_limit",
    /// Drop: a UDP datagram that no QUIC version 1 packet can be.
    DropNotQuic = "drop_not_quic",
    /// Drop: a UDP datagram that belongs to no connection and may begin none. It may be answered, at a
    /// bounded rate.
    DropNoConnection = "drop_no_connection",
    /// Drop: a QUIC datagram that holds no whole MESSAGE.
    DropDatagramMalformed = "drop_datagram_malformed",
    /// Drop: a QUIC datagram whose message no application takes, or not in early data, or whose token is
    /// false.
    DropDatagramRefused = "drop_datagram_refused",
    /// Drop: a QUIC datagram whose application had no room.
    DropDatagramRingFull = "drop_datagram_ring_full",
    /// Drop: a message to send as a QUIC datagram, larger than the path or the peer takes.
    DropDatagramTooBig = "drop_datagram_too_big",
    /// Datagrams for another worker's connection, handed to that worker.
    HandoversOut = "handovers_out",
    /// Datagrams that other workers handed to this one.
    HandoversIn = "handovers_in",
    /// Datagrams for another gateway's connection, handed over to that gateway.
    HandoversNetOut = "handovers_net_out",
    /// Datagrams that other gateways handed over to this one, for its connections.
    HandoversNetIn = "handovers_net_in",
    /// Drop: a datagram for another gateway's connection, past the rate at which they are handed over.
    DropHandoverLimited = "drop_handover_limited",
    /// Drop: a datagram for the connection of a gateway that is gone. Its sender gets a stateless reset, at a bounded rate.
    DropHandoverGone = "drop_handover_gone",
    /// Drop: a datagram handed over by a sender that is no gateway of the fleet's table.
    DropHandoverStranger = "drop_handover_stranger",
    /// Drop: a packet to the port of GUE that is none.
    DropHandoverMalformed = "drop_handover_malformed",
    /// Drop: a datagram handed over whose connection ID does not name this gateway. It is not handed over again.
    DropHandoverForeign = "drop_handover_foreign",
    /// Drop: a datagram handed over that belongs to no connection. It opens none, and is not answered.
    DropHandoverNoConnection = "drop_handover_no_connection",
    /// Stateless resets sent for gateways of the fleet that are gone.
    FleetResetsSent = "fleet_resets_sent",
    /// Those of them that were sent unasked, to clients whose flows were handed over lately.
    FleetResetsUnasked = "fleet_resets_unasked",
    /// Questions to gateways of the fleet: to each when it is new, and to those whose leases are gone.
    FleetQuestionsSent = "fleet_questions_sent",
    /// New connections that began at this worker and were given to one with more room.
    PlacementsOut = "placements_out",
    /// Retry packets that sent their clients to a worker with more room.
    PlacementsByRetry = "placements_by_retry",
    /// Frames received from a shared device and given to the worker of their flow.
    SpreadOut = "spread_out",
    /// Frames that other workers received from a shared device for this one.
    SpreadIn = "spread_in",
    /// Frames of all workers that send by this one's queue of a shared device, its own among them.
    SpreadSent = "spread_sent",
    /// ARP, NDP, ICMP and ICMPv6 packets answered or learned from.
    NeighborPackets = "neighbor_packets",
    /// Claims that a neighbor in use is at another station. Its known station is asked first.
    NeighborClaimsContested = "neighbor_claims_contested",
    /// Those claims that the known station refuted by its answer, and claims against a station of the configuration.
    NeighborClaimsRefuted = "neighbor_claims_refuted",
    /// Neighbors that another station took over, since their known one did not answer.
    NeighborStationsChanged = "neighbor_stations_changed",
    /// Echo requests answered, of both families.
    IcmpEchoReplies = "icmp_echo_replies",
    /// Packets for this host that STOQ does not use, given to its kernel.
    ExceptionsIn = "exceptions_in",
    /// Packets of this host's kernel that left by the port.
    ExceptionsOut = "exceptions_out",
    /// Connections whose handshake was completed.
    ConnectionsOpened = "connections_opened",
    /// Connections that ended, for any reason.
    ConnectionsClosed = "connections_closed",
    /// Handshakes that a peer began and that were completed without early data, full or resumed.
    HandshakesServerCompleted = "handshakes_server_completed",
    /// Handshakes that a peer began and that were completed with early data (0-RTT).
    HandshakesServerEarly = "handshakes_server_early",
    /// Handshakes that a peer began and that failed.
    HandshakesServerFailed = "handshakes_server_failed",
    /// Clients refused in their handshakes by this node's TLS: for their certificates, or for nothing in common.
    ClientsRefused = "clients_refused",
    /// Connections refused because their node had as many as one may have.
    NodeConnectionsRefused = "node_connections_refused",
    /// Connections refused because this node drains, or is to take no new ones for now.
    ConnectionsTurnedAway = "connections_turned_away",
    /// Requests refused because their node had as many in flight as one may have.
    NodeRequestsRefused = "node_requests_refused",
    /// Requests refused because memory was short and their node held more of it than its share.
    MemoryRequestsRefused = "memory_requests_refused",
    /// Connections closed because their peer took no byte while answers waited for it.
    AnswersUntaken = "answers_untaken",
    /// Connections closed because the peer sent no SETTINGS in its time.
    SettingsTimedOut = "settings_timed_out",
    /// Requests refused, and other streams of peers stopped, because their first record was not whole in its time.
    RecordsTimedOut = "records_timed_out",
    /// Handshakes begun here and completed without early data, full or resumed.
    HandshakesClientCompleted = "handshakes_client_completed",
    /// Handshakes begun here and completed with early data (0-RTT).
    HandshakesClientEarly = "handshakes_client_early",
    /// Handshakes begun here that failed.
    HandshakesClientFailed = "handshakes_client_failed",
    /// Connection attempts accepted: their handshakes began, each of which costs a signature.
    QuicAttemptsAccepted = "quic_attempts_accepted",
    /// Handshakes of peers that were ended to make room for others' handshakes.
    QuicHalfOpenEvicted = "quic_half_open_evicted",
    /// Handshakes of peers that took too long.
    QuicHalfOpenTimedOut = "quic_half_open_timed_out",
    /// Retry packets sent: clients had to prove their address first.
    QuicRetriesSent = "quic_retries_sent",
    /// Stateless resets sent: answers to packets of connections of an earlier process of this node.
    QuicStatelessResetsSent = "quic_stateless_resets_sent",
    /// Connections that a peer's stateless reset ended: its node was restarted.
    QuicStatelessResetsReceived = "quic_stateless_resets_received",
    /// CONNECTION_CLOSE packets sent again because the peer had not answered.
    QuicClosesRepeated = "quic_closes_repeated",
    /// QUIC packets sent on connections, as last surveyed.
    QuicPacketsSent = "quic_sent_packets",
    /// QUIC packets deemed lost, as last surveyed.
    QuicPacketsLost = "quic_lost_packets",
    /// Bytes of QUIC packets deemed lost, as last surveyed.
    QuicBytesLost = "quic_lost_bytes",
    /// Times that congestion slowed a connection down, as last surveyed.
    QuicCongestionEvents = "quic_congestion_events",
    /// ACK frames that acknowledged something new, as last surveyed.
    QuicNewAcks = "quic_new_acks",
    /// Peers' PUTs answered with DONE.
    RequestsPutOk = "requests_put_ok",
    /// Peers' PUTs answered with ERROR.
    RequestsPutRefused = "requests_put_refused",
    /// Peers' PUTs that their peers gave up, or whose connection ended early.
    RequestsPutAbandoned = "requests_put_abandoned",
    /// Peers' FETCHes answered whole.
    RequestsFetchOk = "requests_fetch_ok",
    /// Peers' FETCHes answered with ERROR, or cut short here.
    RequestsFetchRefused = "requests_fetch_refused",
    /// Peers' FETCHes that their peers gave up, or whose connection ended early.
    RequestsFetchAbandoned = "requests_fetch_abandoned",
    /// Peers' LOCATEs answered.
    RequestsLocateOk = "requests_locate_ok",
    /// Peers' LOCATEs answered with ERROR.
    RequestsLocateRefused = "requests_locate_refused",
    /// Peers' LOCATEs that their peers gave up, or whose connection ended early.
    RequestsLocateAbandoned = "requests_locate_abandoned",
    /// Peers' MIRRORs answered with DONE.
    RequestsMirrorOk = "requests_mirror_ok",
    /// Peers' MIRRORs answered with ERROR.
    RequestsMirrorRefused = "requests_mirror_refused",
    /// Peers' MIRRORs that their peers gave up, or whose connection ended early.
    RequestsMirrorAbandoned = "requests_mirror_abandoned",
    /// Peers' LISTs answered.
    RequestsListOk = "requests_list_ok",
    /// Peers' LISTs answered with ERROR.
    RequestsListRefused = "requests_list_refused",
    /// Peers' LISTs that their peers gave up, or whose connection ended early.
    RequestsListAbandoned = "requests_list_abandoned",
    /// Peers' STATs answered.
    RequestsStatOk = "requests_stat_ok",
    /// Peers' STATs answered with ERROR.
    RequestsStatRefused = "requests_stat_refused",
    /// Peers' STATs that their peers gave up, or whose connection ended early.
    RequestsStatAbandoned = "requests_stat_abandoned",
    /// Peers' REMOVEs answered.
    RequestsRemoveOk = "requests_remove_ok",
    /// Peers' REMOVEs answered with ERROR.
    RequestsRemoveRefused = "requests_remove_refused",
    /// Peers' REMOVEs that their peers gave up, or whose connection ended early.
    RequestsRemoveAbandoned = "requests_remove_abandoned",
    /// Peers' RENEWs answered.
    RequestsRenewOk = "requests_renew_ok",
    /// Peers' RENEWs answered with ERROR.
    RequestsRenewRefused = "requests_renew_refused",
    /// Peers' RENEWs that their peers gave up, or whose connection ended early.
    RequestsRenewAbandoned = "requests_renew_abandoned",
    /// PUTs refused because their peers lack the right `put`.
    RightsRefusedPut = "rights_refused_put",
    /// FETCHes refused because their peers lack the right `get`.
    RightsRefusedGet = "rights_refused_get",
    /// LOCATEs refused because their peers lack the right `locate`.
    RightsRefusedLocate = "rights_refused_locate",
    /// MIRRORs refused because their peers lack the right `mirror`.
    RightsRefusedMirror = "rights_refused_mirror",
    /// Requests for other gateways refused because their peers lack the right `transit`.
    RightsRefusedTransit = "rights_refused_transit",
    /// Streams of messages and QUIC datagrams refused because their peers may not send to their queues.
    RightsRefusedMessages = "rights_refused_messages",
    /// LISTs and STATs refused because their peers lack the right `list`.
    RightsRefusedList = "rights_refused_list",
    /// REMOVEs refused because their peers lack the right `remove`.
    RightsRefusedRemove = "rights_refused_remove",
    /// Records read from peers.
    RecordsIn = "records_in",
    /// Records written to peers.
    RecordsOut = "records_out",
    /// Streams refused because their bytes broke the protocol.
    ProtocolErrors = "protocol_errors",
    /// Payload bytes checked against a token.
    VerifiedBytes = "verified_bytes",
    /// Those of them whose groups a verify thread checked.
    GroupChecksBytes = "verify_thread_bytes",
    /// Pieces that the worker checked itself because no verify thread had room.
    GroupChecksFull = "verify_full",
    /// Pieces that the worker checked itself because a verify thread was late, or had ended.
    GroupChecksLate = "verify_late",
    /// 16 KiB groups that did not match their token.
    BadProofs = "bad_proofs",
    /// Connections whose early data the peer accepted.
    QuicEarlyDataAccepted = "quic_early_data_accepted",
    /// Requests forwarded to another gateway.
    HopsForwarded = "hops_forwarded",
    /// Requests refused because of their HOP record.
    HopsRefused = "hops_refused",
    /// FETCHes that joined an identical one in flight.
    HopsMerged = "hops_merged",
    /// Forwarded payloads that were not cached though the request allowed it: the cache was too slow, or had
    /// no room.
    CacheSkipped = "cache_skipped",
    /// Connections to peer gateways that came up.
    PeerGatewaysConnected = "peer_gateways_connected",
    /// Connections to peer gateways that failed or were lost.
    PeerGatewaysLost = "peer_gateways_lost",
    /// Times a full application ring made the worker stop reading a stream.
    RingStalls = "ring_stalls",
}

/// One worker's counters. Only the worker adds; [`Counters::get`] may be called from any thread.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; Counter::ALL.len()],
    /// Where the worker's time goes.
    pub stages: Stages,
    /// Packets a burst, of bursts that were not empty.
    pub bursts: Histogram,
    /// Smoothed round-trip times, microseconds: one of each connection a second.
    pub rtts: Histogram,
    /// Congestion windows, bytes: one of each connection a second.
    pub windows: Histogram,
    /// How long each reason kept connections from sending more, up to a second late.
    pub limits: LimitTotals,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            stages: Stages::default(),
            bursts: Histogram::default(),
            rtts: Histogram::default(),
            windows: Histogram::default(),
            limits: LimitTotals::default(),
        }
    }
}

impl Counters {
    /// Adds `n`. One writer: a plain load and store, never a locked instruction.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = &self.values[counter as usize];
        cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The current value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Relaxed)
    }

    /// Every counter with its name and value.
    pub fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.iter().map(|&c| (c.name(), self.get(c)))
    }
}
