//! Rights: what each peer may ask of this node, and on which terms its payloads are kept.
//!
//! [`Rights`] is a table of sections. The section that is most special to a peer gives it its [`Grant`], alone: one that names its node
//! ID, else one whose authorities vouch for it, else one for peers with a certificate, else one for every peer. A session looks the grant up
//! once, and again when a reload has changed the table. A table without sections gives every peer everything.

use crate::counters::Counter;
use crate::record::{LeaseScope, List, Request, Stat};
use crate::tls::{Authorities, NodeId, PeerChain};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// A thing that a peer may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// PUT.
    Put,
    /// FETCH.
    Get,
    /// LOCATE.
    Locate,
    /// MIRROR.
    Mirror,
    /// A request that is forwarded to another gateway, of any kind.
    Transit,
    /// MESSAGE, for some queues.
    Messages,
    /// LIST and STAT of what is kept for every node.
    List,
    /// REMOVE.
    Remove,
}

impl Right {
    /// Every right.
    pub const ALL: [Self; 8] = [
        Self::Put,
        Self::Get,
        Self::Locate,
        Self::Mirror,
        Self::Transit,
        Self::Messages,
        Self::List,
        Self::Remove,
    ];

    /// The rights that allow a request where it is answered: each of them by itself. A refusal names the first. A peer that may have something kept
    /// may ask for its own leases, and prolong them.
    pub const fn of(request: &Request) -> &'static [Self] {
        match request {
            Request::Put(_) => &[Self::Put],
            Request::Fetch(_) => &[Self::Get],
            Request::Locate(_) => &[Self::Locate],
            Request::Mirror(_) => &[Self::Mirror],
            Request::List(List { scope: LeaseScope::All, .. })
            | Request::Stat(Stat { scope: LeaseScope::All, .. }) => &[Self::List],
            Request::List(_) | Request::Stat(_) => &[Self::List, Self::Put, Self::Mirror],
            Request::Remove(_) => &[Self::Remove],
            Request::Renew(_) => &[Self::Put, Self::Mirror],
        }
    }

    /// The name in refusals, metrics and configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Locate => "locate",
            Self::Mirror => "mirror",
            Self::Transit => "transit",
            Self::Messages => "messages",
            Self::List => "list",
            Self::Remove => "remove",
        }
    }

    /// The counter of what was refused because a peer lacks this right.
    pub const fn refused(self) -> Counter {
        match self {
            Self::Put => Counter::RightsRefusedPut,
            Self::Get => Counter::RightsRefusedGet,
            Self::Locate => Counter::RightsRefusedLocate,
            Self::Mirror => Counter::RightsRefusedMirror,
            Self::Transit => Counter::RightsRefusedTransit,
            Self::Messages => Counter::RightsRefusedMessages,
            Self::List => Counter::RightsRefusedList,
            Self::Remove => Counter::RightsRefusedRemove,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of rights.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RightSet(u8);

impl RightSet {
    /// Whether it has this right.
    #[inline]
    pub const fn contains(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }

    /// The rights in it.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contains(*right))
    }
}

impl FromIterator<Right> for RightSet {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | (1 << right as u8)))
    }
}

impl fmt::Debug for RightSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The queues to which a peer may send messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageQueues {
    /// Every queue.
    All,
    /// These queues.
    Listed(BTreeSet<u64>),
}

impl Default for MessageQueues {
    fn default() -> Self {
        Self::Listed(BTreeSet::new())
    }
}

/// How the store keeps the payloads of a peer. What is not given is as for every peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreTerms {
    /// The most bytes that are kept for the peer's node.
    pub quota_bytes: Option<u64>,
    /// The most payloads and sets that are kept for it.
    pub quota_entries: Option<u64>,
    /// The lease of its payloads where it names none, seconds; 0: without end.
    pub lease_default_s: Option<u64>,
}

/// What one peer may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The name of the section that gives it; `None`: no section does.
    pub section: Option<String>,
    /// The requests that it may make. [`Right::Messages`] is in [`Grant::queues`].
    pub allowed: RightSet,
    /// The queues that take its messages.
    pub queues: MessageQueues,
    /// How its payloads are kept.
    pub terms: StoreTerms,
}

impl Grant {
    /// Everything, on the terms of every peer.
    pub fn everything() -> Self {
        let allowed = Right::ALL.into_iter().collect();
        Self { allowed, queues: MessageQueues::All, ..Self::default() }
    }

