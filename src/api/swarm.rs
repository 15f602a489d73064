//! Traces of boots, recorded from nodes that run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::TryRecvError;

use super::lines::long_work_of;
use super::swarm_file::TraceFile;
use super::{ApiError, App};
use crate::events::{Bus, EventKind, InitiatorKind, Subscription};
use crate::head::HeadError;
use crate::iscsi::{RecordState, Recorded, Recorder};
use crate::limits;
use crate::names::NodeName;
use crate::trace::Summary;
use crate::units::UnixMillis;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/swarm/record", post(record))
        .route("/v1/swarm/stop", post(stop))
}

/// Record the boot of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordAsk {
    /// The node.
    pub node: NodeName,
    /// Where the trace goes: a path of the head's machine.
    pub path: PathBuf,
    /// When it is over.
    pub until: RecordUntil,
    /// When it is over in any case, seconds from now.
    pub timeout_s: u64,
    /// Replaces the file.
    #[serde(default)]
    pub force: bool,
    /// Lines that the trace shall say of its origin.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// When a recording is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordUntil {
    /// The boot is ready.
    Ready,
    /// The operating system has logged out and does not come back.
    Logout,
    /// So many seconds from the first login.
    Seconds(u64),
}

/// How far a recording has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordStep {
    /// The node was logged in when it began.
    pub was_logged_in: bool,
    /// READs.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// WRITEs.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Sessions so far.
    pub sessions: usize,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordEnd {
    /// What it was to last for has come.
    Reached,
    /// Somebody asked for it, or the head stops.
    Stopped,
    /// It did not come in time.
    TimedOut,
    /// It holds all that it may hold.
    Full,
}

/// What became of a recording.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordDone {
    /// Why it ended.
    pub end: RecordEnd,
    /// The file; none when there was nothing to write.
    pub path: Option<PathBuf>,
    /// Its bytes.
    pub file_bytes: u64,
    /// What is in it.
    pub summary: Summary,
    /// What it lacks.
    pub notes: Vec<String>,
}

/// End the recording of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordStop {
    /// The node.
    pub node: NodeName,
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn record(State(app): State<App>, ask: Body<RecordAsk>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    let live = app.live()?;
    let node = &ask.node;
    if app.head.snapshot().node(node.as_str()).is_none() {
        let message = format!("no node is called `{node}`; `reveille node ls` has them all");
        return Err(ApiError::not_found(message));
    }
    let seconds = match ask.until {
        RecordUntil::Seconds(seconds) => seconds.max(ask.timeout_s),
        _ => ask.timeout_s,
    };
    if seconds > limits::RECORD_SECONDS_MAX || seconds == 0 {
        let most = limits::RECORD_SECONDS_MAX;
        let message = format!("a recording lasts 1 to {most} seconds, not {seconds}");
        return Err(ApiError::invalid(message));
    }
    // Before the recording: what happens then is heard.
    let ready = Ready::listen(app.head.bus(), node);
    let recorder = live.iscsi.record(node);
    let recorder = recorder.map_err(|e| ApiError::conflict(e.to_string()))?;
    let (path, force) = (ask.path.clone(), ask.force);
    let file = app.blocking(move |_| TraceFile::create(&path, force));
    let file = file.await?;
    Ok(long_work_of(app, move |app, report, cancel| {
        let end = follow(&recorder, ready, &ask, report, cancel);
        save(app, &ask, end, recorder.finish(), file)
    }))
}

async fn stop(State(app): State<App>, ask: Body<RecordStop>) -> Result<Json<()>, ApiError> {
    let Json(ask) = ask?;
    let node = &ask.node;
    if app.live()?.iscsi.stop_recording(node) {
        return Ok(Json(()));
    }
    let message = format!("node `{node}` is not being recorded");
    Err(ApiError::not_found(message))
}

/// Whether the node has become ready since.
struct Ready {
    bus: Arc<Bus>,
    node: NodeName,
    events: Subscription,
    heard: u64,
    seen: bool,
}

impl Ready {
    fn listen(bus: &Arc<Bus>, node: &NodeName) -> Self {
        let (kept, events) = bus.replay_and_subscribe(0);
        Self {
            bus: Arc::clone(bus),
            node: node.clone(),
            events,
            heard: kept.last().map_or(0, |event| event.seq),
            seen: false,
        }
    }

