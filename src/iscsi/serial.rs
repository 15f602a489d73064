//! Sequence numbers that wrap at 2^32 (RFC 7143 4.2.2, RFC 1982 with SERIAL_BITS = 32).
//!
//! They are no `Ord`: serial order is not transitive over the whole circle, so sorting by it would be
//! wrong. Compare two numbers with `is_before`, and a number with a window with `is_within`.

use std::fmt;

/// Numbers that lie 2^31 apart have no order (RFC 1982 3.2).
const HALF: u32 = 1 << 31;

macro_rules! serial {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The number `steps` after this one.
            #[must_use]
            pub const fn plus(self, steps: u32) -> Self {
                Self(self.0.wrapping_add(steps))
            }

            /// The number `steps` before this one.
            #[must_use]
            pub const fn minus(self, steps: u32) -> Self {
                Self(self.0.wrapping_sub(steps))
            }

            /// Steps forward from `earlier` to here, going round the circle.
            #[must_use]
            pub const fn steps_from(self, earlier: Self) -> u32 {
                self.0.wrapping_sub(earlier.0)
            }

            /// True when this number comes before `other`; false for equal numbers and for numbers
            /// exactly half the circle apart.
            #[must_use]
            pub const fn is_before(self, other: Self) -> bool {
                let steps = other.steps_from(self);
                steps != 0 && steps < HALF
            }

            /// True when this number lies in `first..=last`. A window whose `last` is `first - 1` is
            /// closed: nothing lies in it. A window of half the circle or more is not valid.
            #[must_use]
            pub const fn is_within(self, first: Self, last: Self) -> bool {
                let size = last.steps_from(first).wrapping_add(1);
                size < HALF && self.steps_from(first) < size
            }

            /// The later of the two: a number that must never go back.
            #[must_use]
            pub const fn later(self, other: Self) -> Self {
                if self.is_before(other) { other } else { self }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

serial!(
    /// Command sequence number, session wide (RFC 7143 4.2.2.1).
    CmdSn
);
serial!(
    /// Status sequence number, per connection (RFC 7143 4.2.2.2).
    StatSn
);
serial!(
    /// Number of a Data-In, Data-Out or R2T within its task or burst (RFC 7143 4.2.2.3).
    DataSn
);

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(CmdSn(u32::MAX).is_before(CmdSn(0)));
        assert!(!CmdSn(0).is_before(CmdSn(u32::MAX)));
        assert!(!CmdSn(7).is_before(CmdSn(7)));
        assert_eq!(CmdSn(u32::MAX).next(), CmdSn(0));
        assert_eq!(CmdSn(0).minus(1), CmdSn(u32::MAX));
    }

    #[test]
    fn half_the_circle_apart_has_no_order() {
        assert!(!CmdSn(0).is_before(CmdSn(HALF)));
        assert!(!CmdSn(HALF).is_before(CmdSn(0)));
        assert!(CmdSn(0).is_before(CmdSn(HALF - 1)));
    }

    #[test]
    fn a_window_holds_its_edges_and_nothing_beyond() {
        let (first, last) = (CmdSn(u32::MAX - 1), CmdSn(2));
        for inside in [u32::MAX - 1, u32::MAX, 0, 1, 2] {
            assert!(CmdSn(inside).is_within(first, last), "{inside}");
        }
        for outside in [u32::MAX - 2, 3, HALF, HALF + 1] {
            assert!(!CmdSn(outside).is_within(first, last), "{outside}");
        }
    }

    #[test]
    fn a_closed_window_holds_nothing() {
        for n in [8, 9, 10, 0, u32::MAX] {
            assert!(!CmdSn(n).is_within(CmdSn(10), CmdSn(9)));
        }
    }

    #[test]
    fn a_number_that_never_goes_back_ignores_older_ones() {
        assert_eq!(StatSn(5).later(StatSn(4)), StatSn(5));
        assert_eq!(StatSn(u32::MAX).later(StatSn(1)), StatSn(1));
    }

    proptest! {
        #[test]
        fn before_agrees_with_counting_forward(a: u32, steps in 1..HALF) {
            let (a, b) = (CmdSn(a), CmdSn(a).plus(steps));
            prop_assert!(a.is_before(b));
            prop_assert!(!b.is_before(a));
            prop_assert_eq!(b.steps_from(a), steps);
        }
    }
}
