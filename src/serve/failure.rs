//! Errors of requests, in the form of OpenAI's API: `{"error": {"message", "type", "code"}}`.

use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Failure { status, code, message: message.into() }
    }

    /// 400: the request cannot be understood or answered.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 400: a prompt that leaves no room for an answer.
    pub fn too_long(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
    }

    pub fn unauthorized() -> Self {
        let message = "the request needs the header Authorization: Bearer KEY with the server's key";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub fn unknown_model(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    pub fn method(allowed: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("this route answers {allowed} only"))
    }

    /// 408: the body did not arrive in time.
    pub fn slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body of the request did not arrive in time")
    }

    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body of the request has more than {limit} bytes, the server's --max-body-bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// 429: the queue is full.
    pub fn busy(waiting: usize) -> Self {
        let message = format!("{waiting} requests are waiting, the server's --max-queue: try again later");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
    }

    /// 503: the server is about to end.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down")
    }

    /// 504: no answer within the server's time limit.
    pub fn late() -> Self {
        let message = "there was no answer within the server's --timeout";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    /// 500: the model failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub fn json(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "code": self.code}})
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, json_text(&self.json())).into_response();
        let mut header = |name: HeaderName, value: &'static str| {
            _ = response.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => header(RETRY_AFTER, "1"),
            StatusCode::UNAUTHORIZED => header(WWW_AUTHENTICATE, "Bearer"),
            _ => {}
        }
        response
    }
}

/// Returns a value as the body of a response.
pub fn json_text(value: &Value) -> impl IntoResponse + use<> {
    json_body(value.to_string())
}

/// Returns JSON as the body of a response.
pub fn json_body(text: String) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text)
}
