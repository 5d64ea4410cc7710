//! What makes a gateway a part of a fleet: the fleet's secret, the gateway's server ID, and the rotations of the keys.
//!
//! A rotation is a salt under a number that each connection ID shows. One rotation issues; the others are accepted. Rotating is three steps, and no
//! connection is lost by them: accept the new rotation at every gateway, let it issue, and remove the old one when no connection has its IDs.

use super::routable::{CID_ROTATION_MAX, ServerId};
use crate::limits::CID_ROTATION_KEPT_S;
use aws_lc_rs::hkdf;
use data_encoding::HEXLOWER;
use rand::{Rng, RngCore};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Octets of a fleet's secret.
pub const FLEET_SECRET_LEN: usize = 32;
/// Octets of a rotation's salt.
const SALT_LEN: usize = 16;

/// The secret that all gateways of a fleet have. Wiped when dropped.
#[derive(Clone)]
pub struct FleetSecret(Arc<Zeroizing<[u8; FLEET_SECRET_LEN]>>);

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret(..)")
    }
}

impl FleetSecret {
    /// A new secret from the operating system's generator.
    pub fn random() -> Self {
        let mut secret = Zeroizing::new([0; FLEET_SECRET_LEN]);
        rand::rng().fill_bytes(&mut *secret);
        Self::new(secret)
    }

    /// This secret.
    pub fn new(secret: Zeroizing<[u8; FLEET_SECRET_LEN]>) -> Self {
        Self(Arc::new(secret))
    }

    /// Reads a secret to the end of its file; `None`: the file has another length.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn read(mut file: impl Read) -> io::Result<Option<Self>> {
        let mut secret = Zeroizing::new([0; FLEET_SECRET_LEN]);
        match file.read_exact(&mut *secret) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok((file.read(&mut [0])? == 0).then(|| Self::new(secret)))
    }

    /// Writes the octets of the secret.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, mut file: impl Write) -> io::Result<()> {
        file.write_all(&**self.0)
    }

    /// A key of this secret.
    pub(super) fn derive<const LEN: usize>(
        &self,
        salt: RotationSalt,
        info: &[&[u8]],
    ) -> Zeroizing<[u8; LEN]> {
        struct Len(usize);
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        let key = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt.0).extract(&**self.0);
        let mut out = Zeroizing::new([0; LEN]);
        key.expand(info, Len(LEN)).and_then(|okm| okm.fill(&mut *out)).expect("HKDF has this length");
        out
    }
}

/// A text that is not the hexadecimal digits that belong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} are not {digits} hexadecimal digits of lower case; give {fix}")]
pub struct HexError {
    got: String,
    digits: usize,
    fix: &'static str,
}

fn from_hex<const LEN: usize>(text: &str, fix: &'static str) -> Result<[u8; LEN], HexError> {
    let octets = HEXLOWER.decode(text.as_bytes()).ok().and_then(|octets| octets.try_into().ok());
    octets.ok_or_else(|| HexError { got: text.chars().take(64).collect(), digits: 2 * LEN, fix })
}

impl FromStr for ServerId {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_hex(text, "each gateway of the fleet a number of its own, such as \"00002a\"").map(Self)
    }
}

/// The salt of a rotation, no secret. As text it is 32 hexadecimal digits of lower case, the only accepted form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RotationSalt(pub [u8; SALT_LEN]);

impl RotationSalt {
    /// A new salt.
    pub fn random() -> Self {
        Self(rand::rng().random())
    }
}

impl FromStr for RotationSalt {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_hex(text, "what `stoq-gateway fleet salt` prints").map(Self)
    }
}

/// Shows octets as hexadecimal digits, everywhere.
macro_rules! hex_text {
    ($name:ty) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_text!(ServerId);
hex_text!(RotationSalt);

/// Whether a rotation issues connection IDs and tokens, or those that it issued are only taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationState {
    /// It issues, and what it issued is taken.
    Issue,
    /// What it issued is taken.
    Accept,
}

/// One set of keys of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CidRotation {
    /// Its number, 0 to [`CID_ROTATION_MAX`], which every connection ID shows.
    pub number: u8,
    /// Its salt.
    pub salt: RotationSalt,
    /// Whether it issues.
    pub state: RotationState,
}

/// Why rotations cannot be used together, or not after those before them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// Not exactly one rotation issues.
    #[error("{0} rotations issue; let exactly one have state = \"issue\", and the others \"accept\"")]
    Issuing(usize),
    /// A number that the draft does not have.
    #[error("there is no rotation {0}; number them 0 to {CID_ROTATION_MAX}")]
    Number(u8),
    /// Two rotations have one number.
    #[error("rotation {0} is there twice; give each a number of its own")]
    Twice(u8),
    /// Two rotations have one salt, and so the same keys.
    #[error(
        "rotations {0} and {1} have the same salt, and so the same keys; `stoq-gateway fleet salt` makes another"
    )]
    SameSalt(u8, u8),
    /// The salt of a rotation in use is another one than before.
    #[error(
        "rotation {0} has another salt than before, and connections have IDs of it; give the new salt to a rotation of another number"
    )]
    Salted(u8),
    /// A rotation that was not accepted before would issue.
    #[error(
        "rotation {0} was not accepted before it issues, so other gateways may not know it; give it state = \"accept\" first, at every gateway, and \"issue\" in a later reload"
    )]
    NotAccepted(u8),
    /// A rotation is gone whose connection IDs may be in use.
    #[error(
        "rotation {number} issued until less than {CID_ROTATION_KEPT_S} s ago, and connections have IDs of it; keep it with state = \"accept\" for {left_s} s more"
    )]
    InUse {
        /// Its number.
        number: u8,
        /// After this time it may go, seconds.
        left_s: u64,
    },
}

