//! What the logs say: entries, their bytes (`docs/formats/layer.md`), and the table they add up to. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::map::{BlockMap, BlockState, Span, span};
use crate::store::{Durability, ImageId, LayerId};
use crate::units::{BLOCK_BYTES, ByteRange};

/// Version of all formats of the layers. 2 has redo records, 3 remembers failed syncs; files of 1 and 2 are read as
/// they are.
pub(super) const VERSION: u8 = 3;

/// Largest number of a generation that a log or a file name may hold: counting on from it never overflows, and
/// no store gets there by counting.
pub(super) const GENERATION_MAX: u64 = 1 << 62;

const PAD: u8 = 0;
const HEADER: u8 = 1;
const LAYER: u8 = 2;
const PRESENT: u8 = 3;
const ZERO: u8 = 4;
const RESET: u8 = 5;
const REMOVE: u8 = 6;
const PRESENT_MAP: u8 = 7;
const ZERO_MAP: u8 = 8;
const DAMAGED: u8 = 9;
const END: u8 = 10;
const REDO: u8 = 11;
const RETIRE: u8 = 12;
const POISONED: u8 = 13;

const FLAG_BORN: u8 = 1;
const FLAG_VOLATILE: u8 = 2;
const FLAG_LOST: u8 = 4;
const FLAG_DAMAGED: u8 = 8;

/// First entry of every log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// Format.
    pub(super) version: u8,
    /// Boot id of the host that wrote it (soft log; zeros elsewhere).
    pub(super) boot: [u8; 16],
    /// Generations below this one are used up.
    pub(super) generation_next: u64,
    /// Where the journal before this one ends (bytes), and the checksum of its last frame.
    pub(super) previous_end: u64,
    pub(super) previous_crc: u32,
}

/// What a generation of a layer is bound to at its first change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Birth {
    pub(in crate::store) image: ImageId,
    pub(in crate::store) size: u64,
    pub(in crate::store) durability: Durability,
}

/// A layer without its maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) layer: LayerId,
    pub(super) generation: u64,
    pub(super) birth: Option<Birth>,
    pub(super) lost: bool,
    pub(super) damaged: bool,
}

/// The bytes of an atomic write, whole blocks wherever the layer had none of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Redo {
    /// Where in the data file, and on the disk.
    pub(in crate::store) offset: u64,
    /// What belongs there.
    pub(in crate::store) data: Arc<[u8]>,
}

impl Redo {
    /// The blocks it touches.
    pub(super) fn span(&self) -> Option<Span> {
        let range = ByteRange::new(self.offset, self.data.len() as u64)?;
        span(&range.blocks())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        let len = u32::try_from(self.data.len()).expect("bounded by ATOMIC_BYTES_MAX");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.data);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let offset = take_u64(bytes)?;
        let len = usize::try_from(take_u32(bytes)?).ok()?;
        let (data, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        let data = data.into();
        Some(Self { offset, data })
    }
}

/// One statement of a log.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    Header(Header),
    Layer(Facts),
    /// The blocks are in the layer's file (or read zeros).
    Blocks {
        layer: LayerId,
        generation: u64,
        state: BlockState,
        span: Span,
    },
    /// The same for a whole set.
    Map {
        layer: LayerId,
        generation: u64,
        state: BlockState,
        set: RoaringBitmap,
    },
    /// The layer starts anew, empty and unborn, with this generation.
    Reset {
        layer: LayerId,
        generation: u64,
    },
    /// The layer is forgotten; the generation orders this against everything else.
    Remove {
        layer: LayerId,
        generation: u64,
    },
    /// Records of this layer were lost: it must not be served.
    Damaged {
        layer: LayerId,
        generation: u64,
    },
    /// An atomic write that may be half done in the data file: recovery writes it whole.
    Redo {
        layer: LayerId,
        generation: u64,
        redo: Redo,
    },
    /// The atomic write at this byte is whole in the data file (or was taken back): no redo any more.
    Retire {
        layer: LayerId,
        generation: u64,
        offset: u64,
    },
    /// A sync of this layer failed while the host was up: the page cache may claim what the medium lacks. Soft
    /// log only.
    Poisoned {
        layer: LayerId,
        generation: u64,
    },
    /// The snapshot is complete; so many layers were in it.
    End {
        layers: u32,
    },
}

impl Entry {
    /// The layer it is about.
    pub(super) fn layer(&self) -> Option<LayerId> {
        match self {
            Self::Header(_) | Self::End { .. } => None,
            Self::Layer(facts) => Some(facts.layer),
            Self::Blocks { layer, .. }
            | Self::Map { layer, .. }
            | Self::Reset { layer, .. }
            | Self::Remove { layer, .. }
            | Self::Damaged { layer, .. }
            | Self::Poisoned { layer, .. }
            | Self::Redo { layer, .. }
            | Self::Retire { layer, .. } => Some(*layer),
        }
    }

