//! Logins with the crate's own login machine, one PDU after the other; and the few commands before the load begins.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reveille::iscsi::frame::Encoder;
use reveille::iscsi::initiator::offer::{Client, LoggedIn, Next, Offer};
use reveille::iscsi::pdu::{BHS_BYTES, Bhs, RESERVED_TAG, op};

/// Longest time a peer may say nothing.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Commands that a unit may refuse with a unit attention before it must work.
const ATTENTIONS_MAX: u32 = 16;

/// Where a disk is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address of the portal.
    pub address: SocketAddr,
    /// Target and initiator names; none for the bare server, which has no login.
    pub names: Option<(String, String)>,
    /// LUN.
    pub lun: u8,
}

impl Place {
    /// The offer for a session to it; each is another initiator port, so that none replaces another (RFC 7143
    /// 6.3.5).
    #[must_use]
    pub fn offer(&self, digests: bool) -> Option<Offer> {
        static PORTS: AtomicU32 = AtomicU32::new(1);
        let (target, initiator) = self.names.as_ref()?;
        let [_, high, middle, low] = PORTS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut offer = Offer::new(initiator, target)
            .with("MaxRecvDataSegmentLength", "262144")
            .with("MaxBurstLength", "262144");
        if digests {
            offer = offer
                .with("HeaderDigest", "CRC32C")
                .with("DataDigest", "CRC32C");
        }
        offer.isid = [0x00, 0x02, 0x3d, high, middle, low];
        Some(offer)
    }
}

/// A session after its login.
#[derive(Debug)]
pub struct Open {
    /// The socket, blocking, with timeouts.
    pub stream: TcpStream,
    /// What was agreed; none for the bare server.
    pub login: Option<LoggedIn>,
    /// PDUs that the login sent.
    pub sent: Vec<Vec<u8>>,
}

/// Connects, with timeouts for all that follows.
///
/// # Errors
/// When nobody listens there.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, SILENCE_MAX);
    let stream = stream.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    Ok(stream)
}

/// Connects and logs in.
///
/// # Errors
/// When the target refuses, breaks the protocol or says nothing.
pub fn log_in(place: &Place, digests: bool) -> Result<Open> {
    let mut stream = connect(place.address)?;
    let mut sent = Vec::new();
    let Some(offer) = place.offer(digests) else {
        let login = None;
        return Ok(Open {
            stream,
            login,
            sent,
        });
    };
    let mut client = Client::new(offer);
    let (mut bhs, mut data) = client.start();
    loop {
        let mut pdu = Vec::new();
        Encoder::default().pdu(bhs, &[], &data, &mut pdu);
        stream.write_all(&pdu)?;
        sent.push(pdu);
        let (answer, text) = read_pdu(&mut stream, Encoder::default()).context("the login")?;
        (bhs, data) = match client.answer(&answer, &text)? {
            Next::Send(bhs, data) => (bhs, data),
            Next::Redirect(elsewhere) => bail!("the target sends us to {elsewhere}"),
            Next::Done(login) => {
                let login = Some(*login);
                return Ok(Open {
                    stream,
                    login,
                    sent,
                });
            }
        };
    }
}

/// One PDU, whole.
fn read_pdu(stream: &mut TcpStream, rules: Encoder) -> Result<(Bhs, Vec<u8>)> {
    let mut header = [0; BHS_BYTES];
    stream.read_exact(&mut header)?;
    let bhs = Bhs(header);
    let digest = if rules.header_digest { 4 } else { 0 };
    let mut more = vec![0; bhs.ahs_len() + digest];
    stream.read_exact(&mut more)?;
    let len = usize::try_from(bhs.data_len())?;
    ensure!(len <= 1 << 20, "a data segment of {len} bytes");
    let mut data = vec![0; len];
    stream.read_exact(&mut data)?;
    let mut trailer = vec![0; rules.trailer(len, [data.as_slice()]).len()];
    stream.read_exact(&mut trailer)?;
    Ok((bhs, data))
}

