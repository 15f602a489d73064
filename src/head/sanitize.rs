//! Notes of sanitize operations: written before the first block is touched, taken away when the last one is
//! done. A note that is found at an attach tells that the disk was left half sanitized.

use super::Head;
use super::error::Result;
use crate::names::LayerId;

/// AUSE was set: the disk may be used again without another attempt.
const UNRESTRICTED: &str = "unrestricted";
const RESTRICTED: &str = "restricted";
/// No operation. The catalog's facts are never removed, only said anew.
const NONE: &str = "";

fn name(layer: LayerId) -> String {
    format!("sanitize.{layer}")
}

impl Head {
    /// A sanitize operation is about to begin on this layer. Durable when it returns.
    ///
    /// # Errors
    /// The catalog's: then it must not begin.
    pub fn sanitize_begun(&self, layer: LayerId, unrestricted: bool) -> Result<()> {
        let word = if unrestricted {
            UNRESTRICTED
        } else {
            RESTRICTED
        };
        self.sanitize_note(layer, word)
    }

    /// The operation is done, or was given up by its initiator, or the layer it was about is gone.
    ///
    /// # Errors
    /// The catalog's: then the note stands.
    pub fn sanitize_over(&self, layer: LayerId) -> Result<()> {
        if self.sanitize_cut(layer).is_none() {
            return Ok(());
        }
        self.sanitize_note(layer, NONE)
    }

    /// The AUSE of an operation that runs or was cut off.
    #[must_use]
    pub fn sanitize_cut(&self, layer: LayerId) -> Option<bool> {
        match self.snapshot().fact(&name(layer))? {
            NONE => None,
            word => Some(word == UNRESTRICTED),
        }
    }

    fn sanitize_note(&self, layer: LayerId, word: &str) -> Result<()> {
        self.change(false, |changes| Ok(changes.set_fact(&name(layer), word)?))
    }
}

#[cfg(test)]
mod test {
    use crate::catalog::LayerMode;
    use crate::head::test::Bench;

    #[test]
    fn a_sanitize_that_was_cut_off_is_found_at_every_attach_until_it_is_over() {
        let mut bench = Bench::with_nodes(LayerMode::Persistent);
        bench.boot("n1");
        let layer = bench.os("n1").node.layer;
        assert_eq!(bench.os("n1").sanitize, None);
        bench.head().sanitize_begun(layer, false).unwrap();
        bench.reopen();
        assert_eq!(bench.os("n1").sanitize, Some(false));
        bench.head().sanitize_begun(layer, true).unwrap();
        assert_eq!(bench.os("n1").sanitize, Some(true));
        bench.head().sanitize_over(layer).unwrap();
        bench.reopen();
        assert_eq!(bench.os("n1").sanitize, None);
    }

    #[test]
    fn a_new_generation_of_the_layer_has_nothing_to_sanitize() {
        let bench = Bench::with_nodes(LayerMode::Persistent);
        bench.boot("n1");
        let layer = bench.os("n1").node.layer;
        bench.head().sanitize_begun(layer, false).unwrap();
        bench.reset("n1");
        assert_eq!(bench.head().sanitize_cut(layer), None);
    }
}