    /// Whether it allows messages to this queue.
    #[inline]
    pub fn allows_messages(&self, queue: u64) -> bool {
        match &self.queues {
            MessageQueues::All => true,
            MessageQueues::Listed(queues) => queues.contains(&queue),
        }
    }
}

/// A class of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerClass {
    /// Peers that showed a trusted certificate.
    Authenticated,
    /// Every peer that may connect, with or without a certificate.
    Anyone,
}

/// The peers that a section names. A peer that any part of it names is meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedPeers {
    /// These nodes.
    pub nodes: BTreeSet<NodeId>,
    /// Nodes for whose certificates one of these authorities vouches.
    pub authorities: Vec<Authorities>,
    /// The nodes of a class that no section names by node ID or by authority.
    pub class: Option<PeerClass>,
}

/// Some peers, and what they may do.
#[derive(Clone, Debug, PartialEq)]
pub struct RightsSection {
    /// The peers.
    pub peers: NamedPeers,
    /// What each of them may do.
    pub grant: Arc<Grant>,
}

/// What each peer may do: see the module.
#[derive(Clone, Debug)]
pub struct Rights {
    sections: Vec<RightsSection>,
    /// The section of each node that one names.
    nodes: HashMap<NodeId, usize>,
    /// What a peer may do that no section names.
    others: Arc<Grant>,
}

impl Default for Rights {
    /// Every peer may do everything.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// By the sections.
impl PartialEq for Rights {
    fn eq(&self, other: &Self) -> bool {
        self.sections == other.sections
    }
}

impl Rights {
    /// The rights that these sections give. Peers that none of them names may do nothing; without a section every peer may do everything.
    /// Of several sections that name a node or a class in the same way, or whose authorities vouch for the same peer, the first one counts.
    pub fn new(sections: Vec<RightsSection>) -> Self {
        let mut nodes = HashMap::new();
        for (at, section) in sections.iter().enumerate() {
            section.peers.nodes.iter().for_each(|node| {
                nodes.entry(*node).or_insert(at);
            });
        }
        let others = Arc::new(if sections.is_empty() { Grant::everything() } else { Grant::default() });
        Self { sections, nodes, others }
    }

    /// The sections, in their order.
    pub fn sections(&self) -> &[RightsSection] {
        &self.sections
    }

    /// What this peer may do; `None`: a peer without a certificate. Costs a signature check for each certificate of the chain where a
    /// section has authorities and none names the node.
    pub fn of(&self, peer: Option<&PeerChain>) -> Arc<Grant> {
        let section = peer.and_then(|peer| self.special_to(peer)).or_else(|| {
            let of_class = |class| move |section: &&RightsSection| section.peers.class == Some(class);
            let authenticated = self.sections.iter().find(of_class(PeerClass::Authenticated));
            let authenticated = authenticated.filter(|_| peer.is_some());
            authenticated.or_else(|| self.sections.iter().find(of_class(PeerClass::Anyone)))
        });
        section.map_or(&self.others, |section| &section.grant).clone()
    }

    /// The section that names this peer by its node ID, or by an authority.
    fn special_to(&self, peer: &PeerChain) -> Option<&RightsSection> {
        let node = peer.node_id()?;
        let by_node = self.nodes.get(&node).and_then(|at| self.sections.get(*at));
        by_node.or_else(|| {
            let vouched = |section: &&RightsSection| {
                section.peers.authorities.iter().any(|authorities| authorities.vouch_for(peer))
            };
            self.sections.iter().find(vouched)
        })
    }
}

/// The rights that a worker goes by, and how often they have changed.
#[derive(Clone, Debug)]
pub struct RightsInForce {
    table: Arc<Rights>,
    number: u32,
}

impl RightsInForce {
    /// The first rights.
    pub fn new(table: Arc<Rights>) -> Self {
        Self { table, number: 1 }
    }

    /// Takes other rights. Equal ones change nothing.
    pub fn renew(&mut self, table: &Arc<Rights>) {
        if self.table != *table {
            self.table = table.clone();
            // 0 stands for rights that were not looked up.
            self.number = self.number.wrapping_add(1).max(1);
        }
    }

    /// The table.
    pub fn table(&self) -> &Rights {
        &self.table
    }

    /// The number of these rights, never 0. Others have another number.
    #[inline]
    pub fn number(&self) -> u32 {
        self.number
    }
}

#[cfg(test)]
mod tests;
