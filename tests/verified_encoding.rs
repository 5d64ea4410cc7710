//! The verified encoding against bao-tree's own.

mod data;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::encode_ranges;
use bao_tree::{BlockSize, ChunkNum, ChunkRanges};
use data::payload;
use proptest::prelude::*;
use stoq::token::{
    EncodedPiece, LaneGroups, Outboard, OutboardBuilder, Ranges, RangesError, Selection, Token,
    VerifiedDecoder, VerifiedEncoder, VerifiedPiece, VerifyError, outboard_bytes,
};

const GROUP: usize = 16 * 1024;
const LENGTHS: [usize; 12] = [
    0,
    1,
    1024,
    1025,
    GROUP - 1,
    GROUP,
    GROUP + 1,
    2 * GROUP,
    2 * GROUP + 1025,
    5 * GROUP,
    (1 << 20) + 5,
    (2 << 20) + GROUP + 1,
];

fn oracle(data: &[u8], ranges: &ChunkRanges) -> (Vec<u8>, PreOrderMemOutboard) {
    let outboard = PreOrderMemOutboard::create(data, BlockSize::from_chunk_log(4));
    let mut encoded = Vec::new();
    encode_ranges(data, &outboard, ranges, &mut encoded).unwrap();
    (encoded, outboard)
}

/// The groups that `selection` selects of a payload of `len` bytes, one by one.
fn groups_of(selection: &Selection, len: usize) -> Vec<u64> {
    (0..len.div_ceil(GROUP).max(1) as u64).filter(|&group| selection.intersects(group..group + 1)).collect()
}

/// The same groups in bao-tree's form, in chunks of 1 KiB.
fn chunk_ranges(groups: &[u64]) -> ChunkRanges {
    groups.iter().fold(ChunkRanges::empty(), |ranges, group| {
        ranges | ChunkRanges::from(ChunkNum(group * 16)..ChunkNum((group + 1) * 16))
    })
}

fn encode(data: &[u8], outboard: &Outboard, selection: impl Into<Selection>, batch_bytes: usize) -> Vec<u8> {
    let mut encoder = VerifiedEncoder::new(outboard.clone(), selection).unwrap();
    let mut encoded = Vec::new();
    let mut pieces = Vec::new();
    loop {
        let bytes = encoder.next_batch(batch_bytes, &mut pieces).unwrap();
        assert!(bytes <= batch_bytes || pieces.len() == 1);
        assert_eq!(bytes, pieces.iter().map(EncodedPiece::len).sum::<usize>());
        if bytes == 0 {
            assert!(encoder.is_complete());
            return encoded;
        }
        for piece in pieces.drain(..) {
            match piece {
                EncodedPiece::Proof(pairs) => encoded.extend_from_slice(&pairs),
                EncodedPiece::Data { offset, len } => {
                    encoded.extend_from_slice(&data[offset as usize..][..len])
                }
            }
        }
    }
}

fn decode(
    decoder: &mut VerifiedDecoder,
    encoded: &[u8],
    chunk_len: usize,
) -> Result<Vec<VerifiedPiece>, VerifyError> {
    let mut pieces = Vec::new();
    for (turn, chunk) in encoded.chunks(chunk_len).enumerate() {
        decoder.push(chunk)?;
        if turn % 40 == 0 {
            pieces.extend(std::iter::from_fn(|| decoder.poll()));
        }
    }
    pieces.extend(std::iter::from_fn(|| decoder.poll()));
    Ok(pieces)
}

fn check_pieces(pieces: &[VerifiedPiece], data: &[u8], selection: impl Into<Selection>) {
    let mut groups = Vec::new();
    for piece in pieces {
        let offset = piece.offset as usize;
        assert!(!piece.data.is_empty() && piece.data.len() <= 256 * 1024);
        assert_eq!(piece.data, data[offset..][..piece.data.len()]);
        groups
            .extend((offset / GROUP..(offset + piece.data.len()).div_ceil(GROUP)).map(|group| group as u64));
    }
    let asked = if data.is_empty() { Vec::new() } else { groups_of(&selection.into(), data.len()) };
    assert_eq!(groups, asked);
}

