//! Random bytes for logins, drawn from the system many at a time. Each is given out once and not kept.

use std::sync::{Mutex, PoisonError};

/// Bytes that one login may use.
const DRAW: usize = 64;
/// Draws that are taken from the system together.
const DRAWS: usize = 16;

#[derive(Debug)]
pub(super) struct Chance(Mutex<Stock>);

struct Stock {
    bytes: [[u8; DRAW]; DRAWS],
    left: usize,
}

impl std::fmt::Debug for Stock {
    /// They become challenges: not a word of them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stock").field("left", &self.left).finish()
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self(Mutex::new(Stock {
            bytes: [[0; DRAW]; DRAWS],
            left: 0,
        }))
    }
}

impl Chance {
    /// None when the system gives none.
    pub(super) fn draw(&self) -> Option<[u8; DRAW]> {
        let mut stock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stock.left == 0 {
            getrandom::fill(stock.bytes.as_flattened_mut()).ok()?;
            stock.left = DRAWS;
        }
        stock.left -= 1;
        let at = stock.left;
        stock
            .bytes
            .get_mut(at)
            .map(|draw| std::mem::replace(draw, [0; DRAW]))
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_draw_is_given_out_twice_or_kept() {
        let chance = Chance::default();
        let draws: HashSet<_> = (0..3 * DRAWS).map(|_| chance.draw().unwrap()).collect();
        assert_eq!(draws.len(), 3 * DRAWS);
        assert!(!draws.contains(&[0; DRAW]));
        let stock = chance.0.lock().unwrap();
        assert_eq!(stock.left, 0);
        assert_eq!(stock.bytes, [[0; DRAW]; DRAWS]);
    }
}
