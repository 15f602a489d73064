//! Chance: secrets and identities of new nodes.

use std::fmt::Write as _;

use super::error::{HeadError, HeadErrorKind, Result};
use crate::catalog::Secret;

/// 64 characters, so that each carries 6 bits; none needs quoting in a script or a URL.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A pair of them, never equal: the node's, and the head's towards that node.
pub(super) fn secrets() -> Result<(Secret, Secret)> {
    let node = secret()?;
    loop {
        let head = secret()?;
        if head != node {
            return Ok((node, head));
        }
    }
}

/// A CHAP secret of 16 characters and 96 bits (RFC 7143 12.1.3 asks for at least 96; some initiators take
/// no more than 16 characters).
fn secret() -> Result<Secret> {
    let bytes: [u8; 16] = random()?;
    let letter = |byte: u8| char::from(ALPHABET[usize::from(byte & 63)]);
    Ok(Secret(bytes.into_iter().map(letter).collect()))
}

/// A random UUID (RFC 9562 5.4).
pub(super) fn uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) {
            "-"
        } else {
            ""
        };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    Ok(text)
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| {
        let message = format!("the system gives no random bytes: {e}");
        HeadError::new(HeadErrorKind::Internal, message)
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod test {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn secrets_have_the_length_that_every_initiator_takes() {
        let secrets: HashSet<String> = (0..200).map(|_| secret().unwrap().0).collect();
        assert_eq!(secrets.len(), 200);
        for text in &secrets {
            assert_eq!(text.len(), 16);
            assert!(text.bytes().all(|b| ALPHABET.contains(&b)), "{text}");
        }
        let letters: HashSet<char> = secrets.iter().flat_map(|s| s.chars()).collect();
        assert_eq!(letters.len(), 64);
    }

    #[test]
    fn uuids_are_of_version_4() {
        let text = uuid().unwrap();
        let parts: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&text.as_bytes()[19]));
        assert_ne!(text, uuid().unwrap());
    }
}
