//! Bodies of requests, with limits of size and time, and of responses.

use super::failure::Failure;
use super::options::Options;
use super::server::Entered;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use hyper::body::{Frame, SizeHint};
use serde_json::{Map, Value};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;

/// Maximum time for the rest of a body that is refused.
const DISCARD: Duration = Duration::from_secs(1);

/// Reads the JSON object in the body of a request.
///
/// # Errors
/// 413: too many bytes; 408: it did not arrive in time; 400: it ended early, or is not an object.
pub async fn object(request: Request, options: &Options) -> Result<Map<String, Value>, Failure> {
    let limit = options.max_body_bytes;
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let (waits, mut body) = (request.headers().contains_key(EXPECT), request.into_body());
    let read = match announced.is_some_and(|bytes| bytes > limit) {
        true => Err(Failure::too_large(limit)),
        false => {
            let read = timeout(options.read_timeout, bytes(&mut body, limit));
            read.await.unwrap_or_else(|_| Err(Failure::slow()))
        }
    };
    if read.as_ref().is_err_and(|failure| failure.status == StatusCode::PAYLOAD_TOO_LARGE) && !waits {
        // A client that is still sending would lose the response if the connection were closed now.
        _ = timeout(DISCARD, discard(&mut body)).await;
    }
    match serde_json::from_slice(&read?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failure::invalid("the body is JSON, but not an object")),
        Err(e) => Err(Failure::invalid(format!("the body is not valid JSON: {e}"))),
    }
}

async fn bytes(body: &mut Body, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(data) = next(body).await {
        let data = data.map_err(|e| Failure::invalid(format!("the body ended early: {e}")))?;
        if bytes.len() + data.len() > limit {
            return Err(Failure::too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

async fn discard(body: &mut Body) {
    while let Some(Ok(_)) = next(body).await {}
}

/// Returns the next bytes of a body; trailers do not matter.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// The body of a response, with which the request is complete.
pub struct Counted {
    pub body: Body,
    pub _entered: Entered,
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
