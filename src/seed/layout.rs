//! The names and kinds of a store's files, and the hash pairs of lanes.

use crate::limits::GROUP_BYTES;
use crate::shard::{Blob, Descriptor, Lanes, Part};
use crate::token::{AnyToken, PAIR_BYTES, Ranges, SetToken, Token, outboard_bytes};
use smallvec::SmallVec;
use std::path::Path;

pub(super) const BLOB: &str = "blob";
pub(super) const OUTBOARD: &str = "obao";
/// Kinds of the layout before the database: leases, and descriptors of sets.
pub(super) const META: &str = "meta";
pub(super) const SET: &str = "set";

/// The directory of whole payloads, and the kinds of files there.
pub(super) const DATA: &str = "data";
pub(super) const DATA_KINDS: [&str; 3] = [BLOB, OUTBOARD, META];
/// The directory of sets, and the kinds of files there.
pub(super) const SETS: &str = "sets";
pub(super) const SET_KINDS: [&str; 6] = [SET, META, "content", "content.obao", "parity", "parity.obao"];

/// The kinds of the files that a token may have now.
pub(super) fn kinds(token: &AnyToken) -> &'static [&'static str] {
    match token {
        AnyToken::Content(_) => &DATA_KINDS[..2],
        AnyToken::Set(_) => &SET_KINDS[2..],
    }
}

/// The path of a file in the store's directory.
pub(super) fn path(token: &AnyToken, kind: &str) -> String {
    let (directory, hex) = place(token);
    format!("{directory}/{}/{hex}.{kind}", &hex[..2])
}

/// The token and the kind of such a path.
pub(super) fn of_path(path: &str) -> Option<(AnyToken, &str)> {
    let (directory, rest) = path.split_once('/')?;
    named(directory, Path::new(rest))
}

/// The kinds of the files that hold some lanes of a blob.
pub(super) const fn lane_kinds(blob: Blob) -> (&'static str, &'static str) {
    match blob {
        Blob::Content => ("content", "content.obao"),
        Blob::Parity => ("parity", "parity.obao"),
    }
}

/// The directory and the hex digits of a token's files.
pub(super) fn place(token: &AnyToken) -> (&'static str, String) {
    match token {
        AnyToken::Content(token) => (DATA, token.hex()),
        AnyToken::Set(token) => (SETS, token.hex()),
    }
}

/// The token and the kind in the name of a file under `directory`.
pub(super) fn named<'a>(directory: &str, path: &'a Path) -> Option<(AnyToken, &'a str)> {
    let (hex, kind) = path.file_name()?.to_str()?.split_once('.')?;
    match directory {
        DATA if DATA_KINDS.contains(&kind) => {
            let token: Token = format!("b3:{hex}").parse().ok()?;
            Some((token.into(), kind))
        }
        SETS if SET_KINDS.contains(&kind) => {
            let token: SetToken = format!("set:{hex}").parse().ok()?;
            Some((token.into(), kind))
        }
        _ => None,
    }
}

/// Reads a `.set` file of the layout before the database: the bitmap of the lanes in the set's own files, then the descriptor. `None` if it does
/// not belong to this set.
pub(super) fn parse_set(token: &SetToken, mut bytes: &[u8]) -> Option<(Descriptor, Lanes)> {
    let own = Lanes::take(&mut bytes)?;
    let descriptor = Descriptor::parse(bytes).ok()?;
    let ours = SetToken::of(bytes) == *token && descriptor.lanes().contains_all(own);
    ours.then_some((descriptor, own))
}

/// The kinds of the files of a set with these lanes in its own files.
pub(super) fn kinds_of_set(descriptor: &Descriptor, own: Lanes) -> impl Iterator<Item = &'static str> {
    let parts = parts_of(descriptor, own).into_iter();
    parts.flat_map(|part| <[&str; 2]>::from(lane_kinds(part.blob)))
}

/// The parts of a set's blobs that `lanes` cover in all stripes.
pub(super) fn parts_of(descriptor: &Descriptor, lanes: Lanes) -> SmallVec<[Part; 2]> {
    let lanes = lanes.intersection(descriptor.lanes());
    // No lane past the set's is named, and no stripe past the last: there is no error.
    descriptor.parts(lanes, &Ranges::all()).unwrap_or_default()
}

