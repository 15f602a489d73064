//! A door for the fuzz targets (`tools/fuzz`): the receive buffer, which is this room's own. Only there
//! when built with `--cfg fuzzing`.

use super::frame::{Decoder, TRAILER_BYTES_MAX};
use super::pdu::Bhs;
use super::rx::{Found, Rx};
use crate::limits;

/// One PDU as the driver would hand it to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Header.
    pub bhs: Bhs,
    /// Additional header segments.
    pub ahs: Vec<u8>,
    /// Data segment.
    pub data: Vec<u8>,
    /// The data digest was right.
    pub intact: bool,
}

/// Reads `stream` through a receive buffer in pieces as long as `cut` says: the PDUs, and why it broke off
/// before the end, if it did. With `direct`, large segments are handed out header first.
pub fn receive(
    decoder: Decoder,
    direct: bool,
    stream: &[u8],
    mut cut: impl FnMut() -> usize,
) -> (Vec<Received>, Option<String>) {
    let mut rx = Rx::new(decoder, limits::RECEIVE_MAX);
    if direct {
        rx.hand_out_heads();
    }
    let mut rest = stream;
    let mut found = Vec::new();
    loop {
        match rx.next() {
            Found::Whole(frame) => found.push(Received {
                bhs: frame.bhs,
                ahs: rx.bytes(frame.ahs).to_vec(),
                data: rx.bytes(frame.data).to_vec(),
                intact: frame.intact,
            }),
            Found::Head(head, ahs) => {
                let ahs = rx.bytes(ahs).to_vec();
                let (len, tail) = (head.data_len(), head.trailer_len());
                assert!(tail <= TRAILER_BYTES_MAX);
                let mut bytes = Vec::new();
                while bytes.len() < len + tail {
                    if rx.len() == 0 && !feed(&mut rx, &mut rest, cut()) {
                        return (found, None);
                    }
                    let left = len + tail - bytes.len();
                    bytes.extend_from_slice(rx.take(left));
                }
                let trailer = bytes.split_off(len);
                found.push(Received {
                    bhs: head.bhs,
                    ahs,
                    intact: head.is_intact(&bytes, &trailer),
                    data: bytes,
                });
            }
            Found::Broken(why) => return (found, Some(why.to_string())),
            Found::More => {
                if !feed(&mut rx, &mut rest, cut()) {
                    return (found, None);
                }
            }
        }
    }
}

/// False when nothing is left.
fn feed(rx: &mut Rx, rest: &mut &[u8], cut: usize) -> bool {
    let space = rx.space();
    assert!(!space.is_empty(), "no room to read into");
    let n = space.len().min(cut).min(rest.len());
    let (now, later) = rest.split_at(n);
    space[..n].copy_from_slice(now);
    rx.filled(n);
    *rest = later;
    n > 0
}
