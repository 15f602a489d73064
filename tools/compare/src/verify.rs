//! The untimed pass: that what the sessions of a case read is the disk's, byte for byte, and that what they write
//! is there afterwards.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::content::pattern_at;
use crate::load::{Drawer, Plan};
use crate::session::{Op, Session};

/// Commands of each session.
const COMMANDS: usize = 64;

/// Reads through each session and compares with the image.
///
/// # Errors
/// When a byte differs or a command fails.
pub fn reads(sessions: &mut [Session], plan: &Plan, image: &Path, pattern: &[u8]) -> Result<()> {
    let image = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    for (number, session) in (1..).zip(sessions) {
        let mut drawer = Drawer::new(*plan, number);
        let mut drawn: Vec<u64> = (0..COMMANDS).map(|_| drawer.draw().1).collect();
        let mut wanted = vec![0; usize::try_from(plan.len)?];
        session.keep(wanted.len());
        run(
            session,
            Op::Read,
            plan.len,
            &mut drawn,
            pattern,
            |offset, data| {
                image.read_exact_at(&mut wanted, offset)?;
                differs(&wanted, data, offset)
            },
        )?;
        session.keep(0);
    }
    Ok(())
}

/// Writes the pattern through each session, and reads it back.
///
/// # Errors
/// As [`reads`].
pub fn writes(sessions: &mut [Session], plan: &Plan, pattern: &[u8]) -> Result<()> {
    let len = usize::try_from(plan.len)?;
    for (number, session) in (1..).zip(sessions) {
        let mut drawer = Drawer::new(
            Plan {
                flush_every: 0,
                ..*plan
            },
            number,
        );
        let drawn: Vec<u64> = (0..COMMANDS).map(|_| drawer.draw().1).collect();
        run(
            session,
            Op::Write,
            plan.len,
            &mut drawn.clone(),
            pattern,
            |_, _| Ok(()),
        )?;
        session.keep(len);
        run(
            session,
            Op::Read,
            plan.len,
            &mut drawn.clone(),
            pattern,
            |offset, data| {
                let wanted = pattern
                    .get(pattern_at(offset)..)
                    .and_then(|rest| rest.get(..len));
                differs(wanted.unwrap_or_default(), data, offset)
            },
        )?;
        session.keep(0);
    }
    Ok(())
}

fn differs(wanted: &[u8], data: &[u8], offset: u64) -> Result<()> {
    ensure!(
        wanted.len() == data.len(),
        "{} bytes for {}",
        data.len(),
        wanted.len()
    );
    match wanted.iter().zip(data).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => bail!("the byte at {} is not the disk's", offset + at as u64),
    }
}

/// Runs one command at each of these places.
fn run(
    session: &mut Session,
    op: Op,
    len: u32,
    offsets: &mut Vec<u64>,
    pattern: &[u8],
    mut check: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    loop {
        while session.has_room() {
            let Some(offset) = offsets.pop() else {
                break;
            };
            session.submit(op, offset, len, Instant::now(), pattern);
        }
        session.flush(pattern)?;
        if session.outstanding() == 0 {
            ensure!(offsets.is_empty(), "the target takes no commands");
            return Ok(());
        }
        session.receive(true, pattern)?;
        for tag in session.ended() {
            let slot = session.slot(*tag).context("no such task")?;
            check(slot.offset, session.data(*tag))?;
        }
        session.release();
    }
}