/// The part of a gateway in a fleet: the fleet's secret, the gateway's number and the rotations.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    pub(super) secret: FleetSecret,
    pub(super) server_id: ServerId,
    pub(super) rotations: Vec<CidRotation>,
    /// The rotations that issued before, and until when.
    issued: Vec<(u8, Instant)>,
}

impl FleetSettings {
    /// These settings, at the start of a gateway.
    ///
    /// # Errors
    /// [`RotationError`]: the rotations do not go together.
    pub fn new(
        secret: FleetSecret,
        server_id: ServerId,
        rotations: Vec<CidRotation>,
    ) -> Result<Self, RotationError> {
        check_rotations(&rotations)?;
        Ok(Self { secret, server_id, rotations, issued: Vec::new() })
    }

    /// The same gateway with other rotations, while it runs: no connection is lost by them.
    ///
    /// # Errors
    /// [`RotationError`]: the rotations do not go together, or connections would be lost.
    pub fn rotated(&self, rotations: Vec<CidRotation>, now: Instant) -> Result<Self, RotationError> {
        check_rotations(&rotations)?;
        let new = |number| rotations.iter().find(|new| new.number == number);
        let mut issued = self.issued.clone();
        issued.retain(|(number, _)| new(*number).is_some_and(|new| new.state == RotationState::Accept));
        for old in &self.rotations {
            let is_issuing = old.state == RotationState::Issue;
            let until = if is_issuing { Some(now) } else { self.issued_until(old.number) };
            match (new(old.number), until) {
                (Some(new), _) if new.salt != old.salt => return Err(RotationError::Salted(old.number)),
                (Some(new), _) => {
                    if is_issuing && new.state == RotationState::Accept {
                        issued.push((old.number, now));
                    }
                }
                (None, Some(until)) => {
                    let kept = Duration::from_secs(CID_ROTATION_KEPT_S);
                    let left = kept.saturating_sub(now.saturating_duration_since(until));
                    if !left.is_zero() {
                        let left_s = left.as_secs().max(1);
                        return Err(RotationError::InUse { number: old.number, left_s });
                    }
                }
                (None, None) => {}
            }
        }
        let issuing = rotations.iter().find(|new| new.state == RotationState::Issue);
        let unknown = issuing.filter(|new| self.rotations.iter().all(|old| old.number != new.number));
        match unknown {
            Some(new) => Err(RotationError::NotAccepted(new.number)),
            None => Ok(Self { rotations, issued, ..self.clone() }),
        }
    }

    /// The gateway's number.
    pub fn server_id(&self) -> ServerId {
        self.server_id
    }

    /// The rotations.
    pub fn rotations(&self) -> &[CidRotation] {
        &self.rotations
    }

    /// Until when a rotation issued that only is accepted now.
    fn issued_until(&self, number: u8) -> Option<Instant> {
        self.issued.iter().find(|(issued, _)| *issued == number).map(|(_, until)| *until)
    }
}