    /// Appends its bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let named = |out: &mut Vec<u8>, kind: u8, layer: LayerId, generation: u64| {
            out.push(kind);
            out.extend_from_slice(&layer.0.to_le_bytes());
            out.extend_from_slice(&generation.to_le_bytes());
        };
        match self {
            Self::Header(header) => encode_header(header, out),
            Self::Layer(facts) => {
                named(out, LAYER, facts.layer, facts.generation);
                encode_facts(facts, out);
            }
            Self::Blocks {
                layer,
                generation,
                state,
                span,
            } => {
                let kind = if *state == BlockState::Zero {
                    ZERO
                } else {
                    PRESENT
                };
                named(out, kind, *layer, *generation);
                out.extend_from_slice(&span.start().to_le_bytes());
                out.extend_from_slice(&span.end().to_le_bytes());
            }
            Self::Map {
                layer,
                generation,
                state,
                set,
            } => {
                let kind = if *state == BlockState::Zero {
                    ZERO_MAP
                } else {
                    PRESENT_MAP
                };
                named(out, kind, *layer, *generation);
                let bytes = set.serialized_size();
                out.extend_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes());
                set.serialize_into(&mut *out)
                    .expect("a Vec takes every byte");
            }
            Self::Reset { layer, generation } => named(out, RESET, *layer, *generation),
            Self::Remove { layer, generation } => named(out, REMOVE, *layer, *generation),
            Self::Damaged { layer, generation } => named(out, DAMAGED, *layer, *generation),
            Self::Poisoned { layer, generation } => named(out, POISONED, *layer, *generation),
            Self::Redo {
                layer,
                generation,
                redo,
            } => {
                named(out, REDO, *layer, *generation);
                redo.encode(out);
            }
            Self::Retire {
                layer,
                generation,
                offset,
            } => {
                named(out, RETIRE, *layer, *generation);
                out.extend_from_slice(&offset.to_le_bytes());
            }
            Self::End { layers } => {
                out.push(END);
                out.extend_from_slice(&layers.to_le_bytes());
            }
        }
    }
}

fn encode_header(header: &Header, out: &mut Vec<u8>) {
    out.push(HEADER);
    out.push(header.version);
    out.extend_from_slice(&header.boot);
    out.extend_from_slice(&header.generation_next.to_le_bytes());
    out.extend_from_slice(&header.previous_end.to_le_bytes());
    out.extend_from_slice(&header.previous_crc.to_le_bytes());
}

fn encode_facts(facts: &Facts, out: &mut Vec<u8>) {
    let mut flags = 0;
    flags |= if facts.lost { FLAG_LOST } else { 0 };
    flags |= if facts.damaged { FLAG_DAMAGED } else { 0 };
    let (image, size) = facts.birth.map_or(([0; 32], 0), |b| (b.image.0, b.size));
    if let Some(birth) = facts.birth {
        flags |= FLAG_BORN;
        flags |= if birth.durability == Durability::Volatile {
            FLAG_VOLATILE
        } else {
            0
        };
    }
    out.push(flags);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&image);
}

/// Reads the entries of a payload one by one; ends with an error at the first that is not one.
#[derive(Debug)]
pub(super) struct Entries<'a>(pub(super) &'a [u8]);

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_le_bytes)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

fn take_generation(bytes: &mut &[u8]) -> Option<u64> {
    take_u64(bytes).filter(|generation| *generation <= GENERATION_MAX)
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ()>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((&PAD, rest)) = self.0.split_first() {
            self.0 = rest;
        }
        if self.0.is_empty() {
            return None;
        }
        let entry = decode(&mut self.0);
        if entry.is_none() {
            // What follows has no known start.
            self.0 = &[];
        }
        Some(entry.ok_or(()))
    }
}

