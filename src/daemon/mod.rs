//! The running head: the only place where rooms are wired together. Level 8.
//!
//! Order of start: state directory (lock, recovery), control socket, campaigns, iSCSI, boot services, and only
//! then the line `ready ...`: what it names can be used. Order of stop: boot services (nobody new comes), iSCSI
//! (sessions end, volumes rest), control socket, state directory.

mod options;
mod socket;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::{App, Board, Live, router};
use crate::boot::{BootServices, Running};
use crate::config::Settings;
use crate::head::{Head, Upkeep};
use crate::iscsi::Server;
use crate::limits;
use crate::units::UnixMillis;
use crate::wave::Waves;

/// What listens where; prints as the one line that says the head is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    socket: PathBuf,
    iscsi: Vec<SocketAddr>,
    boot: Option<String>,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let portals: Vec<String> = self.iscsi.iter().map(ToString::to_string).collect();
        write!(
            f,
            "ready iscsi={} socket={}",
            portals.join(","),
            self.socket.display()
        )?;
        match &self.boot {
            Some(boot) => write!(f, " {boot}"),
            None => f.write_str(" boot=off"),
        }
    }
}

/// Runs the head until SIGTERM or SIGINT; `announce` is called once everything listens.
///
/// # Errors
/// Whatever keeps a service from starting, with the object and the next step.
pub fn run(settings: &Settings, announce: impl FnOnce(&Ready)) -> anyhow::Result<()> {
    raise_file_limit();
    let head = Arc::new(Head::open(&settings.state, &options::head(settings))?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(settings, Arc::clone(&head), announce))?;
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    head.close();
    Ok(())
}

async fn serve(
    settings: &Settings,
    head: Arc<Head>,
    announce: impl FnOnce(&Ready),
) -> anyhow::Result<()> {
    // Signals first: from here on a stop is an orderly one.
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let listener = socket::listen(&settings.socket)?;
    let upkeep = Upkeep::start(&head, options::upkeep(settings)).context("the upkeep's threads")?;
    let board = Board::follow(head.bus());
    let waves = Waves::start(Arc::clone(&head))?;
    let pool = Arc::clone(head.pool());
    let iscsi =
        Server::start(Arc::clone(&head), pool, options::iscsi(settings)).context("iSCSI")?;
    let live = Live {
        board,
        waves,
        fallbacks: options::fallbacks(settings)?,
        iscsi: iscsi.control(),
    };
    let boot = options::boot(settings, iscsi.addresses())
        .map(|options| BootServices::start(Arc::clone(&head), &options))
        .transpose()
        .context("boot services")?;
    let watch = tokio::spawn(watch_space(Arc::clone(&head)));
    let app = App::daemon(head, live);
    let api = tokio::spawn(async move { axum::serve(listener, router(app)).await });
    let ready = Ready {
        socket: settings.socket.clone(),
        iscsi: iscsi.addresses().to_vec(),
        boot: boot.as_ref().map(describe),
    };
    tracing::info!("{ready}");
    announce(&ready);
    // Only under a service manager that asked for it; elsewhere this does nothing.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: stopping"),
        _ = int.recv() => tracing::info!("SIGINT: stopping"),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(boot) = boot {
        boot.shutdown().await;
    }
    tokio::task::spawn_blocking(move || iscsi.shutdown()).await?;
    tokio::task::spawn_blocking(move || drop(upkeep)).await?;
    api.abort();
    watch.abort();
    // The file stays when it cannot be removed; the next start replaces it.
    let _ = std::fs::remove_file(&settings.socket);
    Ok(())
}

/// Notes once a minute how full everything is, for forecasts.
async fn watch_space(head: Arc<Head>) {
    let mut tick = tokio::time::interval(limits::SPACE_EVERY);
    loop {
        tick.tick().await;
        let head = Arc::clone(&head);
        let noted = tokio::task::spawn_blocking(move || head.sample_space(UnixMillis::now()));
        // A head that cannot start a thread has other worries than a forecast.
        let _ = noted.await;
    }
}

/// `dhcp=...` and so on: where boot services listen.
fn describe(boot: &Running) -> String {
    let list = |addresses: &[SocketAddr]| -> String {
        let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        all.join(",")
    };
    let mut text = format!("http={}", boot.http());
    for (name, addresses) in [
        ("dhcp", boot.dhcp()),
        ("pxe", boot.pxe()),
        ("tftp", boot.tftp()),
    ] {
        if !addresses.is_empty() {
            text += &format!(" {name}={}", list(addresses));
        }
    }
    text
}

/// Layers in use hold one file each, sessions one socket each: take all descriptors the system grants.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}
