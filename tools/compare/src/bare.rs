//! The baseline: a TCP server that does nothing but what no target can leave out. It takes requests of 48 bytes as
//! the load generator sends them, looks at four fields, and answers with 48 bytes and `pread` of the file; or
//! writes what comes with `pwrite`. It knows no login, no window, no task, no error.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reveille::iscsi::pdu::{BHS_BYTES, Bhs, op};

use crate::content::TRANSFER_MAX;

/// Bytes of requests received at once, and of answers sent at once.
const BUFFER: usize = 1 << 20;
/// Answers from this size on are sent one by one.
const ALONE_FROM: usize = 64 << 10;
/// Commands that may come beyond those answered.
const WINDOW: u32 = 128;

/// Serves the disks, LUN 0 and on, until it is ended; says its port first.
///
/// # Errors
/// When a file is missing or no port is to be had.
pub fn serve(disks: &[&str]) -> Result<()> {
    let open = |path: &&str| {
        let file = File::options().read(true).write(true).open(Path::new(path));
        file.with_context(|| format!("opening {path}"))
    };
    let disks: Arc<[File]> = disks.iter().map(open).collect::<Result<_>>()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    loop {
        let (stream, _) = listener.accept()?;
        let disks = Arc::clone(&disks);
        // A client that closes or talks nonsense ends its own thread.
        std::thread::Builder::new().spawn(move || talk(stream, &disks))?;
    }
}

fn talk(mut stream: TcpStream, disks: &[File]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut input = vec![0; BUFFER];
    let mut output = vec![0; BUFFER];
    let (mut filled, mut stat_sn) = (0, 1_u32);
    loop {
        let room = input.get_mut(filled..).unwrap_or_default();
        let got = stream.read(room)?;
        if got == 0 {
            return Ok(());
        }
        filled += got;
        let (mut taken, mut ready) = (0, 0);
        while let Some(request) = whole_request(input.get(taken..filled).unwrap_or_default()) {
            let room = BHS_BYTES + TRANSFER_MAX;
            if output.len() - ready < room {
                stream.write_all(output.get(..ready).unwrap_or_default())?;
                ready = 0;
            }
            let out = output.get_mut(ready..).unwrap_or_default();
            let len = answer(request, disks, stat_sn, out)?;
            stat_sn = stat_sn.wrapping_add(1);
            ready += len;
            taken += request.len();
            if len >= ALONE_FROM {
                stream.write_all(output.get(..ready).unwrap_or_default())?;
                ready = 0;
            }
        }
        stream.write_all(output.get(..ready).unwrap_or_default())?;
        input.copy_within(taken..filled, 0);
        filled -= taken;
    }
}

/// The request that the bytes begin with, with its data.
fn whole_request(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.first_chunk::<BHS_BYTES>()?;
    let len = usize::try_from(Bhs(*header).data_len()).ok()?;
    bytes.get(..BHS_BYTES + len)
}

/// Carries a request out and puts the answer into `out`; its length.
fn answer(request: &[u8], disks: &[File], stat_sn: u32, out: &mut [u8]) -> Result<usize> {
    let (header, data) = request
        .split_first_chunk::<BHS_BYTES>()
        .context("no header")?;
    let asked = Bhs(*header);
    let lun = usize::from(asked.u8_at(9));
    let disk = disks.get(lun).context("no such disk")?;
    let offset = u64::from(asked.u32_at(34)) * 512;
    let mut bhs = Bhs::new(op::SCSI_RESPONSE);
    bhs.put_u8(1, 0x80);
    let mut len = BHS_BYTES;
    match asked.u8_at(32) {
        0x28 => {
            let wanted = asked.u32_at(20);
            let whole = BHS_BYTES + usize::try_from(wanted)?;
            ensure!(whole <= BHS_BYTES + TRANSFER_MAX, "too much");
            let room = out.get_mut(BHS_BYTES..whole).context("no room")?;
            disk.read_exact_at(room, offset)?;
            bhs = Bhs::new(op::DATA_IN);
            bhs.put_u8(1, 0x81);
            bhs.set_data_len(wanted);
            len = whole;
        }
        0x2a => disk.write_all_at(data, offset)?,
        _ => disk.sync_data()?,
    }
    bhs.put_u32(16, asked.itt());
    let next = asked.cmd_sn().wrapping_add(1);
    bhs.put_sequence(stat_sn, next, next.wrapping_add(WINDOW));
    let place = out.get_mut(..BHS_BYTES).context("no room")?;
    place.copy_from_slice(&bhs.0);
    Ok(len)
}
