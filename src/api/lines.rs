//! Answers of one JSON document per line, for work that takes a while.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{ApiError, App};
use crate::head::HeadError;

/// How far long work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// One line of such an answer; the last is `Done` or `Error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line<T, P = Step> {
    /// On the way.
    Progress(P),
    /// The result.
    Done(T),
    /// It failed; the rest of the request had been fine, so the status was 200 already.
    Error(Fault),
}

/// How long work failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The HTTP status that it would have had.
    pub status: u16,
    /// Object, cause, next step.
    pub message: String,
}

/// Sets the flag when the answer is no longer wanted: the client went away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on its own thread and answers its progress and result line by line. `work` gets a function to
/// report bytes with and a flag that asks it to stop.
pub(super) fn long_work<T, W>(app: App, work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(&App, &(dyn Fn(Step) + Sync), &AtomicBool) -> Result<T, HeadError> + Send + 'static,
{
    long_work_of(app, work)
}

/// The same, of work whose progress is no count of bytes.
pub(super) fn long_work_of<T, P, W>(app: App, work: W) -> Response
where
    T: Serialize + Send + 'static,
    P: Serialize + 'static,
    W: FnOnce(&App, &(dyn Fn(P) + Sync), &AtomicBool) -> Result<T, HeadError> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let cancel = Arc::new(AtomicBool::new(false));
    let asked = CancelOnDrop(Arc::clone(&cancel));
    tokio::task::spawn_blocking(move || {
        // Progress that nobody takes is dropped; the result waits for its reader.
        let report = |step: P| {
            let _ = sender.try_send(line(&Line::<(), P>::Progress(step)));
        };
        let last = match work(&app, &report, &cancel) {
            Ok(result) => line(&Line::<T, P>::Done(result)),
            Err(error) => line(&Line::<T, P>::Error(ApiError::from(error).fault())),
        };
        let _ = sender.blocking_send(last);
    });
    let stream = ReceiverStream::new(receiver).map(move |bytes| {
        let _keep_until_read = &asked;
        bytes
    });
    stream_response(stream)
}

/// An answer of lines.
pub(super) fn stream_response(stream: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(stream.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// One document and its line end.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec());
    text.push(b'\n');
    text.into()
}
