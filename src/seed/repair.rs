//! Fetches payloads and lanes that were lost to damage from other holders: a MIRROR that this node asks of itself.

use super::app::Seed;
use super::mirror::Mirroring;
use super::{DamageOutcome, Moment};
use crate::limits::{EXPIRY_INTERVAL_MS, LOST_TOLD_LEN_MAX, REPAIR_INTERVAL_S, REPAIRS_LEN_MAX};
use crate::queue::{AppPort, Command, RequestId};
use crate::record::{Coverage, Mirror};
use crate::token::AnyToken;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// The repairs of one seed instance.
#[derive(Default)]
pub(super) struct Repairs {
    /// When to look for lost holdings; `None`: at once.
    look_at: Option<Instant>,
    /// The last token of the present round, which goes through all that are lost.
    after: Option<AnyToken>,
    begun: u64,
    running: BTreeMap<RequestId, AnyToken>,
    /// Tokens whose failed repair was logged.
    told: HashSet<AnyToken>,
}

impl Repairs {
    /// Looks at once for what was lost.
    pub(super) fn hurry(&mut self) {
        (self.look_at, self.after) = (None, None);
    }
}

impl Seed {
    /// Begins to fetch what was lost, if it is time to look, and a holder of it is known.
    pub(super) fn repair(&mut self, now: Instant, port: &mut AppPort) {
        if self.repairs.look_at.is_some_and(|at| at > now) {
            return;
        }
        let Moment { over_s, .. } = self.moment(now);
        self.repairs.look_at = Some(now + Duration::from_millis(EXPIRY_INTERVAL_MS));
        for _ in 0..REPAIRS_LEN_MAX {
            if self.repairs.running.len() >= REPAIRS_LEN_MAX {
                return;
            }
            let Some((token, lost)) = self.parts.store.lost_after(self.repairs.after, over_s) else {
                self.repairs.after = None;
                self.repairs.look_at = Some(now + Duration::from_secs(REPAIR_INTERVAL_S));
                return;
            };
            self.repairs.after = Some(token);
            let own = self.own();
            let holders = self.holders(now, &token);
            let holds = |coverage: &Coverage| match coverage {
                Coverage::All => true,
                Coverage::Lanes(lanes) => {
                    let lacks = lost.lanes.is_empty() || !lanes.intersection(lost.lanes).is_empty();
                    lacks && matches!(token, AnyToken::Set(_))
                }
                Coverage::None => false,
            };
            let others = holders.iter().filter(|holder| Some(holder.node) != own && holds(&holder.coverage));
            let sources: Vec<_> = others.map(|holder| holder.node).collect();
            let Some(lease) = lost.leases.first().copied().filter(|_| !sources.is_empty()) else { continue };
            if self.repairs.running.values().any(|running| *running == token) {
                continue;
            }
            for node in &sources {
                if !self.nodes.contains_key(node) {
                    self.send(port, Command::Reach(*node));
                }
            }
            self.repairs.begun += 1;
            let request = RequestId::own(self.repairs.begun);
            let mirror = Mirror { token, lanes: lost.lanes, lease_s: 0, sources };
            self.mirrors.insert(request, Mirroring::new(mirror, lease, now));
            self.repairs.running.insert(request, token);
        }
    }

    /// Notes that a repair has succeeded.
    pub(super) fn repaired(&mut self, request: RequestId, bytes: u64) {
        if let Some(token) = self.repairs.running.remove(&request) {
            self.repairs.told.remove(&token);
            let reason = format!("its {bytes} bytes were fetched from another holder");
            self.parts.store.note_damage(token, reason, DamageOutcome::Refetched);
        }
    }

    /// Notes that a repair has failed. It is tried again in the next round.
    pub(super) fn not_repaired(&mut self, request: RequestId, reason: &str) {
        let Some(token) = self.repairs.running.remove(&request) else { return };
        if self.repairs.told.len() >= LOST_TOLD_LEN_MAX {
            self.repairs.told.clear();
        }
        if self.repairs.told.insert(token) {
            tracing::warn!(%token, reason, "damaged, and it cannot be fetched from another holder now: it is tried again");
        }
    }
}