    fn look(&mut self) -> bool {
        loop {
            let new = match self.events.try_recv() {
                Ok(event) => vec![event],
                Err(TryRecvError::Lagged(_)) => {
                    let (missed, events) = self.bus.replay_and_subscribe(self.heard);
                    self.events = events;
                    missed
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return self.seen,
            };
            for event in new {
                self.heard = event.seq;
                let ready = matches!(event.kind, EventKind::Ready { .. });
                self.seen |= ready && event.node.as_ref() == Some(&self.node);
            }
        }
    }
}

/// Waits for the end of the recording, and says how far it is.
fn follow(
    recorder: &Recorder,
    mut ready: Ready,
    ask: &RecordAsk,
    report: &(dyn Fn(RecordStep) + Sync),
    cancel: &AtomicBool,
) -> RecordEnd {
    let began = Instant::now();
    let mut told = None;
    loop {
        let state = recorder.state();
        let step = step(&state);
        if told.as_ref() != Some(&step) {
            report(step.clone());
            told = Some(step);
        }
        let moment = Moment {
            elapsed: began.elapsed(),
            ready: ready.look(),
            cancelled: cancel.load(Relaxed),
        };
        if let Some(end) = over(ask, &state, moment) {
            return end;
        }
        recorder.wait(limits::RECORD_LOOK);
    }
}

const fn step(state: &RecordState) -> RecordStep {
    RecordStep {
        was_logged_in: state.was_logged_in,
        reads: state.reads,
        read_bytes: state.read_bytes,
        writes: state.writes,
        write_bytes: state.write_bytes,
        sessions: state.sessions,
    }
}

/// What the end depends on beside the recording itself.
#[derive(Clone, Copy)]
struct Moment {
    elapsed: Duration,
    ready: bool,
    cancelled: bool,
}

/// Whether a recording is over, and why.
fn over(ask: &RecordAsk, state: &RecordState, moment: Moment) -> Option<RecordEnd> {
    let off = || {
        state.last == Some(InitiatorKind::Os)
            && state
                .alone
                .is_some_and(|for_| for_ >= limits::RECORD_LOGOUT_QUIET)
    };
    let reached = match ask.until {
        // The node may call from an older boot before it logs in: there is nothing to trace in it.
        RecordUntil::Ready => moment.ready && state.sessions > 0,
        RecordUntil::Logout => off(),
        RecordUntil::Seconds(seconds) => {
            let seconds = Duration::from_secs(seconds);
            state.running.is_some_and(|running| running >= seconds)
        }
    };
    let waits = !matches!(ask.until, RecordUntil::Seconds(_)) || state.sessions == 0;
    if reached {
        Some(RecordEnd::Reached)
    } else if state.full {
        Some(RecordEnd::Full)
    } else if state.stop || moment.cancelled {
        Some(RecordEnd::Stopped)
    } else if waits && moment.elapsed >= Duration::from_secs(ask.timeout_s) {
        Some(RecordEnd::TimedOut)
    } else {
        None
    }
}

/// Writes what there is.
fn save(
    app: &App,
    ask: &RecordAsk,
    end: RecordEnd,
    recorded: Recorded,
    file: TraceFile,
) -> Result<RecordDone, HeadError> {
    let Recorded { mut trace, notes } = recorded;
    let summary = trace.summary();
    if trace.sessions.is_empty() {
        return Ok(RecordDone {
            end,
            path: None,
            file_bytes: 0,
            summary,
            notes,
        });
    }
    let given = ask.notes.iter().chain(&notes);
    trace.about = about(app, &ask.node);
    trace
        .about
        .extend(given.map(|note| ("note".to_owned(), note.clone())));
    let bytes = trace.write();
    file.keep(&bytes)?;
    Ok(RecordDone {
        end,
        path: Some(ask.path.clone()),
        file_bytes: bytes.len() as u64,
        summary,
        notes,
    })
}

/// Where a trace comes from.
fn about(app: &App, node: &NodeName) -> Vec<(String, String)> {
    let now = app.head.snapshot();
    let binding = now
        .node(node.as_str())
        .and_then(|record| now.binding(record.layer));
    let image = binding.map(|bound| format!("{} ({})", bound.label, bound.image));
    let millis = i64::try_from(UnixMillis::now().0).unwrap_or(0);
    let date = jiff::Timestamp::from_millisecond(millis).map(|at| at.to_string());
    let lines = [
        ("origin", Some(format!("node {node}, recorded by its head"))),
        (
            "software",
            Some(format!("reveille {}", env!("CARGO_PKG_VERSION"))),
        ),
        ("image", image),
        ("date", date.ok()),
    ];
    let line = |(key, value): (&str, Option<String>)| Some((key.to_owned(), value?));
    lines.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn ask(until: RecordUntil) -> RecordAsk {
        RecordAsk {
            node: NodeName::parse("n1").unwrap(),
            path: "/t".into(),
            until,
            timeout_s: 100,
            force: false,
            notes: vec![],
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment {
            elapsed: Duration::from_secs(seconds),
            ready: false,
            cancelled: false,
        }
    }

    fn booted() -> RecordState {
        RecordState {
            sessions: 2,
            open: 1,
            last: Some(InitiatorKind::Os),
            running: Some(Duration::from_secs(30)),
            ..RecordState::default()
        }
    }

    #[test]
    fn until_ready_ends_when_a_node_that_logged_in_is_ready() {
        let ask = ask(RecordUntil::Ready);
        let ready = Moment {
            ready: true,
            ..at(50)
        };
        assert_eq!(over(&ask, &booted(), at(50)), None);
        assert_eq!(over(&ask, &booted(), ready), Some(RecordEnd::Reached));
        assert_eq!(over(&ask, &RecordState::default(), ready), None);
    }

    #[test]
    fn until_logout_waits_for_an_operating_system_that_stays_away() {
        let ask = ask(RecordUntil::Logout);
        let alone = |seconds, last| RecordState {
            open: 0,
            alone: Some(Duration::from_secs(seconds)),
            last: Some(last),
            ..booted()
        };
        let quiet = limits::RECORD_LOGOUT_QUIET.as_secs();
        for (state, wanted) in [
            (booted(), None),
            // iPXE is between its sessions, or the kernel loads.
            (alone(quiet, InitiatorKind::Firmware), None),
            // The initramfs has handed over.
            (alone(quiet - 1, InitiatorKind::Os), None),
            (alone(quiet, InitiatorKind::Os), Some(RecordEnd::Reached)),
        ] {
            assert_eq!(over(&ask, &state, at(60)), wanted, "{state:?}");
        }
    }

    #[test]
    fn a_duration_counts_from_the_first_login_and_has_no_timeout_then() {
        let ask = ask(RecordUntil::Seconds(200));
        assert_eq!(over(&ask, &booted(), at(150)), None);
        let long = RecordState {
            running: Some(Duration::from_secs(200)),
            ..booted()
        };
        assert_eq!(over(&ask, &long, at(290)), Some(RecordEnd::Reached));
        let never = RecordState::default();
        assert_eq!(over(&ask, &never, at(99)), None);
        assert_eq!(over(&ask, &never, at(100)), Some(RecordEnd::TimedOut));
    }

    #[test]
    fn every_recording_can_be_ended_and_ends_when_it_is_full_or_late() {
        for until in [RecordUntil::Ready, RecordUntil::Logout] {
            let ask = ask(until);
            let full = RecordState {
                full: true,
                ..booted()
            };
            let stopped = RecordState {
                stop: true,
                ..booted()
            };
            let gone = Moment {
                cancelled: true,
                ..at(5)
            };
            assert_eq!(over(&ask, &full, at(5)), Some(RecordEnd::Full));
            assert_eq!(over(&ask, &stopped, at(5)), Some(RecordEnd::Stopped));
            assert_eq!(over(&ask, &booted(), gone), Some(RecordEnd::Stopped));
            assert_eq!(over(&ask, &booted(), at(100)), Some(RecordEnd::TimedOut));
        }
    }

    #[test]
    fn ready_is_heard_of_this_node_only_and_from_now_on() {
        use crate::events::ReadyBy;
        let bus = Arc::new(Bus::new(0));
        let node = |name: &str| NodeName::parse(name).unwrap();
        let tell = |name: &str| {
            let ready = EventKind::Ready { by: ReadyBy::Call };
            bus.publish(Some(&node(name)), ready);
        };
        tell("n1");
        let mut ready = Ready::listen(&bus, &node("n1"));
        assert!(!ready.look(), "an earlier boot");
        tell("n2");
        assert!(!ready.look(), "another node");
        for _ in 0..limits::EVENTS_KEPT / 2 {
            tell("n2");
        }
        tell("n1");
        assert!(ready.look(), "also when it fell behind");
    }
}
