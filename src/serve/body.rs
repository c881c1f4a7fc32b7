//! Bodies of requests, with limits of size and time, and of responses.

use super::Options;
use super::failure::Failure;
use super::server::Entered;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use hyper::body::{Frame, SizeHint};
use serde_json::{Map, Value};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::timeout;

/// Reads the JSON object in the body of a request.
///
/// # Errors
/// 413: too many bytes; 408: it did not arrive in time; 400: it ended early, or is not an object.
pub async fn object(request: Request, options: &Options) -> Result<Map<String, Value>, Failure> {
    let limit = options.max_body_bytes;
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(Failure::too_large(limit));
    }
    let bytes = timeout(options.read_timeout, bytes(request.into_body(), limit));
    let bytes = bytes.await.unwrap_or_else(|_| Err(Failure::slow()))?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failure::invalid("the body is JSON, but not an object")),
        Err(e) => Err(Failure::invalid(format!("the body is not valid JSON: {e}"))),
    }
}

async fn bytes(mut body: Body, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| Failure::invalid(format!("the body ended early: {e}")))?;
        // Trailers do not matter.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(Failure::too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// The body of a response, with which the request is complete.
pub struct Counted {
    pub body: Body,
    pub entered: Entered,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