/// Whether rotations can be used together.
///
/// # Errors
/// [`RotationError`], with the fix.
pub fn check_rotations(rotations: &[CidRotation]) -> Result<(), RotationError> {
    for (at, rotation) in rotations.iter().enumerate() {
        if rotation.number > CID_ROTATION_MAX {
            return Err(RotationError::Number(rotation.number));
        }
        for earlier in &rotations[..at] {
            if earlier.number == rotation.number {
                return Err(RotationError::Twice(rotation.number));
            }
            if earlier.salt == rotation.salt {
                return Err(RotationError::SameSalt(earlier.number, rotation.number));
            }
        }
    }
    let issuing = rotations.iter().filter(|rotation| rotation.state == RotationState::Issue).count();
    if issuing == 1 { Ok(()) } else { Err(RotationError::Issuing(issuing)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RotationState::{Accept, Issue};

    fn rotation(number: u8, state: RotationState) -> CidRotation {
        CidRotation { number, salt: RotationSalt([number; 16]), state }
    }

    fn started(rotations: &[CidRotation]) -> FleetSettings {
        let secret = FleetSecret::new(Zeroizing::new([1; 32]));
        FleetSettings::new(secret, ServerId([0, 0, 1]), rotations.to_vec()).unwrap()
    }

    #[test]
    fn texts_are_read_in_one_form_only_and_errors_say_which() {
        assert_eq!("0004d2".parse(), Ok(ServerId([0, 4, 0xd2])));
        assert_eq!(ServerId([0, 4, 0xd2]).to_string(), "0004d2");
        for wrong in ["", "4d2", "0004D2", "0004d2 ", "0004d200", "x004d2"] {
            let error = wrong.parse::<ServerId>().unwrap_err().to_string();
            assert!(
                error.contains("6 hexadecimal digits of lower case") && error.contains("00002a"),
                "{error}"
            );
        }
        let salt = RotationSalt::random();
        assert_eq!(salt.to_string().parse(), Ok(salt));
        let error = "00".parse::<RotationSalt>().unwrap_err().to_string();
        assert!(error.contains("32 hexadecimal digits") && error.contains("fleet salt"), "{error}");
    }

    #[test]
    fn a_secret_is_read_from_a_file_of_its_length_only() {
        let secret = FleetSecret::random();
        let mut file = Vec::new();
        secret.write(&mut file).unwrap();
        assert_eq!(file.len(), FLEET_SECRET_LEN);
        let read = FleetSecret::read(&file[..]).unwrap().unwrap();
        assert_eq!(**read.0, **secret.0);
        assert!(FleetSecret::read(&file[1..]).unwrap().is_none());
        file.push(b'\n');
        assert!(FleetSecret::read(&file[..]).unwrap().is_none());
    }

    #[test]
    fn rotations_that_do_not_go_together_are_refused_with_the_fix() {
        let same_salt = CidRotation { salt: RotationSalt([0; 16]), ..rotation(1, Accept) };
        let cases = [
            (vec![], RotationError::Issuing(0)),
            (vec![rotation(0, Accept)], RotationError::Issuing(0)),
            (vec![rotation(0, Issue), rotation(1, Issue)], RotationError::Issuing(2)),
            (vec![rotation(7, Issue)], RotationError::Number(7)),
            (vec![rotation(0, Issue), rotation(0, Accept)], RotationError::Twice(0)),
            (vec![rotation(0, Issue), same_salt], RotationError::SameSalt(0, 1)),
        ];
        for (rotations, error) in cases {
            assert_eq!(check_rotations(&rotations), Err(error));
        }
        assert_eq!(check_rotations(&[rotation(6, Accept), rotation(0, Issue)]), Ok(()));
    }

    #[test]
    fn a_rotation_takes_three_steps_and_none_can_be_left_out() {
        let now = Instant::now();
        let kept = Duration::from_secs(CID_ROTATION_KEPT_S);
        let first = started(&[rotation(0, Issue)]);
        let early = first.rotated(vec![rotation(0, Accept), rotation(1, Issue)], now);
        assert_eq!(early.unwrap_err(), RotationError::NotAccepted(1));
        let gone = first.rotated(vec![rotation(1, Issue)], now).unwrap_err();
        assert_eq!(gone, RotationError::InUse { number: 0, left_s: CID_ROTATION_KEPT_S });
        let salted = CidRotation { salt: RotationSalt([9; 16]), ..rotation(0, Issue) };
        assert_eq!(first.rotated(vec![salted], now).unwrap_err(), RotationError::Salted(0));

        let accepted = first.rotated(vec![rotation(0, Issue), rotation(1, Accept)], now).unwrap();
        let issued = accepted.rotated(vec![rotation(0, Accept), rotation(1, Issue)], now).unwrap();
        let soon = now + kept - Duration::from_secs(30);
        let again = issued.rotated(vec![rotation(0, Accept), rotation(1, Issue)], soon).unwrap();
        let refused = again.rotated(vec![rotation(1, Issue)], soon).unwrap_err();
        assert_eq!(refused, RotationError::InUse { number: 0, left_s: 30 });
        assert!(refused.to_string().contains("30 s more"), "{refused}");
        let last = again.rotated(vec![rotation(1, Issue)], now + kept).unwrap();
        assert_eq!(last.rotations(), [rotation(1, Issue)]);
        // A number that is free again may have a new salt. One that was only accepted may go at once.
        let other = CidRotation { salt: RotationSalt([9; 16]), ..rotation(0, Accept) };
        let reused = last.rotated(vec![rotation(1, Issue), other], now + kept).unwrap();
        reused.rotated(vec![rotation(1, Issue)], now + kept).unwrap();
    }

    #[test]
    fn a_rotation_that_issues_again_is_in_use_again() {
        let now = Instant::now();
        let kept = Duration::from_secs(CID_ROTATION_KEPT_S);
        let first = started(&[rotation(0, Issue), rotation(1, Accept)]);
        let swapped = first.rotated(vec![rotation(0, Accept), rotation(1, Issue)], now).unwrap();
        let back = swapped.rotated(vec![rotation(0, Issue), rotation(1, Accept)], now + kept).unwrap();
        let refused = back.rotated(vec![rotation(1, Issue)], now + 2 * kept).unwrap_err();
        assert!(matches!(refused, RotationError::InUse { number: 0, .. }), "{refused}");
        back.rotated(vec![rotation(0, Issue)], now + 2 * kept).unwrap();
    }
}
