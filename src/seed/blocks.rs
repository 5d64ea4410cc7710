//! What files of a store take on its disk: whole blocks, and an inode and a name each.

use super::entry::PayloadPlace;
use super::layout::{lanes_of, pairs_bytes, parts_of};
use super::short::place_of;
use crate::limits::{
    DATABASE_PAGE_BYTES, GROUP_BYTES, STORE_BLOCK_BYTES_MAX, STORE_BLOCK_BYTES_MIN, STORE_FILE_BYTES,
    STORE_ROW_BYTES, STORE_ROWS_BYTES,
};
use crate::shard::{Descriptor, Lanes, Part};
use crate::token::{PAIR_BYTES, outboard_bytes};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The size of a disk's blocks, and by it the size of files. All sizes are upper bounds for a disk that neither compresses nor shares
/// blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    block_bytes: u64,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { block_bytes: STORE_BLOCK_BYTES_MIN }
    }
}

impl Blocks {
    /// The blocks of the disk under `directory`.
    pub(super) fn of_disk(directory: &Path) -> Self {
        let named = rustix::fs::statvfs(directory).map_or(0, |disk| disk.f_frsize);
        Self { block_bytes: named.clamp(STORE_BLOCK_BYTES_MIN, STORE_BLOCK_BYTES_MAX) }
    }

    /// What a file takes.
    pub(super) fn taken_by(file: &Metadata) -> u64 {
        file.blocks() * 512 + STORE_FILE_BYTES
    }

    fn whole(self, bytes: u64) -> u64 {
        bytes.checked_next_multiple_of(self.block_bytes).unwrap_or(u64::MAX)
    }

    /// A file of this length.
    pub(super) fn file(self, length: u64) -> u64 {
        self.whole(length).saturating_add(STORE_FILE_BYTES)
    }

    /// A payload of this length, with its outboard and its rows.
    pub(super) fn payload(self, length: u64, place: PayloadPlace) -> u64 {
        let bytes = match place {
            PayloadPlace::Files => self.file(length).saturating_add(self.outboard(length)),
            PayloadPlace::Pairs(_) => self.file(length).saturating_add(row_bytes(outboard_bytes(length))),
            PayloadPlace::Row(_) => row_bytes(length),
        };
        bytes.saturating_add(STORE_ROWS_BYTES)
    }

    /// The same, of one that is put now.
    pub(super) fn new_payload(self, length: u64) -> u64 {
        self.payload(length, place_of(length))
    }

    /// A set with these lanes in its own files, with its rows.
    pub(super) fn set(self, descriptor: &Descriptor, own: Lanes) -> u64 {
        STORE_ROWS_BYTES.saturating_add(self.lanes(descriptor, own))
    }

    /// The same, of a set whose files take this of the disk. A crash or a write that failed may have left blocks of lanes that the set does not
    /// claim: they are charged too. Less than a group is the file system's own.
    pub(super) fn set_that_takes(self, descriptor: &Descriptor, own: Lanes, taken_bytes: u64) -> u64 {
        let claimed_bytes = self.set(descriptor, own);
        if taken_bytes > claimed_bytes.saturating_add(GROUP_BYTES as u64) {
            taken_bytes
        } else {
            claimed_bytes
        }
    }

    /// Lanes in a set's own files. For several lanes together it is never above the sum of their own.
    pub(super) fn lanes(self, descriptor: &Descriptor, lanes: Lanes) -> u64 {
        let parts = parts_of(descriptor, lanes);
        parts.iter().map(|part| self.part(descriptor, part, lanes)).fold(0, u64::saturating_add)
    }

    fn part(self, descriptor: &Descriptor, part: &Part, lanes: Lanes) -> u64 {
        if part.bytes == part.length {
            return self.file(part.length).saturating_add(self.outboard(part.length));
        }
        let shard_bytes = descriptor.shard_bytes();
        let shards = part.bytes.div_ceil(shard_bytes);
        let data = self.whole(part.length).min(shards.saturating_mul(self.whole(shard_bytes)));
        let files = if outboard_bytes(part.length) > 0 { 2 * STORE_FILE_BYTES } else { STORE_FILE_BYTES };
        data.saturating_add(self.lane_pairs(descriptor, part, lanes, shards)).saturating_add(files)
    }

