//! SETTINGS: a side's roles and bounds; first on its CONTROL stream.

use super::{Record, RecordError, RecordType, varint};
use crate::limits::SETTINGS_LEN_MAX;
use smallvec::SmallVec;

/// SETTINGS: `{ id(i) value(i) }*`. A setting that is absent leaves its default; unknown ids are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The longest record body that the sender takes, bytes.
    pub record_bytes_max: Option<u64>,
    /// The longest route that the sender takes, hops.
    pub hops_max: Option<u64>,
    /// The most ranges that the sender takes in one FETCH.
    pub ranges_max: Option<u64>,
    /// The most requests that the sender takes at once on this connection.
    pub inflight_max: Option<u64>,
    /// The sender's roles, as bits: [`Settings::ROLE_SEED`], [`Settings::ROLE_ROUTE`].
    pub roles: Option<u64>,
    /// 1: the sender takes halves of streams that are carried on by others.
    pub continued: Option<u64>,
    /// 1: the sender takes LIST, STAT, REMOVE and RENEW.
    pub leases: Option<u64>,
}

impl Settings {
    /// The id of [`Settings::record_bytes_max`].
    pub const MAX_RECORD: u64 = 0x01;
    /// The id of [`Settings::hops_max`].
    pub const MAX_HOPS: u64 = 0x02;
    /// The id of [`Settings::ranges_max`].
    pub const MAX_RANGES: u64 = 0x03;
    /// The id of [`Settings::inflight_max`].
    pub const MAX_INFLIGHT: u64 = 0x04;
    /// The id of [`Settings::roles`].
    pub const ROLES: u64 = 0x05;
    /// The id of [`Settings::continued`].
    pub const CONTINUED: u64 = 0x06;
    /// The id of [`Settings::leases`].
    pub const LEASES: u64 = 0x07;

    /// Role: keeps payloads and serves them.
    pub const ROLE_SEED: u64 = 1;
    /// Role: routes for its peers.
    pub const ROLE_ROUTE: u64 = 2;

    fn slot(&mut self, id: u64) -> Option<&mut Option<u64>> {
        Some(match id {
            Self::MAX_RECORD => &mut self.record_bytes_max,
            Self::MAX_HOPS => &mut self.hops_max,
            Self::MAX_RANGES => &mut self.ranges_max,
            Self::MAX_INFLIGHT => &mut self.inflight_max,
            Self::ROLES => &mut self.roles,
            Self::CONTINUED => &mut self.continued,
            Self::LEASES => &mut self.leases,
            _ => return None,
        })
    }

    fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        [
            (Self::MAX_RECORD, self.record_bytes_max),
            (Self::MAX_HOPS, self.hops_max),
            (Self::MAX_RANGES, self.ranges_max),
            (Self::MAX_INFLIGHT, self.inflight_max),
            (Self::ROLES, self.roles),
            (Self::CONTINUED, self.continued),
            (Self::LEASES, self.leases),
        ]
        .into_iter()
        .filter_map(|(id, value)| value.map(|value| (id, value)))
    }
}

impl Record for Settings {
    const TYPE: RecordType = RecordType::Settings;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let mut settings = Self::default();
        let mut seen: SmallVec<[u64; 16]> = SmallVec::new();
        while !body.is_empty() {
            let id = varint::read(&mut body, "setting id")?;
            let value = varint::read(&mut body, "setting value")?;
            if seen.contains(&id) {
                return Err(RecordError::DuplicateSetting(id));
            }
            if seen.len() == SETTINGS_LEN_MAX {
                return Err(RecordError::TooMany { what: "settings", max: SETTINGS_LEN_MAX as u64 });
            }
            seen.push(id);
            if let Some(slot) = settings.slot(id) {
                *slot = Some(value);
            }
        }
        Ok(settings)
    }

    fn emit(&self, out: &mut Vec<u8>) {
        for (id, value) in self.pairs() {
            varint::write(id, out);
            varint::write(value, out);
        }
    }

    fn encoded_len(&self) -> usize {
        self.pairs().map(|(id, value)| varint::encoded_len(id) + varint::encoded_len(value)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_are_ignored_and_duplicates_refused() {
        let settings = Settings::parse(&[0x05, 0x01, 0x21, 0x09]).unwrap();
        assert_eq!(settings, Settings { roles: Some(1), ..Default::default() });
        assert_eq!(Settings::parse(&[5, 1, 5, 1]), Err(RecordError::DuplicateSetting(5)));
        assert_eq!(Settings::parse(&[0x21, 1, 0x40, 0x21, 1]), Err(RecordError::DuplicateSetting(0x21)));
    }

    #[test]
    fn the_number_of_settings_is_bounded() {
        let body: Vec<u8> = (0..=SETTINGS_LEN_MAX as u8).flat_map(|id| [id & 0x3f | 0x40, id, 0]).collect();
        assert!(Settings::parse(&body).is_err());
    }
}