fn decode(bytes: &mut &[u8]) -> Option<Entry> {
    let [kind] = take(bytes)?;
    match kind {
        HEADER => {
            let [version] = take(bytes)?;
            return Some(Entry::Header(Header {
                version,
                boot: take(bytes)?,
                generation_next: take_generation(bytes)?,
                previous_end: take_u64(bytes)?,
                previous_crc: take_u32(bytes)?,
            }));
        }
        END => {
            return Some(Entry::End {
                layers: take_u32(bytes)?,
            });
        }
        _ => {}
    }
    let layer = LayerId(take_u32(bytes)?);
    let generation = take_generation(bytes)?;
    let state = match kind {
        ZERO | ZERO_MAP => BlockState::Zero,
        _ => BlockState::Present,
    };
    Some(match kind {
        LAYER => decode_facts(bytes, layer, generation)?,
        PRESENT | ZERO => {
            let (first, last) = (take_u32(bytes)?, take_u32(bytes)?);
            if first > last {
                return None;
            }
            Entry::Blocks {
                layer,
                generation,
                state,
                span: first..=last,
            }
        }
        PRESENT_MAP | ZERO_MAP => {
            let len = usize::try_from(take_u32(bytes)?).ok()?;
            let (set, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Entry::Map {
                layer,
                generation,
                state,
                set: RoaringBitmap::deserialize_from(set).ok()?,
            }
        }
        RESET => Entry::Reset { layer, generation },
        REMOVE => Entry::Remove { layer, generation },
        DAMAGED => Entry::Damaged { layer, generation },
        POISONED => Entry::Poisoned { layer, generation },
        REDO => Entry::Redo {
            layer,
            generation,
            redo: Redo::decode(bytes)?,
        },
        RETIRE => Entry::Retire {
            layer,
            generation,
            offset: take_u64(bytes)?,
        },
        _ => return None,
    })
}

fn decode_facts(bytes: &mut &[u8], layer: LayerId, generation: u64) -> Option<Entry> {
    let [flags] = take(bytes)?;
    let size = take_u64(bytes)?;
    let image = ImageId(take(bytes)?);
    let durability = if flags & FLAG_VOLATILE == 0 {
        Durability::Durable
    } else {
        Durability::Volatile
    };
    Some(Entry::Layer(Facts {
        layer,
        generation,
        birth: (flags & FLAG_BORN != 0).then_some(Birth {
            image,
            size,
            durability,
        }),
        lost: flags & FLAG_LOST != 0,
        damaged: flags & FLAG_DAMAGED != 0,
    }))
}

/// A layer as the logs tell it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) facts: Facts,
    pub(super) map: BlockMap,
    /// Atomic writes that are not known to be whole, in their order.
    pub(super) redos: Vec<Redo>,
    /// A sync failed since the host came up.
    pub(super) poisoned: bool,
}

impl Row {
    pub(super) fn new(facts: Facts, map: BlockMap) -> Self {
        Self {
            facts,
            map,
            redos: Vec::new(),
            poisoned: false,
        }
    }

    fn retire(&mut self, offset: u64) {
        self.redos.retain(|old| old.offset != offset);
    }

    fn open(&mut self, redo: Redo) {
        let last = redo.span().map(|span| *span.end());
        if last.is_some_and(|last| fits(&self.facts, last)) {
            self.retire(redo.offset);
            self.redos.push(redo);
        }
    }
}

/// What all entries of a log add up to.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) rows: HashMap<LayerId, Row>,
    pub(super) generation_next: u64,
    pub(super) records: u64,
}

impl Table {
    /// Adds one entry. Entries of generations that are over are passed by, so repeating a log, or putting
    /// an older soft log over a newer journal, changes nothing that is settled.
    pub(super) fn apply(&mut self, entry: Entry) {
        self.records += 1;
        match entry {
            Entry::Header(header) => {
                self.records -= 1;
                self.generation_next = self.generation_next.max(header.generation_next);
            }
            Entry::End { .. } => self.records -= 1,
            Entry::Layer(facts) => self.apply_facts(facts),
            Entry::Blocks {
                layer,
                generation,
                state,
                span,
            } => {
                if let Some(row) = self.row(layer, generation)
                    && fits(&row.facts, *span.end())
                {
                    row.map.set(span, state);
                }
            }
            Entry::Map {
                layer,
                generation,
                state,
                set,
            } => {
                if let Some(row) = self.row(layer, generation)
                    && set.max().is_none_or(|last| fits(&row.facts, last))
                {
                    row.map.add(set, state);
                }
            }
            Entry::Reset { layer, generation } => {
                self.apply_facts(unborn(layer, generation, false));
            }
            Entry::Remove { layer, generation } => {
                self.seen(generation);
                let older = |row: &Row| row.facts.generation <= generation;
                if self.rows.get(&layer).is_some_and(older) {
                    self.rows.remove(&layer);
                }
            }
            Entry::Redo {
                layer,
                generation,
                redo,
            } => {
                if let Some(row) = self.row(layer, generation) {
                    row.open(redo);
                }
            }
            Entry::Retire {
                layer,
                generation,
                offset,
            } => {
                if let Some(row) = self.row(layer, generation) {
                    row.retire(offset);
                }
            }
            Entry::Damaged { layer, generation } => self.damaged(layer, generation),
            Entry::Poisoned { layer, generation } => self.poisoned(layer, generation),
        }
    }

    // Also of a layer that nothing was written to: its reset may not be on the medium.
    fn poisoned(&mut self, layer: LayerId, generation: u64) {
        if let Some(row) = self.rows.get_mut(&layer)
            && row.facts.generation == generation
        {
            row.poisoned = true;
        }
    }

