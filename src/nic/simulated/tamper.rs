//! What a test does to stations while the link runs.

use super::{SimulatedLink, Switch};
use crate::wire::Mac;

/// Chooses the station for a frame to a router.
type Routing = Box<dyn FnMut(&[u8]) -> Mac + Send>;

/// A router on the link, which is no station.
pub(super) struct Router {
    mac: Mac,
    routing: Routing,
}

impl SimulatedLink {
    /// Loses all frames of the station `mac` from now on, though its device takes them.
    pub fn mute(&self, mac: Mac) {
        self.set_muted(mac, true);
    }

    /// Stops losing the frames of the station `mac`.
    pub fn unmute(&self, mac: Mac) {
        self.set_muted(mac, false);
    }

    fn set_muted(&self, mac: Mac, muted: bool) {
        if let Some(port) = self.lock().stations.iter_mut().find(|port| port.mac == mac) {
            port.muted = muted;
        }
    }

    /// Has the device of the station `mac` take no frames, as one that a switch pauses.
    pub fn hold(&self, mac: Mac) {
        self.set_held(mac, true);
    }

    /// Has the device of the station `mac` take frames again.
    pub fn release(&self, mac: Mac) {
        self.set_held(mac, false);
    }

    fn set_held(&self, mac: Mac, held: bool) {
        if let Some(port) = self.lock().stations.iter_mut().find(|port| port.mac == mac) {
            port.held = held;
        }
    }

    /// Puts a router at `mac`, in the place of an earlier one: what is sent there goes on to the station that it chooses for a frame.
    pub fn route(&self, mac: Mac, routing: impl FnMut(&[u8]) -> Mac + Send + 'static) {
        self.lock().router = Some(Router { mac, routing: Box::new(routing) });
    }
}

impl Switch {
    /// The station or group that a frame is for; none for a frame that is too short. A router writes the station into the frame.
    pub(super) fn destination(&mut self, frame: &mut [u8]) -> Option<Mac> {
        let destination = *frame.first_chunk()?;
        let Some(router) = self.router.as_mut().filter(|router| router.mac == destination) else {
            return Some(destination);
        };
        let chosen = (router.routing)(frame);
        *frame.first_chunk_mut()? = chosen;
        Some(chosen)
    }
}
