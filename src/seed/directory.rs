//! The holdings of peer gateways, as they announce them (protocol §6).

use crate::limits::{DIRECTORY_LEN_MAX, HOLDERS_LEN_MAX};
use crate::queue::ConnectionId;
use crate::record::{Coverage, Have, Holder};
use crate::tls::NodeId;
use crate::token::AnyToken;
use std::collections::HashMap;

/// The holdings of peer gateways that this node knows. A node's announcements count until the connection that carried them ends.
#[derive(Debug, Default)]
pub struct Directory {
    nodes: HashMap<NodeId, Told>,
}

#[derive(Debug)]
struct Told {
    connection: ConnectionId,
    holds: HashMap<AnyToken, (Coverage, Option<u64>)>,
}

impl Directory {
    /// Notes a node's announcement at `now_s`, seconds. Past [`DIRECTORY_LEN_MAX`] holdings of one node, further ones are ignored.
    pub fn heard(&mut self, connection: ConnectionId, node: NodeId, have: &Have, now_s: u64) {
        let new = || Told { connection, holds: HashMap::default() };
        let told = self.nodes.entry(node).or_insert_with(new);
        if told.connection != connection {
            *told = new();
        }
        if have.coverage == Coverage::None {
            told.holds.remove(&have.token);
        } else if told.holds.len() < DIRECTORY_LEN_MAX || told.holds.contains_key(&have.token) {
            let expires_s = (have.lease_s > 0).then(|| now_s.saturating_add(have.lease_s));
            told.holds.insert(have.token, (have.coverage, expires_s));
        }
    }

    /// Forgets the announcements of a connection that has ended.
    pub fn closed(&mut self, connection: ConnectionId) {
        self.nodes.retain(|_, told| told.connection != connection);
    }

    /// The holders of `token` at `now_s`, seconds; at most [`HOLDERS_LEN_MAX`].
    pub fn holders(&self, token: &AnyToken, now_s: u64) -> Vec<Holder> {
        let held = self.nodes.iter().filter_map(|(node, told)| {
            let (coverage, expires_s) = *told.holds.get(token)?;
            let left_s = expires_s.map(|at| at.saturating_sub(now_s));
            (left_s != Some(0)).then_some(Holder { node: *node, coverage, expires_s: left_s.unwrap_or(0) })
        });
        held.take(HOLDERS_LEN_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Lanes;
    use crate::token::{SetToken, Token};

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId { worker: 0, slot, generation: 1 }
    }

    fn have(token: impl Into<AnyToken>, coverage: Coverage, lease_s: u64) -> Have {
        Have { token: token.into(), coverage, lease_s }
    }

    #[test]
    fn two_directories_hash_one_node_and_one_token_differently() {
        use std::hash::BuildHasher;
        let (node, token) = (NodeId([1; 32]), AnyToken::from(Token::of(b"a")));
        let hashes = [1, 2].map(|slot| {
            let mut directory = Directory::default();
            directory.heard(connection(slot), node, &have(Token::of(b"a"), Coverage::All, 10), 100);
            let holds = &directory.nodes[&node].holds;
            (directory.nodes.hasher().hash_one(node), holds.hasher().hash_one(token))
        });
        assert!(hashes[0].0 != hashes[1].0 && hashes[0].1 != hashes[1].1, "peers could choose what collides");
    }

    #[test]
    fn an_announcement_counts_until_it_is_withdrawn_expires_or_its_connection_ends() {
        let (mut directory, node) = (Directory::default(), NodeId([1; 32]));
        let (payload, set) = (Token::of(b"a"), SetToken::of(b"b"));
        let lanes = Coverage::Lanes(Lanes::one(2));
        directory.heard(connection(1), node, &have(payload, Coverage::All, 10), 100);
        directory.heard(connection(1), node, &have(set, lanes, 0), 100);
        let all = Holder { node, coverage: Coverage::All, expires_s: 10 };
        assert_eq!(directory.holders(&payload.into(), 100), [all]);
        assert_eq!(directory.holders(&payload.into(), 110), []);
        assert_eq!(directory.holders(&set.into(), 1_000)[0].coverage, lanes);
        directory.heard(connection(1), node, &have(set, Coverage::None, 0), 100);
        assert_eq!(directory.holders(&set.into(), 100), []);
        // A node that connects again announces everything again.
        directory.heard(connection(2), node, &have(set, lanes, 0), 100);
        assert_eq!(directory.holders(&payload.into(), 100), []);
        directory.closed(connection(1));
        assert_eq!(directory.holders(&set.into(), 100).len(), 1);
        directory.closed(connection(2));
        assert_eq!(directory.holders(&set.into(), 100), []);
    }
}
