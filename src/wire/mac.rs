//! Station addresses.

/// A station address.
pub type Mac = [u8; 6];

/// Whether `mac` names one station: no group, and not all zero.
pub fn is_unicast(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}
