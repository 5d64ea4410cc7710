//! Of a fleet's directory.

/// Gateways of a fleet.
pub const FLEET_GATEWAYS_LEN_MAX: usize = 4096;
/// The other gateways of a fleet to which a gateway keeps connections. The rest are dialed when requests need them.
pub const FLEET_STANDING_LEN: usize = 4;
/// Addresses of a gateway in a fleet's directory.
pub const FLEET_ADDRESSES_LEN_MAX: usize = 16;
/// A name or place in a fleet's directory, bytes.
pub const FLEET_TEXT_BYTES_MAX: usize = 128;
/// A value of a fleet's directory, bytes.
pub const FLEET_VALUE_BYTES_MAX: usize = 16_384;
/// The lease by which a gateway says that it is alive, seconds. It is kept alive three times as often.
pub const FLEET_LEASE_S: u64 = 10;
/// How long a member of etcd may take for an answer, milliseconds. Two that are silent, one after the other, leave a lease alive.
pub const FLEET_ANSWER_MS_MAX: u64 = 3_000;
/// The longest pause before a gateway asks another member of etcd, when one is lost, milliseconds. Each gateway draws its own.
pub const FLEET_NEXT_MS_MAX: u64 = 1_000;
/// The same when no member has answered, milliseconds. A lease that etcd gives its whole time again, when its quorum is back, is
/// kept alive in time.
pub const FLEET_AGAIN_MS_MAX: u64 = 5_000;
/// The longest pause before a gateway says which keys it goes by, milliseconds: all gateways do after one change.
pub const FLEET_SAY_MS_MAX: u64 = 10_000;
/// Changes of a fleet's gateways and keys, and leases that end, within this time make one table, milliseconds.
pub const FLEET_SETTLE_MS: u64 = 100;
/// The same for what gateways say of themselves, milliseconds: a fleet that starts says a thousand things in ten seconds.
pub const FLEET_ALIVE_SETTLE_MS: u64 = 1_000;
/// After a refusal a right is asked for again, milliseconds.
pub const FLEET_DENIED_MS: u64 = 30_000;
/// An answer of etcd, bytes: a list of the largest fleet.
pub const FLEET_ANSWER_BYTES_MAX: usize = 64 << 20;
/// The changes that etcd tells at once, bytes. What it takes in one transaction is far less.
pub const FLEET_LINE_BYTES_MAX: usize = 16 << 20;
/// How long a gateway that ends waits for etcd to end its lease, milliseconds.
pub const FLEET_LEAVE_MS_MAX: u64 = 1_000;
/// How long a gateway that starts without a table waits for etcd, milliseconds.
pub const FLEET_FIRST_MS_MAX: u64 = 20_000;
/// How often a gateway looks whether it is ready, to say so in the directory, milliseconds.
pub const FLEET_READY_MS: u64 = 1_000;
/// How far a gateway's clock and etcd's may be apart, seconds.
pub const FLEET_CLOCK_S_MAX: u64 = 60;
/// The lease by which a gateway says that it is alive in Kubernetes, seconds, as long as those of Kubernetes' own controllers. Each renewal
/// of it is told to every gateway.
pub const FLEET_KUBE_LEASE_S: u64 = 15;
/// A watch of leases that is silent for longer says nothing of what ended meanwhile, milliseconds. A gateway's own renewals are more frequent.
pub const FLEET_KUBE_SILENT_MS_MAX: u64 = 10_000;
/// After this time Kubernetes ends a watch, and the gateway begins another one, seconds.
pub const FLEET_KUBE_WATCH_S: u64 = 600;
/// A watch that ends sooner is a fault, milliseconds.
pub const FLEET_KUBE_WATCH_MS_MIN: u64 = 1_000;
/// The longest pause that a gateway grants a Kubernetes that asks for one, seconds.
pub const FLEET_KUBE_PAUSE_S_MAX: u64 = 60;
/// Changes of a gateway's own lease by others that it meets, one after another, before it gives up for now.
pub const FLEET_KUBE_CONFLICTS_LEN_MAX: usize = 3;
/// Datagrams that a worker hands over to other gateways, a second, unless another number is configured: more than one that did nothing else could.
pub const HANDOVERS_PER_S: u32 = 1_000_000;
/// The most that may be configured.
pub const HANDOVERS_PER_S_MAX: u32 = 100_000_000;
/// The least packet that gateways must carry to each other, bytes: a datagram of 1200 bytes over IPv6, in GUE over IPv6.
pub const FABRIC_MTU_BYTES_MIN: u16 = 1_300;
/// The same at once after a silence, as a part of what is handed over in a second.
pub const HANDOVER_BURST_DIVISOR_LEN: u32 = 20;
/// Datagrams of a worker that wait to be handed over to other gateways.
pub const HANDOVER_NET_LEN_MAX: usize = 1024;
/// How long a gateway whose lease is gone may take to answer a question before its connections are reset, milliseconds.
pub const HANDOVER_ANSWER_MS_MAX: u64 = 250;
/// How long it may be silent until the clients whose flows were handed over to it are told unasked, milliseconds: it is asked twice by then.
pub const HANDOVER_TELL_MS: u64 = 2 * HANDOVER_ANSWER_MS_MAX;
/// How long such an answer holds, and between two questions without one, milliseconds.
pub const HANDOVER_ASK_MS: u64 = 1_000;
/// How long its silence holds, milliseconds: longer than connections last whose peer is silent, unless they are configured to.
pub const HANDOVER_SILENT_MS: u64 = 60_000;
/// Stateless resets for gateways that are gone, of a worker at once; after that, one in [`super::RESET_INTERVAL_US`].
pub const GONE_RESETS_BURST: u32 = 256;
/// Between two stateless resets for one connection ID of a gateway that is gone, milliseconds.
pub const GONE_RESET_MS: u64 = 1_000;
/// Connection IDs of gateways that are gone whose resets a worker remembers; it sends no further ones in that time.
pub const GONE_RESETS_LEN_MAX: usize = 4096;
/// Flows handed over to other gateways that a worker remembers.
pub const HANDED_FLOWS_LEN_MAX: usize = 8_192;
/// How long it remembers one after its last datagram, milliseconds: the lease of a gateway that dies, and as long again, since a client that
/// waits doubles the time between its packets.
pub const HANDED_FLOW_MS_MAX: u64 = 30_000;
/// Between two notes of one such flow, milliseconds.
pub const HANDED_FLOW_NOTE_MS: u64 = 1_000;

const _: () = {
    assert!(HANDOVER_TELL_MS < HANDOVER_ASK_MS);
    assert!(
        HANDED_FLOW_MS_MAX >= 2 * 1000 * FLEET_LEASE_S && HANDED_FLOW_MS_MAX >= 2 * 1000 * FLEET_KUBE_LEASE_S
    );
};

const _: () = {
    assert!(FLEET_KUBE_LEASE_S * 1000 / 3 < FLEET_KUBE_SILENT_MS_MAX);
    assert!(FLEET_ANSWER_MS_MAX + FLEET_AGAIN_MS_MAX < 1000 * FLEET_LEASE_S);
    // A lease is kept alive when a third is over; a silent member and a refusing one may follow.
    assert!(2 * FLEET_ANSWER_MS_MAX < 1000 * FLEET_LEASE_S * 2 / 3);
};
