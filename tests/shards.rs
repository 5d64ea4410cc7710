//! Sets: coding and lanes.

mod data;

use data::payload;
use proptest::prelude::*;
use stoq::limits::GROUP_BYTES;
use stoq::shard::{Blob, Coded, CoderError, Coding, Lanes, StripeDecoder, encode};
use stoq::token::{EncodedPiece, Outboard, Ranges, Token, VerifiedDecoder, VerifiedEncoder};

fn coded(data: &[u8], shard_bytes: u64, k: u8, m: u8) -> (Coded, Vec<u8>) {
    let mut parity = Vec::new();
    let coded = encode(data, data.len() as u64, shard_bytes, (k, m), &mut parity).unwrap();
    (coded, parity)
}

/// The shard of a lane as it is stored.
fn shard<'a>(coded: &Coded, data: &'a [u8], parity: &'a [u8], lane: u8, stripe: u64) -> &'a [u8] {
    let set = &coded.descriptor;
    let (blob, width, at) = match lane.checked_sub(set.k()) {
        None => (data, set.k(), lane),
        Some(at) => (parity, set.m(), at),
    };
    let start = (stripe * u64::from(width) + u64::from(at)) * set.shard_bytes();
    let start = (start as usize).min(blob.len());
    &blob[start..][..set.shard_len(lane, stripe) as usize]
}

/// The payload that is restored from these lanes.
fn restore(coded: &Coded, data: &[u8], parity: &[u8], lanes: Lanes) -> Result<Vec<u8>, CoderError> {
    let set = &coded.descriptor;
    let mut decoder = StripeDecoder::new(set);
    let mut whole = Vec::new();
    for stripe in 0..set.stripes() {
        let there: Vec<_> =
            lanes.iter().map(|lane| (lane, shard(coded, data, parity, lane, stripe))).collect();
        let mut shards = vec![Vec::new(); set.k().into()];
        for (lane, shard) in there.iter().filter(|(lane, _)| *lane < set.k()) {
            shards[usize::from(*lane)] = shard.to_vec();
        }
        decoder.restore(stripe, there, |lane, shard| shards[usize::from(lane)] = shard.to_vec())?;
        whole.extend(shards.concat());
    }
    Ok(whole)
}

#[test]
fn parity_of_one_lane_is_the_sum_of_the_data() {
    let data = payload(3 * GROUP_BYTES);
    let (_, parity) = coded(&data, GROUP_BYTES as u64, 3, 1);
    let sum: Vec<u8> =
        (0..GROUP_BYTES).map(|at| data[at] ^ data[at + GROUP_BYTES] ^ data[at + 2 * GROUP_BYTES]).collect();
    assert!(parity == sum);
}

#[test]
fn an_empty_payload_has_empty_parity() {
    let (empty, parity) = coded(b"", GROUP_BYTES as u64, 4, 2);
    assert!(parity.is_empty());
    assert_eq!(empty.descriptor.parity_token(), Some(Token::of(b"")));
    let mut decoder = StripeDecoder::new(&empty.descriptor);
    let refused = decoder.restore(0, [], |_, _| {});
    assert!(matches!(refused, Err(CoderError::Stripe { stripe: 0, stripes: 0 })));
}

#[test]
fn shapes_that_no_descriptor_has_are_refused_and_one_lane_is_code_0() {
    for (length, shard_bytes, k, m) in [
        (1, 16_384, 0, 1),
        (1, 16_384, 65, 1),
        (1, 16_384, 1, 65),
        (1, 100, 1, 1),
        ((1 << 50) + 1, 16_384, 1, 1),
        (1 << 50, 16_384, 1, 2),
    ] {
        let coded = encode(std::io::empty(), length, shard_bytes, (k, m), std::io::sink());
        assert!(matches!(coded, Err(CoderError::Shape(_))), "{length} {shard_bytes} {k}+{m}");
    }
    assert_eq!(coded(b"abc", 16_384, 1, 0).0.descriptor.coding(), Coding::None);
    let early = encode(&b"abc"[..], 4, 16_384, (2, 2), std::io::sink());
    assert!(matches!(early, Err(CoderError::Payload(_))));
}