    fn damaged(&mut self, layer: LayerId, generation: u64) {
        self.apply_facts(unborn(layer, generation, false));
        if let Some(row) = self.rows.get_mut(&layer)
            && row.facts.generation == generation
        {
            row.facts.damaged = true;
        }
    }

    fn apply_facts(&mut self, facts: Facts) {
        self.seen(facts.generation);
        match self.rows.get_mut(&facts.layer) {
            Some(row) if row.facts.generation > facts.generation => {}
            Some(row) if row.facts.generation == facts.generation => {
                row.facts.birth = row.facts.birth.or(facts.birth);
                row.facts.lost = facts.lost;
                row.facts.damaged |= facts.damaged;
            }
            _ => {
                let row = Row::new(facts, BlockMap::default());
                self.rows.insert(facts.layer, row);
            }
        }
    }

    fn row(&mut self, layer: LayerId, generation: u64) -> Option<&mut Row> {
        let row = self.rows.get_mut(&layer)?;
        (row.facts.generation == generation && row.facts.birth.is_some()).then_some(row)
    }

    fn seen(&mut self, generation: u64) {
        self.generation_next = self.generation_next.max(generation.saturating_add(1));
    }
}

/// A generation that nothing was written to.
pub(super) const fn unborn(layer: LayerId, generation: u64, lost: bool) -> Facts {
    Facts {
        layer,
        generation,
        birth: None,
        lost,
        damaged: false,
    }
}

fn fits(facts: &Facts, last: u32) -> bool {
    facts
        .birth
        .is_some_and(|birth| u64::from(last) < birth.size.div_ceil(BLOCK_BYTES))
}

#[cfg(test)]
mod test {
    use super::*;

    fn all_kinds() -> Vec<Entry> {
        let (layer, generation) = (LayerId(7), 9);
        let birth = Birth {
            image: ImageId([3; 32]),
            size: 1 << 20,
            durability: Durability::Volatile,
        };
        vec![
            Entry::Header(Header {
                version: VERSION,
                boot: [5; 16],
                generation_next: 3,
                previous_end: 17,
                previous_crc: 19,
            }),
            Entry::Layer(Facts {
                birth: Some(birth),
                ..unborn(layer, generation, true)
            }),
            Entry::Blocks {
                layer,
                generation,
                state: BlockState::Present,
                span: 3..=9,
            },
            Entry::Map {
                layer,
                generation,
                state: BlockState::Zero,
                set: (4..6).collect(),
            },
            Entry::Damaged { layer, generation },
            Entry::Poisoned { layer, generation },
            Entry::Redo {
                layer,
                generation,
                redo: Redo {
                    offset: 512,
                    data: vec![7; 1024].into(),
                },
            },
            Entry::Retire {
                layer,
                generation,
                offset: 512,
            },
            Entry::Reset { layer, generation },
            Entry::Remove { layer, generation },
            Entry::End { layers: 4 },
        ]
    }

    #[test]
    fn entries_come_back_as_they_went() {
        let mut bytes = Vec::new();
        for entry in all_kinds() {
            entry.encode(&mut bytes);
            bytes.push(PAD);
        }
        let back: Result<Vec<_>, ()> = Entries(&bytes).collect();
        assert_eq!(back.unwrap(), all_kinds());
    }

    #[test]
    fn cut_or_changed_entries_are_refused_or_read_but_never_panic() {
        let mut bytes = Vec::new();
        all_kinds()
            .iter()
            .for_each(|entry| entry.encode(&mut bytes));
        for cut in 0..bytes.len() {
            let _ = Entries(&bytes[..cut]).count();
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[cut] ^= 1 << bit;
                let mut table = Table::default();
                Entries(&flipped)
                    .flatten()
                    .for_each(|entry| table.apply(entry));
            }
        }
    }

    #[test]
    fn replaying_a_log_twice_changes_nothing() {
        let mut once = Table::default();
        all_kinds()
            .into_iter()
            .take(4)
            .for_each(|entry| once.apply(entry));
        let mut twice = once.clone();
        all_kinds()
            .into_iter()
            .take(4)
            .for_each(|entry| twice.apply(entry));
        assert_eq!(once.rows, twice.rows);
        assert_eq!(once.rows[&LayerId(7)].map.state(3), BlockState::Present);
        assert_eq!(once.rows[&LayerId(7)].map.state(4), BlockState::Zero);
    }

    #[test]
    fn an_older_generation_changes_nothing() {
        let mut table = Table::default();
        let layer = LayerId(7);
        table.apply(Entry::Reset {
            layer,
            generation: 12,
        });
        all_kinds().into_iter().for_each(|entry| table.apply(entry));
        assert_eq!(table.rows[&layer].facts, unborn(layer, 12, false));
        assert_eq!(table.generation_next, 13);
    }
}
