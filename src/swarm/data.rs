//! What nodes write: bytes made from the run's seed, the node, the sector and the generation, so that no two
//! nodes, writes or sectors have equal ones, and a sector found in a wrong place says whose it is. Pure.
//!
//! ```text
//!  0 magic | 8 seed | 16 node, generation | 24 sector | 32.. a stream from these four      (little-endian)
//! ```

/// Bytes of a sector here, whatever the target's blocks are.
pub(super) const SECTOR: u64 = 512;
const SECTOR_LEN: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"RVSWARM\n");

/// Who wrote a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Author {
    pub(super) seed: u64,
    pub(super) node: u32,
    pub(super) generation: u32,
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): cheap, and every seed gives another stream.
const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The whole sector `sector` as `author` writes it.
pub(super) fn sector(author: Author, sector: u64) -> [u8; SECTOR_LEN] {
    let who = u64::from(author.node) << 32 | u64::from(author.generation);
    let mut state = author.seed;
    for word in [who, sector] {
        state = next(&mut state) ^ word;
    }
    let mut out = [0; SECTOR_LEN];
    let (words, _) = out.as_chunks_mut::<8>();
    for (at, word) in words.iter_mut().enumerate() {
        let value = match at {
            0 => MAGIC,
            1 => author.seed,
            2 => who,
            3 => sector,
            _ => next(&mut state),
        };
        *word = value.to_le_bytes();
    }
    out
}

/// Appends what `author` writes to the bytes `offset..offset + len` of the disk.
pub(super) fn append(author: Author, offset: u64, len: usize, out: &mut Vec<u8>) {
    let mut at = offset;
    let mut left = len;
    while left > 0 {
        let bytes = sector(author, at / SECTOR);
        let skip = usize::try_from(at % SECTOR).unwrap_or(0);
        let piece = bytes.get(skip..).unwrap_or_default();
        let piece = piece.get(..left).unwrap_or(piece);
        out.extend_from_slice(piece);
        left -= piece.len();
        at += piece.len() as u64;
    }
}

/// Whose sector this is, and which, if it begins as one of ours does. `bytes` is its beginning.
pub(super) fn author_of(bytes: &[u8]) -> Option<(Author, u64)> {
    let (words, _) = bytes.as_chunks::<8>();
    let word = |at: usize| words.get(at).map(|w| u64::from_le_bytes(*w));
    if word(0)? != MAGIC {
        return None;
    }
    let who = word(2)?;
    let author = Author {
        seed: word(1)?,
        node: u32::try_from(who >> 32).unwrap_or(0),
        generation: u32::try_from(who & 0xffff_ffff).unwrap_or(0),
    };
    Some((author, word(3)?))
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    const AUTHOR: Author = Author {
        seed: 7,
        node: 3,
        generation: 9,
    };

    #[test]
    fn a_sector_says_whose_it_is() {
        let bytes = sector(AUTHOR, 77);
        assert_eq!(author_of(&bytes), Some((AUTHOR, 77)));
        assert_eq!(author_of(&bytes[..31]), None);
        assert_eq!(author_of(&[0; 512]), None);
    }

    #[test]
    fn no_two_authors_or_places_have_equal_bytes_anywhere() {
        let mut all = Vec::new();
        for node in 0..8 {
            for generation in 0..8 {
                for at in 0..8 {
                    let author = Author {
                        seed: 1,
                        node,
                        generation,
                    };
                    all.push(sector(author, at)[32..40].to_vec());
                }
            }
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 512);
    }

    proptest! {
        #[test]
        fn ranges_are_pieces_of_their_sectors(offset in 0u64..5000, len in 0usize..3000) {
            let mut whole = Vec::new();
            append(AUTHOR, 0, 8192, &mut whole);
            let mut piece = Vec::new();
            append(AUTHOR, offset, len, &mut piece);
            let start = usize::try_from(offset).unwrap();
            prop_assert_eq!(&piece[..], &whole[start..start + len]);
        }
    }
}