#[test]
fn shards_that_are_not_the_sets_are_refused() {
    let data = payload(5 * GROUP_BYTES + 10);
    let (set, parity) = coded(&data, GROUP_BYTES as u64, 4, 2);
    let at = |lane, stripe| (lane, shard(&set, &data, &parity, lane, stripe));
    let mut decoder = StripeDecoder::new(&set.descriptor);
    let mut refused = |stripe, shards: &[(u8, &[u8])]| {
        decoder.restore(stripe, shards.iter().copied(), |_, _| panic!("nothing is restored")).unwrap_err()
    };
    assert!(matches!(
        refused(0, &[at(0, 0), at(1, 0), at(5, 0)]),
        CoderError::TooFew { found: 3, needed: 4 }
    ));
    assert!(matches!(refused(0, &[at(0, 0), at(0, 0)]), CoderError::Lane(0)));
    assert!(matches!(refused(0, &[(6, &[])]), CoderError::Lane(6)));
    assert!(matches!(
        refused(0, &[(4, &[0])]),
        CoderError::ShardLength { lane: 4, expected: 16_384, found: 1 }
    ));
    assert!(matches!(refused(1, &[(1, &[0; 11])]), CoderError::ShardLength { expected: 10, found: 11, .. }));
    assert!(matches!(refused(2, &[]), CoderError::Stripe { stripe: 2, stripes: 2 }));
    // Two of the last stripe's data shards are past the payload's end: one of the other two and one parity shard suffice.
    let mut restored = Vec::new();
    decoder.restore(1, [at(1, 1), at(4, 1)], |lane, shard| restored.push((lane, shard.to_vec()))).unwrap();
    assert_eq!(restored, [(0, data[4 * GROUP_BYTES..5 * GROUP_BYTES].to_vec())]);
}

#[test]
fn the_largest_sets_are_restored() {
    let data = payload(64 * GROUP_BYTES - 5);
    let (set, parity) = coded(&data, GROUP_BYTES as u64, 64, 64);
    let lanes = set.descriptor.lanes().without(Lanes::first(64));
    assert!(restore(&set, &data, &parity, lanes).unwrap() == data);
}

/// One part, sent and received.
fn carry(blob: &[u8], outboard: &Outboard, part: &stoq::shard::Part, cut_bytes: u64) -> Vec<(u64, Vec<u8>)> {
    let mut encoder = VerifiedEncoder::new(outboard.clone(), &part.selection).unwrap();
    let mut decoder =
        VerifiedDecoder::new(part.token, part.length, &part.selection).unwrap().with_cut(cut_bytes);
    assert_eq!(decoder.left_bytes(), part.bytes);
    let mut pieces = Vec::new();
    while encoder.next_batch(100_000, &mut pieces).unwrap() > 0 {
        for piece in pieces.drain(..) {
            match piece {
                EncodedPiece::Proof(pairs) => decoder.push(&pairs).unwrap(),
                EncodedPiece::Data { offset, len } => decoder.push(&blob[offset as usize..][..len]).unwrap(),
            }
        }
    }
    assert!(decoder.is_complete());
    std::iter::from_fn(|| decoder.poll()).map(|piece| (piece.offset, piece.data.to_vec())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_k_lanes_restore_the_payload(
        (k, m) in (1u8..=9, 0u8..=9),
        shard_groups in 1u64..=2,
        length in 0usize..600_000,
        order in Just((0u8..18).collect::<Vec<_>>()).prop_shuffle(),
        fewer: bool,
    ) {
        let data = payload(length);
        let (coded, parity) = coded(&data, shard_groups * GROUP_BYTES as u64, k, m);
        prop_assert_eq!(coded.descriptor.content(), Token::of(&data));
        prop_assert_eq!(coded.descriptor.parity_length(), parity.len() as u64);
        prop_assert_eq!(coded.descriptor.parity_token(), (m > 0).then(|| Token::of(&parity)));
        let take = usize::from(k) - usize::from(fewer);
        let lanes: Lanes = order.into_iter().filter(|&lane| lane < k + m).take(take).collect();
        let restored = restore(&coded, &data, &parity, lanes);
        if fewer && coded.descriptor.stripes() > 1 {
            let too_few = matches!(restored, Err(CoderError::TooFew { .. }));
            prop_assert!(too_few);
        } else if !fewer {
            prop_assert!(restored.unwrap() == data);
        }
    }

    #[test]
    fn lanes_travel_as_parts_and_arrive_as_shards(
        (k, m) in (1u8..=5, 1u8..=5),
        length in 1usize..400_000,
        lane_bits: u16,
    ) {
        let data = payload(length);
        let (coded, parity) = coded(&data, GROUP_BYTES as u64, k, m);
        let set = &coded.descriptor;
        let lanes = (0..k + m).filter(|lane| lane_bits >> lane & 1 == 1).collect();
        let mut arrived = Vec::new();
        for part in set.parts(lanes, &Ranges::all()).unwrap() {
            let (blob, outboard) = match part.blob {
                Blob::Content => (&data, &coded.content),
                Blob::Parity => (&parity, coded.parity.as_ref().unwrap()),
            };
            for (offset, bytes) in carry(blob, outboard, &part, set.shard_bytes()) {
                let index = set.shard_at(part.blob, offset);
                prop_assert!(bytes == shard(&coded, &data, &parity, index.lane, index.stripe));
                arrived.push(index);
            }
        }
        let mut asked: Vec<_> = (0..set.stripes())
            .flat_map(|stripe| lanes.iter().map(move |lane| stoq::shard::ShardIndex { lane, stripe }))
            .filter(|index| set.shard_len(index.lane, index.stripe) > 0)
            .collect();
        arrived.sort();
        asked.sort();
        prop_assert_eq!(arrived, asked);
    }
}
