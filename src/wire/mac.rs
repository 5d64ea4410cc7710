//! Station addresses.

use std::fmt;
use std::str::FromStr;

/// A station address.
pub type Mac = [u8; 6];

/// The address of one station as an operator writes it, such as `02:00:00:00:00:fe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StationAddress(Mac);

/// A text that is no address of one station.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address of one station: write six bytes in hexadecimal digits, the first of them even, such as 02:00:00:00:00:fe"
)]
pub struct StationAddressError(String);

impl StationAddress {
    /// Its bytes.
    pub const fn mac(self) -> Mac {
        self.0
    }
}

impl FromStr for StationAddress {
    type Err = StationAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = |part: &str| u8::from_str_radix(Some(part).filter(is_byte)?, 16).ok();
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let mac = bytes.and_then(|bytes| Mac::try_from(bytes).ok()).filter(|&mac| is_unicast(mac));
        mac.map(Self).ok_or_else(|| StationAddressError(text.to_owned()))
    }
}

impl TryFrom<String> for StationAddress {
    type Error = StationAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StationAddress> for String {
    fn from(station: StationAddress) -> Self {
        station.to_string()
    }
}

impl fmt::Display for StationAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

/// Whether `mac` names one station: no group, and not all zero.
pub fn is_unicast(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_reads_back_and_groups_and_other_texts_are_refused() {
        let station: StationAddress = "02:00:5E:00:00:fe".parse().unwrap();
        assert_eq!(station.mac(), [2, 0, 0x5e, 0, 0, 0xfe]);
        assert_eq!(station.to_string().parse(), Ok(station));
        for text in [
            "",
            "02:00:5e:00:00",
            "02:00:5e:00:00:fe:00",
            "2:0:5e:0:0:fe",
            "+2:00:5e:00:00:fe",
            "01:00:5e:00:00:fe",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(text.parse::<StationAddress>(), Err(StationAddressError(text.into())));
        }
    }
}
