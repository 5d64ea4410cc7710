//! The rights of peers: who may ask for what, and on which terms payloads are kept.

use super::ConfigError;
use super::check::ConfigCheck;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use stoq::peer_text::is_plain;
use stoq::rights::{Grant, MessageQueues, NamedPeers, PeerClass, Right, StoreTerms};
use stoq::tls::NodeId;

/// Some peers, and what they may do. The section that is most special to a peer counts, alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RightsConfig {
    /// Its name in logs and in `/status`.
    pub name: String,
    /// Peers by node ID.
    #[serde(default)]
    pub node_ids: Vec<NodeId>,
    /// Peers by PEM files with certificates of their authorities.
    #[serde(default)]
    pub authorities: Vec<PathBuf>,
    /// All other peers of a class.
    pub peers: Option<PeersConfig>,
    /// The requests that they may make.
    pub allow: AllowConfig,
    /// The queues to which they may send messages; none: every queue with `allow = "all"`, else no queue.
    pub queues: Option<QueuesConfig>,
    /// Bytes that the store may keep for each of them; none: as the seed's key of this name says.
    pub quota_bytes: Option<u64>,
    /// Payloads and sets that the store may keep for each of them; none: as the seed's key of this name says.
    pub quota_entries: Option<u64>,
    /// The lease of payloads where the peer names none, seconds; 0: without end; none: as the seed's key of this name says.
    pub lease_default_s: Option<u64>,
}

/// A class of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeersConfig {
    /// Peers that showed a trusted certificate.
    Authenticated,
    /// Every peer that may connect.
    Anyone,
}

/// The word for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Everything {
    /// Everything.
    All,
}

/// A request that may be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RightConfig {
    /// PUT.
    Put,
    /// FETCH.
    Get,
    /// LOCATE.
    Locate,
    /// MIRROR.
    Mirror,
    /// Requests that are forwarded.
    Transit,
    /// LIST and STAT of what is kept for every node.
    List,
    /// REMOVE.
    Remove,
}

/// The requests that are allowed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`allow` is \"all\", or a list of \"put\", \"get\", \"locate\", \"mirror\", \"transit\", \"list\", \"remove\""
)]
pub enum AllowConfig {
    /// Every request.
    All(Everything),
    /// These requests.
    Listed(Vec<RightConfig>),
}

/// The queues that take messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "`queues` is \"all\", or a list of queue numbers")]
pub enum QueuesConfig {
    /// Every queue.
    All(Everything),
    /// These queues.
    Listed(Vec<u64>),
}

impl From<RightConfig> for Right {
    fn from(right: RightConfig) -> Self {
        match right {
            RightConfig::Put => Self::Put,
            RightConfig::Get => Self::Get,
            RightConfig::Locate => Self::Locate,
            RightConfig::Mirror => Self::Mirror,
            RightConfig::Transit => Self::Transit,
            RightConfig::List => Self::List,
            RightConfig::Remove => Self::Remove,
        }
    }
}

impl RightsConfig {
    /// The peers that it names, without its authorities.
    pub fn named(&self) -> NamedPeers {
        let class = self.peers.map(|peers| match peers {
            PeersConfig::Authenticated => PeerClass::Authenticated,
            PeersConfig::Anyone => PeerClass::Anyone,
        });
        NamedPeers { nodes: self.node_ids.iter().copied().collect(), authorities: Vec::new(), class }
    }

    /// What it gives to each of them.
    pub fn grant(&self) -> Grant {
        let (allowed, queues) = match &self.allow {
            AllowConfig::All(_) => (Right::ALL.into_iter().collect(), MessageQueues::All),
            AllowConfig::Listed(rights) => {
                (rights.iter().copied().map(Right::from).collect(), MessageQueues::default())
            }
        };
        let queues = match &self.queues {
            None => queues,
            Some(QueuesConfig::All(_)) => MessageQueues::All,
            Some(QueuesConfig::Listed(queues)) => MessageQueues::Listed(queues.iter().copied().collect()),
        };
        let terms = StoreTerms {
            quota_bytes: self.quota_bytes,
            quota_entries: self.quota_entries,
            lease_default_s: self.lease_default_s,
        };
        Grant { section: Some(self.name.clone()), allowed, queues, terms }
    }
}

