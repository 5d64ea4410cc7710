//! A put over several connections: each carries its own lanes of one set, whose last lane makes the payload whole at the gateway.

use crate::session::Online;
use anyhow::bail;
use std::panic::resume_unwind;
use stoq::client::{AskOptions, Kept, Peer, Prepared, PutOptions};
use stoq::limits::SHARD_BYTES_MAX;
use stoq::record::Coverage;
use stoq::shard::{Coding, Descriptor, Lanes};
use stoq::tls::NodeId;
use tokio::sync::watch;

/// The most connections of a put. A store tries as often to add lanes to a set that others add lanes to.
const PUT_CONNECTIONS_MAX: usize = 8;

/// The lanes of each connection.
pub(crate) struct Spread {
    set: Descriptor,
    shares: Vec<Lanes>,
    /// The payload itself is put, and not lanes that the command line names.
    is_whole: bool,
}

impl Spread {
    /// Spreads a payload, or these lanes of its set, over this number of connections. `None` if one connection carries all.
    pub(crate) fn new(
        payload: &Prepared,
        (set, lanes): (Option<Descriptor>, Option<Lanes>),
        connections: usize,
    ) -> anyhow::Result<Option<Self>> {
        let most = connections.min(PUT_CONNECTIONS_MAX);
        let in_shards = payload.length.div_ceil(SHARD_BYTES_MAX).min(most as u64) as u8;
        if most < 2 || set.is_none() && in_shards < 2 {
            return Ok(None);
        }
        let without_parity = Coding::ReedSolomon { data_lanes: in_shards, parity: None };
        let is_whole = set.is_none();
        let set = match set {
            Some(set) => set,
            None => Descriptor::new(payload.token, payload.length, SHARD_BYTES_MAX, without_parity)?,
        };
        let lanes = lanes.unwrap_or(set.lanes());
        let share = |at: usize| lanes.iter().skip(at).step_by(most).collect::<Lanes>();
        let shares: Vec<_> = (0..most).map(share).filter(|share| !share.is_empty()).collect();
        Ok((shares.len() > 1).then_some(Self { set, shares, is_whole }))
    }

    /// The number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.shares.len()
    }

    /// Puts the lanes, each share on a thread and a connection of its own: to read and encode the bytes costs a core too. `progress` gets the bytes
    /// that are new. Returns whether the gateway had all of them, and its node.
    pub(crate) fn put(
        &self,
        online: &Online,
        payload: &Prepared,
        options: &PutOptions,
        progress: impl Fn(u64) + Sync,
    ) -> anyhow::Result<(Kept, Option<NodeId>)> {
        let (fail, failed) = watch::channel(false);
        let put = |lanes: Lanes| {
            let options = PutOptions { descriptor: Some(self.set), lanes: Some(lanes), ..options.clone() };
            let mut failed = failed.clone();
            let mut given = 0;
            let step = |bytes| progress(bytes - std::mem::replace(&mut given, bytes));
            let put = online.run(async |peer| {
                tokio::select! {
                    kept = peer.put_with(payload, options, step) => Ok(Some((kept?, peer.node()))),
                    // Without the share that failed the others are in vain.
                    _ = failed.wait_for(|failed| *failed) => Ok(None),
                }
            });
            put.inspect_err(|_| _ = fail.send_replace(true))
        };
        let shares = std::thread::scope(|scope| {
            let put = &put;
            let threads: Vec<_> = self.shares.iter().map(|&lanes| scope.spawn(move || put(lanes))).collect();
            let ends =
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            ends.collect::<anyhow::Result<Vec<_>>>()
        })?;
        if self.is_whole {
            online.run(async |peer| self.confirm(peer, payload, options).await)?;
        }
        let is_new = shares.iter().flatten().any(|(kept, _)| *kept == Kept::Now);
        let node = shares.into_iter().flatten().next().and_then(|(_, node)| node);
        Ok((if is_new { Kept::Now } else { Kept::Already }, node))
    }

    /// Asks whether the gateway holds the payload by its own token: it has confirmed lanes of a set.
    async fn confirm(&self, peer: &Peer, payload: &Prepared, options: &PutOptions) -> anyhow::Result<()> {
        let route = options.route.clone();
        let node = route.as_ref().map_or(peer.node(), |route| route.nodes().last().copied());
        let holders = peer.locate_with(payload.token, AskOptions { route }).await?;
        if holders.iter().any(|holder| Some(holder.node) == node && holder.coverage == Coverage::All) {
            return Ok(());
        }
        bail!("the gateway keeps the lanes and not the payload that they make; put it over one connection")
    }
}