    /// The blocks of the hash pairs above some shards. Those within a shard are one run of the outboard; each other one may lie in a block of
    /// its own.
    fn lane_pairs(self, descriptor: &Descriptor, part: &Part, lanes: Lanes, shards: u64) -> u64 {
        let within = descriptor.shard_bytes() / GROUP_BYTES as u64 - 1;
        let pairs = pairs_bytes(descriptor, part, lanes.intersection(lanes_of(descriptor, part.blob)))
            / PAIR_BYTES as u64;
        let above = pairs.saturating_sub(shards.saturating_mul(within));
        let run = self.whole(within * PAIR_BYTES as u64) + self.block_bytes;
        let blocks = shards.saturating_mul(run).saturating_add(above.saturating_mul(self.block_bytes));
        self.whole(outboard_bytes(part.length)).min(blocks)
    }

    fn outboard(self, length: u64) -> u64 {
        match outboard_bytes(length) {
            0 => 0,
            bytes => self.file(bytes),
        }
    }
}

/// The row of a short payload: alone in pages of the database, or half of what shares a page with others.
pub(super) fn row_bytes(length: u64) -> u64 {
    let bytes = length.saturating_add(STORE_ROW_BYTES);
    if 4 * bytes <= DATABASE_PAGE_BYTES {
        2 * bytes
    } else {
        bytes.checked_next_power_of_two().unwrap_or(u64::MAX).max(DATABASE_PAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Coding;
    use crate::token::{EncodedPiece, Outboard, Token, VerifiedEncoder};
    use proptest::prelude::*;

    #[test]
    fn a_tiny_payload_takes_a_block_a_file_and_rows() {
        let blocks = Blocks::default();
        let files = PayloadPlace::Files;
        assert_eq!(blocks.payload(8, files), 4096 + STORE_FILE_BYTES + STORE_ROWS_BYTES);
        assert_eq!(blocks.payload(16_385, files), (20_480 + 4096) + 2 * STORE_FILE_BYTES + STORE_ROWS_BYTES);
        assert_eq!(blocks.new_payload(16_385), 20_480 + 256 + STORE_FILE_BYTES + STORE_ROWS_BYTES);
        assert_eq!(blocks.new_payload(1 << 20), (1 << 20) + 4096 + STORE_FILE_BYTES + STORE_ROWS_BYTES);
        assert_eq!(blocks.new_payload((1 << 20) + 1), blocks.payload((1 << 20) + 1, files));
        let large = Blocks { block_bytes: 65_536 };
        assert_eq!(large.payload(8, files), 65_536 + STORE_FILE_BYTES + STORE_ROWS_BYTES);
    }

    #[test]
    fn a_short_payload_takes_a_part_of_a_page_or_pages_of_the_database() {
        for (length, bytes) in
            [(0, 128), (960, 2048), (961, 4096), (4032, 4096), (4096, 8192), (16_384, 32_768)]
        {
            assert_eq!(Blocks::default().new_payload(length), bytes + STORE_ROWS_BYTES, "{length}");
        }
    }

    proptest! {
        #[test]
        fn lanes_take_no_more_blocks_than_they_are_accounted_for(
            groups in 1u64..400, short in 0u64..16_384, k in 2u8..=6, shard_groups in 1u64..=4, bits in 1u8..64,
        ) {
            let length = groups * 16_384 - short;
            let coding = Coding::ReedSolomon { data_lanes: k, parity: None };
            let descriptor = Descriptor::new(Token::of(b"payload"), length, shard_groups * 16_384, coding).unwrap();
            let lanes: Lanes = (0..k).filter(|lane| bits >> lane & 1 == 1).collect();
            let blocks = Blocks::default();
            let accounted = blocks.lanes(&descriptor, lanes);
            let parts = parts_of(&descriptor, lanes);
            let Some(part) = parts.first() else {
                prop_assert_eq!(accounted, 0);
                return Ok(());
            };
            let pairs = vec![0; outboard_bytes(length) as usize];
            let outboard = Outboard::from_bytes(length, pairs.into()).unwrap();
            let mut encoder = VerifiedEncoder::new(outboard, &part.selection).unwrap();
            let mut batch = Vec::new();
            let (mut data, mut proofs) = (0, 0);
            while encoder.next_batch(1 << 20, &mut batch).unwrap() > 0 {
                for piece in batch.drain(..) {
                    match piece {
                        EncodedPiece::Proof(hashes) => proofs += hashes.len() as u64,
                        EncodedPiece::Data { len, .. } => data += len as u64,
                    }
                }
            }
            prop_assert!(accounted >= data + proofs, "{} < {} + {}", accounted, data, proofs);
            prop_assert!(accounted <= blocks.file(length) + blocks.outboard(length));
            // Accounted separately, the lanes take no less.
            let apart: u64 = lanes.iter().map(|lane| blocks.lanes(&descriptor, Lanes::one(lane))).sum();
            prop_assert!(apart >= accounted, "{} < {}", apart, accounted);
        }
    }
}