/// What a section allows, for people: `get locate`, `put, messages to queues 1 2`.
pub fn allowed_by(grant: &Grant) -> String {
    let requests = grant.allowed.iter().filter(|right| *right != Right::Messages);
    let requests: Vec<_> = requests.map(Right::name).collect();
    let messages = match &grant.queues {
        MessageQueues::All => "messages".to_owned(),
        MessageQueues::Listed(queues) if queues.is_empty() => String::new(),
        MessageQueues::Listed(queues) => {
            let queues: Vec<_> = queues.iter().map(ToString::to_string).collect();
            ["messages to queues", &queues.join(" ")].join(" ")
        }
    };
    match (requests.join(" "), messages) {
        (requests, messages) if requests.is_empty() && messages.is_empty() => "nothing".to_owned(),
        (requests, messages) if messages.is_empty() => requests,
        (requests, messages) if requests.is_empty() => messages,
        (requests, messages) => format!("{requests}, {messages}"),
    }
}

impl ConfigCheck<'_> {
    /// Refuses sections that name no peer, or one that another section names in the same way: none of both would count.
    pub(super) fn rights(&self, sections: &[RightsConfig]) -> Result<(), ConfigError> {
        let (mut names, mut nodes, mut classes) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for RightsConfig { name, node_ids, authorities, peers, .. } in sections {
            if name.is_empty() || name.contains(' ') || !name.chars().all(is_plain) {
                let fix = format!(
                    "{name:?} is empty, or has spaces or letters that are not seen; give one word, such as \"readers\""
                );
                return Err(self.value("rights.name", fix));
            }
            if !names.insert(name) {
                let fix = format!("two sections are called {name:?}; rename one");
                return Err(self.value("rights.name", fix));
            }
            if node_ids.is_empty() && authorities.is_empty() && peers.is_none() {
                let fix = format!(
                    "{name:?} names no peer; give node_ids, authorities, or peers = \"authenticated\" or \"anyone\""
                );
                return Err(self.value("rights", fix));
            }
            if let Some(twice) = node_ids.iter().find(|node| !nodes.insert(**node)) {
                let fix = format!("{twice} has rights twice; name it in one section, since one counts");
                return Err(self.value("rights.node_ids", fix));
            }
            if peers.is_some_and(|class| classes.contains(&class)) {
                let fix = "two sections are for the same peers; remove one, since one counts";
                return Err(self.value("rights.peers", fix));
            }
            classes.extend(*peers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(keys: &str) -> RightsConfig {
        toml::from_str(&format!("name = \"x\"\n{keys}")).unwrap()
    }

    #[test]
    fn a_section_gives_what_it_lists_and_everything_by_one_word() {
        for (keys, allowed) in [
            ("allow = [\"get\", \"locate\"]", "get locate"),
            ("allow = [\"put\"]\nqueues = [1, 2]", "put, messages to queues 1 2"),
            ("allow = []\nqueues = \"all\"", "messages"),
            ("allow = []", "nothing"),
            ("allow = \"all\"", "put get locate mirror transit list remove, messages"),
            ("allow = \"all\"\nqueues = []", "put get locate mirror transit list remove"),
        ] {
            assert_eq!(allowed_by(&section(keys).grant()), allowed, "{keys}");
        }
    }

    #[test]
    fn a_word_that_is_no_right_is_refused_with_those_that_are() {
        for (keys, part) in [
            ("allow = [\"fetch\"]", "`allow` is \"all\", or a list of \"put\", \"get\""),
            ("allow = [\"get\"]\nqueues = \"none\"", "`queues` is \"all\", or a list of queue numbers"),
        ] {
            let error = toml::from_str::<RightsConfig>(&format!("name = \"x\"\n{keys}")).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