#[test]
fn whole_payloads_round_trip_and_rebuild_their_outboard() {
    for len in LENGTHS {
        let data = payload(len);
        let (encoded, expected) = oracle(&data, &ChunkRanges::all());
        let (token, outboard) = Outboard::build(&data[..], len as u64).unwrap();
        assert_eq!(token, Token::of(&data));
        assert_eq!(outboard.as_bytes().unwrap()[..], expected.data[..], "{len}");
        assert_eq!(outboard_bytes(len as u64), expected.data.len() as u64);
        for batch_bytes in [1, 70_000, usize::MAX] {
            assert!(encode(&data, &outboard, Ranges::all(), batch_bytes) == encoded, "{len}");
        }
        for chunk_len in [1399, 16_384, 1 << 22] {
            let mut decoder = VerifiedDecoder::new(token, len as u64, Ranges::all()).unwrap();
            let pieces = decode(&mut decoder, &encoded, chunk_len).unwrap();
            assert!(decoder.is_complete() && decoder.left_bytes() == 0);
            check_pieces(&pieces, &data, Ranges::all());
            let mut builder = OutboardBuilder::new(len as u64);
            pieces.iter().for_each(|piece| builder.push(&piece.proofs).unwrap());
            assert_eq!(builder.finish().unwrap().as_bytes(), outboard.as_bytes());
        }
    }
}

#[test]
fn an_outboard_in_a_file_serves_like_one_in_memory() {
    let data = payload((1 << 20) + 5);
    let (_, outboard) = Outboard::build(&data[..], data.len() as u64).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, outboard.as_bytes().unwrap()).unwrap();
    let on_disk = Outboard::from_file(data.len() as u64, file.try_clone().unwrap()).unwrap();
    let whole = encode(&data, &outboard, Ranges::all(), usize::MAX);
    assert!(encode(&data, &on_disk, Ranges::all(), 100_000) == whole);
    assert!(Outboard::from_file(data.len() as u64 + GROUP as u64, file).is_err());
    assert!(on_disk.pairs(u64::MAX, 2).is_err() && outboard.pairs(63, 3).is_err());
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let data = payload(3 * GROUP + 700);
    let (encoded, _) = oracle(&data, &ChunkRanges::all());
    let token = Token::of(&data);
    for byte in (0..encoded.len()).step_by(61).chain([encoded.len() - 1]) {
        let mut bad = encoded.clone();
        bad[byte] ^= 1 << (byte % 8);
        let mut decoder = VerifiedDecoder::new(token, data.len() as u64, Ranges::all()).unwrap();
        let error = decode(&mut decoder, &bad, 1400).unwrap_err();
        assert!(matches!(error, VerifyError::Proof { .. }), "byte {byte}");
        assert!(!decoder.is_complete());
        assert_eq!(decoder.push(&encoded), Err(error), "a decoder that failed takes no more bytes");
        for piece in std::iter::from_fn(|| decoder.poll()) {
            assert_eq!(piece.data, data[piece.offset as usize..][..piece.data.len()]);
        }
    }
}

#[test]
fn truncated_encodings_never_complete_and_longer_ones_are_refused() {
    let data = payload(3 * GROUP + 700);
    let (mut encoded, _) = oracle(&data, &ChunkRanges::all());
    for len in (0..encoded.len()).step_by(997).chain([encoded.len() - 1]) {
        let mut decoder = VerifiedDecoder::new(Token::of(&data), data.len() as u64, Ranges::all()).unwrap();
        decode(&mut decoder, &encoded[..len], 1400).unwrap();
        assert!(!decoder.is_complete());
    }
    encoded.push(0);
    let mut decoder = VerifiedDecoder::new(Token::of(&data), data.len() as u64, Ranges::all()).unwrap();
    assert_eq!(decoder.push(&encoded), Err(VerifyError::Excess(1)));
}

#[test]
fn a_false_length_is_refused_with_the_last_group() {
    for (len, claimed) in
        [(5 * GROUP, 5 * GROUP + 1), (5 * GROUP, 5 * GROUP - 1), (100, 99), (0, 1), (GROUP, 1 << 30)]
    {
        let data = payload(len);
        let (mut encoded, _) = oracle(&data, &ChunkRanges::all());
        encoded.resize(encoded.len() + GROUP, 0);
        let mut decoder = VerifiedDecoder::new(Token::of(&data), claimed as u64, Ranges::all()).unwrap();
        assert!(decode(&mut decoder, &encoded, 1400).is_err(), "{len} as {claimed}");
    }
    assert!(VerifiedDecoder::new(Token::of(b"x"), 0, Ranges::all()).is_err());
    assert!(VerifiedDecoder::new(Token::of(b""), 0, Ranges::all()).unwrap().is_complete());
}

