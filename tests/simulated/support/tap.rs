//! An observer on the wire, which keeps the frames to a station and can send them again.

use super::World;
use std::sync::{Arc, Mutex};
use stoq::nic::{Nic, TxKind};
use stoq::wire::Mac;

/// The frames that passed.
#[derive(Clone, Default)]
pub(crate) struct Tap(Arc<Mutex<Vec<Vec<u8>>>>);

impl Tap {
    /// Keeps the frames to this station, which has one queue, from now on.
    pub(crate) fn on(world: &World, mac: Mac) -> Self {
        let tap = Self::default();
        let frames = tap.0.clone();
        world.link.steer(mac, move |frame, _| {
            frames.lock().unwrap().push(frame.to_vec());
            0
        });
        tap
    }

    /// Takes the frames kept so far.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Puts frames on the wire, unchanged.
pub(crate) fn replay(world: &World, frames: &[Vec<u8>]) {
    let mut nic = world.link.add_station([2, 0, 0, 0, 0, 200], 1).remove(0);
    for frame in frames {
        assert!(nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(frame)));
    }
    nic.tx_flush(world.now);
}
