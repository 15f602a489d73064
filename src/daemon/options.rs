//! Which setting reaches which room: all of them on one page.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::api::Fallbacks;
use crate::boot;
use crate::config::{AuthMode, ChapAlgorithm, DhcpMode, DigestMode, Settings};
use crate::head::{HeadOptions, ScrubOptions, UpkeepOptions};
use crate::iscsi;
use crate::limits::IMAGE_MEMORY_PART;
use crate::wave::WaveSize;

pub(super) fn head(settings: &Settings) -> HeadOptions {
    HeadOptions {
        journal_bytes: Some(settings.store.journal_bytes),
        soft_bytes: Some(settings.store.soft_bytes),
        layer_limit: settings.limits.layer,
        layer_warn: settings.limits.layer_warn,
        reserve: settings.limits.reserve,
        image_memory: settings
            .limits
            .image_memory
            .unwrap_or_else(|| memory_bytes() / IMAGE_MEMORY_PART),
        ..HeadOptions::default()
    }
}

/// Memory that this process may have: the machine's, or less where its control group says so.
fn memory_bytes() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(u64::from(machine.mem_unit));
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = group.lines().find_map(|line| line.strip_prefix("0::/"));
    // A group may have no more than any group above it.
    let groups = own.into_iter().flat_map(|own| Path::new(own).ancestors());
    let limit = |group: &Path| -> Option<u64> {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    groups.filter_map(limit).fold(machine, u64::min)
}

pub(super) fn upkeep(settings: &Settings) -> UpkeepOptions {
    UpkeepOptions {
        scrub: ScrubOptions {
            every: settings.store.scrub_every,
            rate: settings.store.scrub_rate,
        },
        pin: settings.limits.pin,
    }
}

pub(super) fn iscsi(settings: &Settings) -> iscsi::Options {
    let (iscsi, limits) = (&settings.iscsi, &settings.limits);
    iscsi::Options {
        listen: iscsi.listen.clone(),
        iqn_prefix: iscsi.iqn_prefix.clone(),
        auth: match iscsi.auth {
            AuthMode::None => iscsi::Auth::None,
            AuthMode::Chap => iscsi::Auth::Chap,
            AuthMode::Mutual => iscsi::Auth::Mutual,
        },
        algorithms: algorithms(&iscsi.chap_algorithms),
        digests: match iscsi.digests {
            DigestMode::Offered => iscsi::Digests::Offered,
            DigestMode::PreferNone => iscsi::Digests::PreferNone,
            DigestMode::PreferCrc32c => iscsi::Digests::PreferCrc32c,
        },
        redirect: iscsi.redirect,
        bounds: iscsi::Bounds {
            sessions_per_node: limits.sessions_per_node,
            sessions: limits.connections,
            data_bytes: limits.data_memory,
            newcomers: limits.logins_in_progress,
            newcomers_per_address: limits.logins_per_address,
        },
        workers: (iscsi.workers > 0).then_some(iscsi.workers),
    }
}

fn algorithms(wanted: &[ChapAlgorithm]) -> iscsi::Algorithms {
    let one = |wanted: &ChapAlgorithm| match wanted {
        ChapAlgorithm::Sha3 => iscsi::Algorithm::Sha3,
        ChapAlgorithm::Sha256 => iscsi::Algorithm::Sha256,
        ChapAlgorithm::Sha1 => iscsi::Algorithm::Sha1,
        ChapAlgorithm::Md5 => iscsi::Algorithm::Md5,
    };
    let all: Vec<iscsi::Algorithm> = wanted.iter().map(one).collect();
    iscsi::Algorithms::new(&all)
}

/// `portals` are the addresses that iSCSI really listens at.
pub(super) fn boot(settings: &Settings, portals: &[SocketAddr]) -> Option<boot::Options> {
    let boot = settings.boot.as_ref()?;
    // A portal on every address is told as "the address that the node reached".
    let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 3260));
    let portal = portals.first().copied().unwrap_or(unspecified);
    Some(boot::Options {
        interfaces: boot.interfaces.clone(),
        dhcp: match boot.dhcp {
            DhcpMode::Proxy => boot::DhcpMode::Proxy,
            DhcpMode::Server => boot::DhcpMode::Server,
            DhcpMode::Off => boot::DhcpMode::Off,
        },
        range: boot.range,
        netmask: boot.netmask,
        router: boot.router,
        dns: boot.dns.clone(),
        dhcp_port: boot.dhcp_port,
        pxe_port: boot.pxe_port,
        tftp: boot.tftp,
        http: boot.http,
        loaders: boot.loaders.clone(),
        iqn_prefix: settings.iscsi.iqn_prefix.clone(),
        portal: boot.portal.unwrap_or(portal),
        auth: match settings.iscsi.auth {
            AuthMode::None => boot::Auth::None,
            AuthMode::Chap => boot::Auth::Chap,
            AuthMode::Mutual => boot::Auth::Mutual,
        },
        ..boot::Options::default()
    })
}

pub(super) fn fallbacks(settings: &Settings) -> anyhow::Result<Fallbacks> {
    let wave = &settings.wave;
    Ok(Fallbacks {
        wave: WaveSize::parse(&wave.size).map_err(anyhow::Error::msg)?,
        timeout_ms: wave.timeout_s.saturating_mul(1000),
        retries: wave.retries,
    })
}
