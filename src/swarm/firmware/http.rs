//! One HTTP request, as iPXE and a node's ready call make it (RFC 9112): a GET, and an answer of a few kilobytes.
//! Pure: bytes in, bytes out.

use crate::limits::{SWARM_HTTP_BODY_MAX, SWARM_HTTP_HEAD_MAX};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agent {
    /// iPXE asks with HTTP/1.1.
    Ipxe,
    /// The shell script of an image: HTTP/1.0.
    Shell,
}

/// The request for `path` of `host` (`10.0.0.1:8068`).
pub(super) fn get(agent: Agent, host: &str, path: &str) -> Vec<u8> {
    let text = match agent {
        Agent::Ipxe => format!(
            "GET {path} HTTP/1.1\r\nConnection: keep-alive\r\nUser-Agent: iPXE/1.21.1\r\nHost: {host}\r\n\r\n"
        ),
        Agent::Shell => format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    };
    text.into_bytes()
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// An answer that is coming in.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
}

/// How the end of a body is known (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

impl Reader {
    /// Takes bytes in; the answer once it is whole. The error says why it never will be.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<Option<Answer>, String> {
        if self.bytes.len() + bytes.len() > SWARM_HTTP_HEAD_MAX + SWARM_HTTP_BODY_MAX {
            return Err(format!(
                "its answer has more than {SWARM_HTTP_BODY_MAX} bytes"
            ));
        }
        self.bytes.extend_from_slice(bytes);
        self.look(false)
    }

    /// The other side closed the connection.
    pub(super) fn closed(&mut self) -> Result<Answer, String> {
        let whole = self.look(true)?;
        whole.ok_or_else(|| match self.bytes.len() {
            0 => "it closed the connection without an answer".to_owned(),
            len => format!("it closed the connection after {len} bytes of its answer"),
        })
    }

    fn look(&self, closed: bool) -> Result<Option<Answer>, String> {
        let bytes = self.bytes.as_slice();
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            return match bytes.len() {
                0..=SWARM_HTTP_HEAD_MAX => Ok(None),
                _ => Err("the head of its answer does not end".to_owned()),
            };
        };
        let (head, rest) = bytes.split_at(end);
        let rest = rest.get(4..).unwrap_or_default();
        let (status, framing) = head_of(head)?;
        let body = match framing {
            Framing::Length(len) => rest.get(..len).map(<[u8]>::to_vec),
            Framing::Chunked => chunks(rest)?,
            Framing::Close => closed.then(|| rest.to_vec()),
        };
        let text = |body: Vec<u8>| String::from_utf8(body).map_err(|_| "its answer is no text");
        let body = body.map(text).transpose()?;
        Ok(body.map(|body| Answer { status, body }))
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Status and framing.
fn head_of(head: &[u8]) -> Result<(u16, Framing), String> {
    let text = std::str::from_utf8(head).map_err(|_| "it does not answer in HTTP")?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let version = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    let status = words.next().and_then(|word| word.parse().ok());
    let status = status.filter(|status| version && (100..600).contains(status));
    let status = status.ok_or("it does not answer in HTTP")?;
    let mut framing = Framing::Close;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Err("the head of its answer cannot be read".to_owned());
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(format!(
                    "its answer comes in the coding `{}`",
                    value.escape_debug()
                ));
            }
            // It rules out any length (RFC 9112, 6.3).
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("content-length") && framing != Framing::Chunked {
            let len = value.parse().ok().filter(|len| *len <= SWARM_HTTP_BODY_MAX);
            framing = Framing::Length(len.ok_or_else(|| {
                format!(
                    "its answer has {} bytes, and not at most {SWARM_HTTP_BODY_MAX}",
                    value.escape_debug()
                )
            })?);
        }
    }
    Ok((status, framing))
}