/// A command without data out, before the load begins: unit attentions are passed by. Its Data-In.
///
/// # Errors
/// When it fails.
pub fn command(open: &mut Open, lun: u8, cdb: &[u8], expected: u32) -> Result<Vec<u8>> {
    for _ in 0..ATTENTIONS_MAX {
        let (status, data, sense) = try_command(open, lun, cdb, expected)?;
        match (status, sense) {
            (0, _) => return Ok(data),
            // UNIT ATTENTION: told once.
            (2, 6) => {}
            _ => bail!("the disk answers {status:02x}h, sense key {sense:x}h"),
        }
    }
    bail!("nothing but unit attentions")
}

/// Status, data and sense key.
fn try_command(open: &mut Open, lun: u8, cdb: &[u8], expected: u32) -> Result<(u8, Vec<u8>, u8)> {
    let login = open
        .login
        .as_mut()
        .context("the bare server knows no such command")?;
    let encoder = Encoder::full_feature(&login.agreed);
    let mut bhs = Bhs::new(op::SCSI_COMMAND);
    bhs.put_u8(1, if expected > 0 { 0xc1 } else { 0x81 });
    bhs.put_u64(8, u64::from(lun) << 48);
    bhs.put_u32(20, expected);
    bhs.put_u32(24, login.cmd_sn);
    bhs.put_u32(28, login.exp_stat_sn);
    for (to, from) in bhs.0.iter_mut().skip(32).zip(cdb) {
        *to = *from;
    }
    open.stream.write_all(&encoder.header(&bhs))?;
    login.cmd_sn = login.cmd_sn.wrapping_add(1);
    let mut data = Vec::new();
    loop {
        let (answer, bytes) = read_pdu(&mut open.stream, encoder)?;
        login.max_cmd_sn = answer.u32_at(32);
        match answer.opcode() {
            op::DATA_IN => {
                data.extend_from_slice(&bytes);
                if answer.flags() & 1 == 0 {
                    continue;
                }
                login.exp_stat_sn = answer.u32_at(24).wrapping_add(1);
                return Ok((answer.u8_at(3), data, 0));
            }
            op::SCSI_RESPONSE => {
                login.exp_stat_sn = answer.u32_at(24).wrapping_add(1);
                ensure!(answer.u8_at(2) == 0, "the target did not execute a command");
                let sense = bytes.get(4).map_or(0, |key| key & 0x0f);
                return Ok((answer.u8_at(3), data, sense));
            }
            op::NOP_IN if answer.ttt() == RESERVED_TAG => {}
            other => bail!("opcode {other:#04x} where the answer of a command must come"),
        }
    }
}

/// Logs in and sees to it that the disk works and is long enough.
///
/// # Errors
/// As [`log_in`] and [`command`]; when the disk is too short or has other blocks than 512 bytes.
pub fn open_disk(place: &Place, digests: bool, bytes: u64) -> Result<Open> {
    let mut open = log_in(place, digests)?;
    if let Some(login) = &open.login {
        let agreed = &login.agreed;
        ensure!(
            !digests || agreed.header_digest && agreed.data_digest,
            "the target grants no digests"
        );
        command(&mut open, place.lun, &[0; 6], 0).context("TEST UNIT READY")?;
        let mut cdb = [0; 10];
        cdb[0] = 0x25;
        let said = command(&mut open, place.lun, &cdb, 8).context("READ CAPACITY")?;
        let words = said.as_chunks::<4>().0;
        let (Some(last), Some(block)) = (words.first(), words.get(1)) else {
            bail!("READ CAPACITY answers {} bytes", said.len());
        };
        let (last, block) = (u32::from_be_bytes(*last), u32::from_be_bytes(*block));
        let size = (u64::from(last) + 1) * u64::from(block);
        ensure!(
            block == 512 && size >= bytes,
            "a disk of {size} bytes in blocks of {block}"
        );
    }
    Ok(open)
}
