//! In the place of DPDK ports, in a build without DPDK: there is none.

use super::{LostPort, MemifMismatch};
use crate::nic::Offloads;
use crate::nic::interface::Interface;
use crate::node::ThreadSetup;

/// An open DPDK port. This build has none.
#[derive(Debug)]
pub enum NoPort {}

impl NoPort {
    pub(super) fn thread_setup(&self) -> ThreadSetup {
        match *self {}
    }

    /// Its device.
    pub fn device(&self) -> &str {
        match *self {}
    }

    /// The kernel's interface under the port, if there is one.
    pub fn interface(&self) -> Option<&Interface> {
        match *self {}
    }

    /// The device's offloads.
    pub fn offloads(&self) -> Offloads {
        match *self {}
    }

    /// What happened to the port from outside, if it carries nothing any more.
    pub fn lost(&self) -> Option<LostPort> {
        match *self {}
    }

    /// How a memif and its other side differ in their queues, if they do.
    pub fn mismatch(&self) -> Option<MemifMismatch> {
        match *self {}
    }

    /// Whether DPDK's memory lies in huge pages.
    pub fn huge_pages(&self) -> bool {
        match *self {}
    }

    /// The port's statistics by DPDK's names.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        match *self {}
    }
}