/// The token and the length of a blob of a set, bytes; `None` for the parity of a set that has none.
pub(super) fn blob(descriptor: &Descriptor, blob: Blob) -> Option<(Token, u64)> {
    match blob {
        Blob::Content => Some((descriptor.content(), descriptor.length_bytes())),
        Blob::Parity => Some((descriptor.parity_token()?, descriptor.parity_length())),
    }
}

/// The lanes of one blob of a set.
pub(super) fn lanes_of(descriptor: &Descriptor, blob: Blob) -> Lanes {
    let data = Lanes::first(descriptor.k().into());
    match blob {
        Blob::Content => data,
        Blob::Parity => descriptor.lanes().without(data),
    }
}

/// The hash pairs above a part's groups, bytes: an upper bound, which for several lanes together is never above the sum of their own.
pub(super) fn pairs_bytes(descriptor: &Descriptor, part: &Part, lanes: Lanes) -> u64 {
    let whole = outboard_bytes(part.length);
    if part.bytes == part.length {
        return whole;
    }
    let shard_groups = descriptor.shard_bytes() / GROUP_BYTES as u64;
    let groups = part.length.div_ceil(GROUP_BYTES as u64);
    // Lanes past the last shard have no bytes.
    let shards = part.length.div_ceil(descriptor.shard_bytes());
    let (mut pairs, mut span) = (0u64, 2u64);
    // Level by level: each pair of a level spans the same number of groups.
    while span / 2 < groups {
        let unaligned = u64::from(!shard_groups.is_multiple_of(span));
        let a_stripe: u64 = lane_runs(descriptor, part.blob, lanes)
            .filter(|(first, _)| *first < shards)
            .map(|(first, len)| (len.min(shards - first) * shard_groups).div_ceil(span) + unaligned)
            .sum();
        pairs += groups.div_ceil(span).min(descriptor.stripes().saturating_mul(a_stripe));
        span *= 2;
    }
    whole.min(pairs.saturating_mul(PAIR_BYTES as u64))
}

/// Runs of neighboring lanes among those of one blob: the first lane's place in a stripe, and the number of lanes.
pub(super) fn lane_runs(
    descriptor: &Descriptor,
    blob: Blob,
    lanes: Lanes,
) -> impl Iterator<Item = (u64, u64)> + use<> {
    let mut left = match blob {
        Blob::Content => lanes.data_bits(descriptor.k()),
        Blob::Parity => lanes.parity_bits(descriptor.k()),
    };
    std::iter::from_fn(move || {
        let start = left.trailing_zeros();
        let len = left.checked_shr(start)?.trailing_ones();
        // Shifted in two steps: one shift by 64 is not defined.
        left &= u64::MAX.checked_shl(start + len).unwrap_or(0);
        Some((start.into(), len.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Coding;

    proptest::proptest! {
        #[test]
        fn every_token_has_a_name_of_hexadecimal_digits_alone(hash: [u8; 32]) {
            for (token, directory) in
                [(Token::from_root(hash).into(), DATA), (SetToken::from_hash(hash).into(), SETS)]
            {
                let (kind, name) = place(&token);
                assert_eq!((kind, name.len()), (directory, 64));
                assert!(name.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)));
                let file = format!("{name}.{META}");
                assert_eq!(named(kind, Path::new(&file)), Some((token, META)));
            }
        }
    }

    #[test]
    fn lanes_make_runs() {
        let parity = Some((64, Token::of(b"parity")));
        let descriptor =
            Descriptor::new(Token::of(b""), 1 << 30, 1 << 14, Coding::ReedSolomon { data_lanes: 64, parity })
                .unwrap();
        let runs =
            |blob, lanes: &str| -> Vec<_> { lane_runs(&descriptor, blob, lanes.parse().unwrap()).collect() };
        assert_eq!(runs(Blob::Content, "0-63"), [(0, 64)]);
        assert_eq!(runs(Blob::Content, "0,2-3,63"), [(0, 1), (2, 2), (63, 1)]);
        assert_eq!(runs(Blob::Parity, "0,2-3,63"), []);
        assert_eq!(runs(Blob::Parity, "63-65,127"), [(0, 2), (63, 1)]);
    }
}