#[test]
fn the_longest_payload_is_described_without_allocating_for_it() {
    const LONGEST: u64 = 1 << 50;
    let token = Token::from_root([7; 32]);
    let mut last = Ranges::all();
    last.push_run((1 << 36) - 1, 1).unwrap();
    for ranges in [Ranges::all(), last.clone()] {
        for length in [LONGEST, LONGEST - 1, LONGEST - GROUP as u64 + 1] {
            let mut decoder = VerifiedDecoder::new(token, length, &ranges).unwrap();
            assert!(decoder.push(&[0; 4096]).is_err());
        }
    }
    assert_eq!(outboard_bytes(LONGEST), ((1 << 36) - 1) * 64);
    let too_long = VerifiedDecoder::new(token, LONGEST + 1, Ranges::all()).unwrap_err();
    assert_eq!(too_long, VerifyError::Ranges(RangesError::OutOfBounds));
    assert!(VerifiedDecoder::new(token, u64::MAX, &last).is_err());
    assert!(Outboard::build(std::io::empty(), u64::MAX).is_err());
    assert!(Outboard::build(std::io::empty(), 1 << 40).is_err());
    let sparse = tempfile::tempfile().unwrap();
    sparse.set_len(outboard_bytes(1 << 40)).unwrap();
    let outboard = Outboard::from_file(1 << 40, sparse).unwrap();
    let ranges = Ranges::covering((1 << 40) - 1..1 << 40).unwrap();
    let mut pieces = Vec::new();
    let bytes = VerifiedEncoder::new(outboard, &ranges).unwrap().next_batch(1 << 20, &mut pieces).unwrap();
    assert_eq!(bytes, 26 * 64 + GROUP);
}

#[test]
fn decoders_and_encoders_move_between_threads() {
    fn moves<T: Send>() {}
    moves::<VerifiedDecoder>();
    moves::<VerifiedEncoder>();
    moves::<Outboard>();
}

fn any_ranges(groups: u64) -> impl Strategy<Value = Ranges> {
    proptest::collection::vec((0..4u64, 1..4u64), 0..6).prop_map(move |runs| {
        let mut ranges = Ranges::all();
        let mut end = 0;
        for (gap, len) in runs {
            end += gap + len;
            if end <= groups {
                let _ = ranges.push_run(gap, len).inspect_err(|_| end = groups);
            }
        }
        ranges
    })
}

/// Lanes of some stripes of a blob of `groups` groups.
fn any_lanes(groups: u64) -> impl Strategy<Value = LaneGroups> {
    (1u8..6, 1u64..4).prop_flat_map(move |(width, shard_groups)| {
        let stripes = groups.div_ceil(u64::from(width) * shard_groups);
        (0..1u64 << width, any_ranges(stripes))
            .prop_map(move |(lanes, stripes)| LaneGroups::new(width, lanes, shard_groups, stripes).unwrap())
    })
}

fn any_selection(groups: u64) -> impl Strategy<Value = Selection> {
    prop_oneof![any_ranges(groups).prop_map(Selection::from), any_lanes(groups).prop_map(Selection::from)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_selection_is_encoded_as_bao_tree_does_and_decoded(
        (len, selection) in (0usize..24 * GROUP).prop_flat_map(|len| {
            (Just(len), any_selection((len as u64).div_ceil(GROUP as u64).max(1)))
        }),
        chunk_len in 1usize..40_000,
        batch_bytes in 1usize..200_000,
        cut_groups in proptest::option::of(1u64..5),
    ) {
        let data = payload(len);
        let groups = groups_of(&selection, len);
        let (expected, _) = oracle(&data, &chunk_ranges(&groups));
        let (token, outboard) = Outboard::build(&data[..], len as u64).unwrap();
        let encoded = encode(&data, &outboard, &selection, batch_bytes);
        prop_assert!(encoded == expected);
        let data_bytes: usize = groups.iter().map(|&group| GROUP.min(len - group as usize * GROUP)).sum();
        prop_assert_eq!(selection.selected_bytes(len as u64), Ok(data_bytes as u64));
        let mut decoder = VerifiedDecoder::new(token, len as u64, &selection).unwrap();
        let cut_bytes = cut_groups.map(|groups| groups * GROUP as u64);
        if let Some(cut_bytes) = cut_bytes {
            decoder = decoder.with_cut(cut_bytes);
        }
        let pieces = decode(&mut decoder, &encoded, chunk_len).unwrap();
        prop_assert!(decoder.is_complete());
        check_pieces(&pieces, &data, &selection);
        for piece in &pieces {
            for proof in &piece.proofs {
                prop_assert_eq!(&outboard.pairs(proof.index, 1).unwrap()[..], &proof.pair[..]);
            }
            let last = piece.offset + piece.data.len() as u64 - 1;
            prop_assert!(cut_bytes.is_none_or(|cut| piece.offset / cut == last / cut));
        }
    }

    #[test]
    fn random_bytes_are_refused_and_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 1..2000),
        length in 1..=1u64 << 50,
    ) {
        let mut decoder = VerifiedDecoder::new(Token::from_root([9; 32]), length, Ranges::all()).unwrap();
        let _ = decode(&mut decoder, &bytes, 100);
        prop_assert!(!decoder.is_complete() && decoder.poll().is_none());
    }
}
