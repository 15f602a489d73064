//! Failures as HTTP: one map from every room's errors to a status and a body.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::lines::Fault;
use crate::head::{HeadError, HeadErrorKind};
use crate::names::NameError;
use crate::wave::CampaignError;

/// What a failed request answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Object, cause, next step.
    pub error: String,
}

/// A failed request.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// It is in use, exists already, or cannot be done now (409).
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// The request is wrong (400).
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// No such thing (404).
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Our fault (500).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The same, for an answer that had begun.
    pub(super) fn fault(self) -> Fault {
        Fault {
            status: self.status.as_u16(),
            message: self.message,
        }
    }

    /// The sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = self.message;
        (self.status, Json(ErrorBody { error })).into_response()
    }
}

impl From<HeadError> for ApiError {
    fn from(error: HeadError) -> Self {
        let status = match error.kind {
            HeadErrorKind::NotFound => StatusCode::NOT_FOUND,
            HeadErrorKind::Conflict => StatusCode::CONFLICT,
            HeadErrorKind::Invalid => StatusCode::BAD_REQUEST,
            HeadErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            HeadErrorKind::Gone => StatusCode::GONE,
            HeadErrorKind::Refused => StatusCode::FORBIDDEN,
            HeadErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<CampaignError> for ApiError {
    fn from(error: CampaignError) -> Self {
        let status = match error {
            CampaignError::Invalid(_) => StatusCode::BAD_REQUEST,
            CampaignError::Busy(_) => StatusCode::CONFLICT,
            CampaignError::NotFound(_) => StatusCode::NOT_FOUND,
        };
        Self::new(status, error.to_string())
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}
