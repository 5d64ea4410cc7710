//! Receive-side scaling by a key and a table of ours.

use dpdk_sys as sys;

use crate::settings::RssInfo;

/// What is asked of a port that is to be configured.
pub(crate) fn asked(key: Option<[u8; sys::RSS_KEY_BYTES]>) -> sys::Rss {
    let key = key.unwrap_or([0; sys::RSS_KEY_BYTES]);
    sys::Rss { key, key_len: 0, ports: 0, own_key: 0, reserved: 0, table_len: 0 }
}

/// Sets the table of a port that is started, and was configured with `rss`; gives what the device uses.
pub(crate) fn set(port: u16, queues: u16, rss: &mut sys::Rss) -> RssInfo {
    // SAFETY: the function only calls the driver of the port with this number, if there is one, and `rss` is valid for reads and writes.
    unsafe { sys::stoq_port_rss(port, queues, rss) };
    RssInfo {
        ports: rss.ports != 0,
        own_key: rss.own_key != 0,
        table_len: (rss.table_len != 0).then_some(rss.table_len),
    }
}
