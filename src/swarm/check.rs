//! Is this what the disk must hold? Bytes are compared where they were received. Pure.

use serde::Serialize;

use super::data::{self, Author, SECTOR};
use super::golden::Golden;
use super::ledger::{Ledger, State};

/// Sectors that held what they must not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The node that read them.
    pub node: String,
    /// First wrong byte's sector, bytes on the disk.
    pub offset: u64,
    /// Wrong sectors of the operation piece.
    pub sectors: u64,
    /// What had to be there, from whom.
    pub expected: String,
    /// What was there, from whom as far as it can be told.
    pub found: String,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            node,
            offset,
            sectors,
            expected,
            found,
        } = self;
        write!(
            f,
            "node {node} read wrong bytes at {offset} ({sectors} sectors): expected {expected}, found {found}"
        )
    }
}

/// What is known to compare with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) seed: u64,
    pub(super) golden: Option<&'a Golden>,
    /// Names of all nodes, by number.
    pub(super) names: &'a dyn Names,
    pub(super) node: u32,
    pub(super) ledger: &'a Ledger,
    /// Unmapped blocks read zeros.
    pub(super) zeroes: bool,
}

/// Names of nodes by number.
pub(super) trait Names: std::fmt::Debug {
    fn name(&self, node: u32) -> Option<&str>;
    fn count(&self) -> u32;
}

/// What a comparison said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) good: u64,
    pub(super) unknown: u64,
    pub(super) bad_sectors: u64,
    /// The first wrong sector, when it was asked for.
    pub(super) first: Option<Wrong>,
}

/// A wrong sector.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) offset: u64,
    pub(super) expected: String,
    pub(super) found: String,
}

impl Known<'_> {
    /// Bytes that no write of the node touched, against the golden ones at `place`.
    pub(super) fn untouched(&self, offset: u64, piece: &[u8], place: usize, tell: bool) -> Verdict {
        let Some(golden) = self.golden else {
            return Verdict {
                unknown: piece.len() as u64,
                ..Verdict::default()
            };
        };
        if piece == golden.at(place, piece.len()) {
            return Verdict {
                good: piece.len() as u64,
                ..Verdict::default()
            };
        }
        self.sectors(offset, piece, u32::MAX, tell)
    }

    /// Bytes of a read that began at `since`, sector by sector, against every state they may be in.
    pub(super) fn sectors(&self, offset: u64, piece: &[u8], since: u32, tell: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let mut rest = piece;
        let mut at = offset;
        while !rest.is_empty() {
            let room = usize::try_from(SECTOR - at % SECTOR).unwrap_or(512);
            let (now, later) = rest.split_at(room.min(rest.len()));
            match self.sector(at, now, since) {
                Some(true) => verdict.good += now.len() as u64,
                None => verdict.unknown += now.len() as u64,
                Some(false) => {
                    verdict.bad_sectors += 1;
                    if tell && verdict.first.is_none() {
                        verdict.first = Some(Wrong {
                            offset: at - at % SECTOR,
                            expected: self.expected(at, since),
                            found: self.whose(at, now),
                        });
                    }
                }
            }
            at += now.len() as u64;
            rest = later;
        }
        verdict
    }

    /// None: nobody knows.
    fn sector(&self, at: u64, piece: &[u8], since: u32) -> Option<bool> {
        let mut unknown = false;
        for state in self.ledger.states(at, since) {
            match self.is_in(state, at, piece) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => unknown = true,
            }
        }
        let forgotten = !self.zeroes && self.ledger.discards(at, at + 1);
        (!unknown && !forgotten).then_some(false)
    }

    fn is_in(&self, state: State, at: u64, piece: &[u8]) -> Option<bool> {
        match state {
            State::Golden => {
                let place = self.golden?.place(at, piece.len() as u64)?;
                Some(self.golden?.at(place, piece.len()) == piece)
            }
            State::Own(generation) => Some(self.wrote(self.node, generation, at, piece)),
            State::Zeros(_) => Some(piece.iter().all(|b| *b == 0)),
        }
    }

    fn wrote(&self, node: u32, generation: u32, at: u64, piece: &[u8]) -> bool {
        let author = Author {
            seed: self.seed,
            node,
            generation,
        };
        let sector = data::sector(author, at / SECTOR);
        let skip = usize::try_from(at % SECTOR).unwrap_or(0);
        sector.get(skip..skip + piece.len()) == Some(piece)
    }

    fn expected(&self, at: u64, since: u32) -> String {
        match self.ledger.states(at, since).last() {
            Some(State::Own(generation)) => format!("its own write {generation}"),
            Some(State::Zeros(generation)) => format!("zeros by its own command {generation}"),
            Some(State::Golden) | None => "the golden image".to_owned(),
        }
    }

    /// Whose bytes these are: by their head, by the image, or by trying every node's writes of this place.
    fn whose(&self, at: u64, piece: &[u8]) -> String {
        if let Some((author, sector)) = data::author_of(piece).filter(|_| at.is_multiple_of(SECTOR))
        {
            let (node, generation) = (author.node, author.generation);
            let who = match self.names.name(node) {
                _ if author.seed != self.seed => format!("node {node} of another run"),
                Some(_) if node == self.node => "itself".to_owned(),
                Some(name) => format!("node {name}"),
                None => format!("a node {node} that there is not"),
            };
            let place = match sector * SECTOR {
                there if there == at => String::new(),
                there => format!(" for {there}"),
            };
            let whole =
                author.seed == self.seed && self.wrote(node, generation, sector * SECTOR, piece);
            let damage = if whole || author.seed != self.seed {
                ""
            } else {
                ", damaged"
            };
            return format!("write {generation} of {who}{place}{damage}");
        }
        if piece.iter().all(|b| *b == 0) {
            return "zeros".to_owned();
        }
        if self.is_in(State::Golden, at, piece) == Some(true) {
            return "the golden image".to_owned();
        }
        for generation in self.ledger.generations(at) {
            for node in 0..self.names.count() {
                if self.wrote(node, generation, at, piece) {
                    let name = self.names.name(node).unwrap_or_default();
                    return format!("write {generation} of node {name}");
                }
            }
        }
        "bytes that nobody wrote".to_owned()
    }
}