/// The chunked coding (RFC 9112, 7.1); none while it is not whole.
fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(rest, b"\r\n") else {
            return Ok(None);
        };
        let (line, after) = rest.split_at(end);
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).ok();
        let size = size.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let size = size.filter(|size| *size <= SWARM_HTTP_BODY_MAX);
        let size = size.ok_or("its answer has a chunk without a size")?;
        let after = after.get(2..).unwrap_or_default();
        if size == 0 {
            // Trailers follow, up to an empty line.
            let over = after.starts_with(b"\r\n") || find(after, b"\r\n\r\n").is_some();
            return Ok(over.then_some(body));
        }
        let (Some(chunk), Some(end)) = (after.get(..size), after.get(size..size + 2)) else {
            return Ok(None);
        };
        if end != b"\r\n" {
            return Err("its answer has a chunk that does not end".to_owned());
        }
        body.extend_from_slice(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn hear(text: &str) -> Result<Option<Answer>, String> {
        Reader::default().hear(text.as_bytes())
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            body: body.to_owned(),
        }
    }

    #[test]
    fn requests_are_those_of_ipxe_and_of_the_ready_script() {
        let text = |agent| String::from_utf8(get(agent, "10.0.0.1:8068", "/ready?mac=x")).unwrap();
        let ipxe = text(Agent::Ipxe);
        assert!(ipxe.starts_with("GET /ready?mac=x HTTP/1.1\r\n") && ipxe.ends_with("\r\n\r\n"));
        assert!(ipxe.contains("\r\nHost: 10.0.0.1:8068\r\n"));
        let shell = "GET /ready?mac=x HTTP/1.0\r\nHost: 10.0.0.1:8068\r\nConnection: close\r\n\r\n";
        assert_eq!(text(Agent::Shell), shell);
    }

    #[test]
    fn answers_end_by_length_by_chunks_or_by_the_end_of_the_connection() {
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(hear(length), Ok(Some(answer(200, "hello"))));
        let chunked = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n\
                       3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n";
        assert_eq!(hear(chunked), Ok(Some(answer(404, "hello"))));
        let mut reader = Reader::default();
        assert_eq!(reader.hear(b"HTTP/1.0 200 OK\r\n\r\nhel"), Ok(None));
        assert_eq!(reader.hear(b"lo"), Ok(None));
        assert_eq!(reader.closed(), Ok(answer(200, "hello")));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let why = |text: &str| hear(text).unwrap_err();
        assert!(why("SSH-2.0-OpenSSH_9.2\r\n\r\n").contains("not answer in HTTP"));
        assert!(why("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n").contains("99999999"));
        assert!(why("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n").contains("`gzip`"));
        assert!(
            why("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").contains("chunk")
        );
        assert!(why(&"x".repeat(SWARM_HTTP_HEAD_MAX + 1)).contains("does not end"));
        assert!(
            why(&"x".repeat(SWARM_HTTP_HEAD_MAX + SWARM_HTTP_BODY_MAX + 1)).contains("more than")
        );
        let mut cut = Reader::default();
        assert!(cut.closed().unwrap_err().contains("without an answer"));
        assert_eq!(
            cut.hear(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe"),
            Ok(None)
        );
        assert!(cut.closed().unwrap_err().contains("after 40 bytes"));
    }

    proptest! {
        #[test]
        fn an_answer_is_the_same_however_it_is_cut(cuts in prop::collection::vec(1usize..20, 1..40), chunked: bool) {
            let text: &[u8] = if chunked {
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n6\r\nefghij\r\n0\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabcdefghij"
            };
            let (mut reader, mut rest, mut found) = (Reader::default(), text, None);
            for cut in cuts.into_iter().cycle() {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                prop_assert!(found.is_none(), "not whole before its end");
                found = reader.hear(now).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, Some(answer(200, "abcdefghij")));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader::default().hear(&bytes);
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut reader = Reader::default();
            let _ = reader.hear(&[&head[..], &bytes].concat());
            let _ = reader.closed();
        }
    }
}
