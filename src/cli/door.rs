//! The one way a command reaches a head: HTTP over the daemon's socket, or the same routes in this process
//! when no daemon runs. Commands cannot tell which.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tower::ServiceExt;

use super::Exit;
use crate::api::{App, ErrorBody, Fault, router};

/// A head that can be asked.
pub(super) enum Door {
    /// A daemon at this socket.
    Daemon(PathBuf),
    /// The state directory, opened by this process.
    Local(Router),
}

/// A request that the head refused or could not do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    pub(super) exit: Exit,
    message: String,
}

impl Refusal {
    /// A refusal of the command itself.
    pub(super) fn new(exit: Exit, message: &str) -> Self {
        Self {
            exit,
            message: message.to_owned(),
        }
    }
}

impl Door {
    /// Finds the daemon; without one opens the state directory.
    pub(super) async fn open(socket: &Path, state: &Path) -> anyhow::Result<Self> {
        match UnixStream::connect(socket).await {
            Ok(_) => Ok(Self::Daemon(socket.to_owned())),
            Err(_) => {
                let app = App::local(state)?;
                Ok(Self::Local(router(app)))
            }
        }
    }

    /// The daemon, which must run: for what no state directory alone can do.
    pub(super) async fn daemon(socket: &Path) -> anyhow::Result<Self> {
        match UnixStream::connect(socket).await {
            Ok(_) => Ok(Self::Daemon(socket.to_owned())),
            Err(_) => Err(anyhow!(
                "no daemon answers at {}; start `reveille serve`, or name another target with --target",
                socket.display()
            )),
        }
    }

    /// Asks for an answer that is not JSON.
    pub(super) async fn bytes(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Vec<u8>> {
        let response = self.send(Method::POST, path, body).await?;
        Ok(response.into_body().collect().await?.to_bytes().to_vec())
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&bytes)
            .context("the head's answer is not understood; is it of another version?")
    }

    /// Reads an answer that is not JSON.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let response = self.send(Method::GET, path, &()).await?;
        Ok(response.into_body().collect().await?.to_bytes().to_vec())
    }

    /// Reads.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, &()).await
    }

    /// Changes.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.call(Method::POST, path, body).await
    }

    /// Asks for an answer of JSON lines and hands each line on as it comes.
    pub(super) async fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        mut each: impl FnMut(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut response = self.send(method, path, body).await?;
        let mut rest = Vec::new();
        while let Some(frame) = response.frame().await {
            let frame = frame.context("the head stopped answering")?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                each(serde_json::from_slice(&line).context("a line is not understood")?)?;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Response<Body>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "reveille")
            .header("content-type", "application/json")
            .body(Body::from(serde_json::to_vec(body)?))?;
        let response = match self {
            Self::Local(router) => router.clone().oneshot(request).await?,
            Self::Daemon(socket) => send_to(socket, request).await?,
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let message = serde_json::from_slice::<ErrorBody>(&bytes).map_or_else(
            |_| String::from_utf8_lossy(&bytes).into_owned(),
            |e| e.error,
        );
        let exit = exit_of(status);
        Err(Refusal { exit, message }.into())
    }
}

fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
        StatusCode::CONFLICT | StatusCode::FORBIDDEN => Exit::Refused,
        _ => Exit::Failed,
    }
}

/// The end of long work that failed. Its request had been fine: what was found wrong later is no misuse of the
/// command.
pub(super) fn broken_off(fault: Fault) -> anyhow::Error {
    let exit = match StatusCode::from_u16(fault.status).map(exit_of) {
        Ok(Exit::Refused) => Exit::Refused,
        _ => Exit::Failed,
    };
    let message = fault.message;
    Refusal { exit, message }.into()
}

async fn send_to(socket: &Path, request: Request<Body>) -> anyhow::Result<Response<Body>> {
    let gone = || {
        anyhow!(
            "the daemon at {} went away; is it still running?",
            socket.display()
        )
    };
    let stream = UnixStream::connect(socket).await.map_err(|_| gone())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself when the answer is read or this process ends.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|_| gone())?;
    Ok(response.map(Body::new))
}

/// A text as one part of a path or query.
pub(super) fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |b: u8| {
        if plain(b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    text.bytes().map(one).collect()
}