#[cfg(test)]
mod test {
    use super::super::ledger::Change;
    use super::*;

    #[derive(Debug)]
    struct Three;
    impl Names for Three {
        fn name(&self, node: u32) -> Option<&str> {
            ["a", "b", "c"].get(node as usize).copied()
        }
        fn count(&self) -> u32 {
            3
        }
    }

    fn golden() -> Golden {
        let fill = |_: u64, out: &mut [u8]| {
            out.fill(0x47);
            Ok::<_, super::super::error::Error>(())
        };
        Golden::load(&[(0, 4096)], fill).unwrap()
    }

    fn bytes(node: u32, generation: u32, offset: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let author = Author {
            seed: 5,
            node,
            generation,
        };
        data::append(author, offset, len, &mut out);
        out
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.begin(8, Change::Data, 1024, 2048);
        ledger.end(8);
        ledger
    }

    fn look(offset: u64, piece: &[u8]) -> Verdict {
        let (golden, ledger) = (golden(), ledger());
        let known = Known {
            seed: 5,
            golden: Some(&golden),
            names: &Three,
            node: 1,
            ledger: &ledger,
            zeroes: true,
        };
        known.sectors(offset, piece, ledger.now(), true)
    }

    fn told(offset: u64, piece: &[u8]) -> (u64, String, String) {
        let wrong = look(offset, piece).first.unwrap();
        (wrong.offset, wrong.expected, wrong.found)
    }

    #[test]
    fn golden_and_own_bytes_are_right_in_any_cut() {
        let mut disk = vec![0x47; 4096];
        disk[1024..2048].copy_from_slice(&bytes(1, 8, 1024, 1024));
        for cut in [1, 7, 511, 512, 1000, 4096] {
            for (at, piece) in disk.chunks(cut).enumerate() {
                let verdict = look((at * cut) as u64, piece);
                assert_eq!(verdict.bad_sectors, 0, "{verdict:?}");
                assert_eq!(verdict.good, piece.len() as u64);
            }
        }
    }

    #[test]
    fn anothers_bytes_are_known_for_whose_they_are() {
        let own = "its own write 8";
        let find = |piece: &[u8]| told(1024, piece);
        assert_eq!(
            find(&bytes(2, 8, 1024, 512)),
            (1024, own.into(), "write 8 of node c".into())
        );
        assert_eq!(find(&bytes(1, 3, 1024, 512)).2, "write 3 of itself");
        assert_eq!(
            find(&bytes(0, 8, 1536, 512)).2,
            "write 8 of node a for 1536"
        );
        assert_eq!(find(&[0x47; 512]).2, "the golden image");
        assert_eq!(find(&[0; 512]).2, "zeros");
        assert_eq!(find(&[9; 512]).2, "bytes that nobody wrote");
        let mut cut = bytes(2, 8, 1024, 512);
        assert_eq!(told(1100, &cut[76..]).2, "write 8 of node c");
        cut[500] ^= 1;
        assert_eq!(find(&cut).2, "write 8 of node c, damaged");
    }

    #[test]
    fn a_flipped_bit_of_the_image_is_told_with_its_sector() {
        let (golden, ledger) = (golden(), Ledger::default());
        let known = Known {
            seed: 5,
            golden: Some(&golden),
            names: &Three,
            node: 1,
            ledger: &ledger,
            zeroes: true,
        };
        let mut disk = vec![0x47; 2048];
        assert_eq!(known.untouched(0, &disk, 0, true).good, 2048);
        disk[1100] ^= 4;
        let verdict = known.untouched(0, &disk, 0, true);
        assert_eq!((verdict.good, verdict.bad_sectors), (1536, 1));
        let first = verdict.first.unwrap();
        assert_eq!((first.offset, &*first.expected), (1024, "the golden image"));
        assert_eq!(first.found, "bytes that nobody wrote");
    }

    #[test]
    fn without_an_image_only_own_writes_are_judged() {
        let ledger = ledger();
        let known = Known {
            seed: 5,
            golden: None,
            names: &Three,
            node: 1,
            ledger: &ledger,
            zeroes: true,
        };
        assert_eq!(known.untouched(0, &[1; 512], 0, true).unknown, 512);
        let verdict = known.sectors(512, &[1; 1024], ledger.now(), true);
        assert_eq!((verdict.unknown, verdict.bad_sectors), (512, 1));
    }
}
