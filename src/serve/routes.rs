//! The routes, and what each answers.

use super::body::{Counted, object};
use super::failure::{Failure, json_body, json_text};
use super::inputs::Encoded;
use super::queue::{Event, Generate, Job, Predict, Work};
use super::server::{Ability, CHAT, COMPLETIONS, Server, now};
use super::speaking::{Answer, Stream};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

/// The routes that take work, and the others.
const WORK: [&str; 6] = ["/v1/classify", "/v1/tags", "/v1/answer", "/v1/embeddings", COMPLETIONS, CHAT];
const OTHERS: [&str; 4] = ["/", "/health", "/metrics", "/v1/models"];

/// The page for trying the model. It loads nothing from elsewhere.
const PAGE: &str = include_str!("page.html");
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type Shared = State<Arc<Server>>;

/// Returns the routes of a server.
pub fn router(server: Arc<Server>) -> Router {
    let [classify, tags, answer, embeddings, completions, chat] = WORK;
    let [page_route, health_route, metrics_route, models_route] = OTHERS;
    Router::new()
        .route(page_route, get(page))
        .route(health_route, get(health))
        .route(metrics_route, get(metrics))
        .route(models_route, get(models))
        .route(classify, post(read))
        .route(tags, post(read))
        .route(answer, post(read))
        .route(embeddings, post(read))
        .route(completions, post(generate))
        .route(chat, post(generate))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&server), guard))
        .with_state(server)
}

/// Counts a request, and refuses it if the server is stopping or the key is missing.
async fn guard(State(server): Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let route = WORK.iter().chain(&OTHERS).find(|route| **route == path).copied().unwrap_or("other");
    let mut entered = server.enter(route);
    let is_known = server.knows(request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()));
    let mut response = if !is_known && !["/", "/health"].contains(&route) {
        Failure::unauthorized().into_response()
    } else if server.is_stopping() && WORK.contains(&route) {
        Failure::stopping().into_response()
    } else {
        next.run(request).await
    };
    entered.status = response.status().as_u16();
    if server.is_stopping() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(Counted { body, _entered: entered }))
}

async fn page() -> impl IntoResponse {
    let html = (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    ([html, (CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY))], PAGE)
}

async fn health(State(server): Shared) -> Result<impl IntoResponse, Failure> {
    if server.is_stopping() { Err(Failure::stopping()) } else { Ok(json_text(&json!({"status": "ok"}))) }
}

async fn metrics(State(server): Shared) -> Result<impl IntoResponse, Failure> {
    let text = server.metrics.text().map_err(|e| Failure::internal(e.to_string()))?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"))], text))
}

async fn models(State(server): Shared) -> impl IntoResponse {
    let (name, created, task, routes) = (&server.name, server.created, &server.task, server.ability.routes());
    let model = json!({"id": name, "object": "model", "created": created, "owned_by": "trainer", "task": task,
                       "routes": routes});
    json_text(&json!({"object": "list", "data": [model]}))
}

async fn unknown(uri: Uri) -> Failure {
    Failure::not_found(format!("there is no route {}", uri.path()))
}

async fn wrong_method(uri: Uri) -> Failure {
    Failure::method(if WORK.contains(&uri.path()) { "POST" } else { "GET" })
}

/// Refuses a route that is for other models.
fn check_route(server: &Server, path: &str) -> Result<(), Failure> {
    let routes = server.ability.routes();
    if routes.contains(&path) {
        return Ok(());
    }
    let Server { name, task, .. } = server;
    let why = match &server.ability {
        Ability::Generate(_) if path == CHAT => "has no chat template".to_owned(),
        _ => format!("was fine-tuned for {task}"),
    };
    Err(Failure::not_found(format!("{path}: the model {name} {why}: use {}", routes.join(" or "))))
}

/// Answers a request for labels, tags, an answer or vectors.
async fn read(State(server): Shared, request: Request) -> Result<Response, Failure> {
    let deadline = server.deadline();
    check_route(&server, request.uri().path())?;
    let body = object(request, &server.options).await?;
    server.check_model(&body)?;
    let place = server.entrance.reserve()?;
    let encode = move |server: &Server| match &server.ability {
        Ability::Read(reader) => {
            let encoded = reader.encode(body)?;
            let ids = encoded.examples.iter().flat_map(|example| &example.ids);
            server.embeddings.check(ids, encoded.examples.iter().flat_map(|example| &example.type_ids))?;
            Ok(encoded)
        }
        Ability::Generate(_) => Err(Failure::not_found("this model generates text")),
    };
    let Encoded { examples, finish } = on_a_thread(&server, encode).await?;
    let (reply, answer) = oneshot::channel();
    place.put(Job { work: Work::Predict(Predict { examples, reply }), deadline });
    let rows = within(deadline, answer).await?.map_err(|_| gone())??;
    let text = within(deadline, on_a_thread(&server, move |server| finish(&rows, &server.name))).await??;
    Ok(json_body(text).into_response())
}

/// Answers a request for a text.
async fn generate(State(server): Shared, request: Request) -> Result<Response, Failure> {
    let deadline = server.deadline();
    let path = request.uri().path().to_owned();
    check_route(&server, &path)?;
    let body = object(request, &server.options).await?;
    server.check_model(&body)?;
    let place = server.entrance.reserve()?;
    let chat = path == CHAT;
    let encode = move |server: &Server| match &server.ability {
        Ability::Generate(prompting) => {
            let asked = prompting.read(body, chat)?;
            server.embeddings.check(&asked.start.prompt, [])?;
            Ok(asked)
        }
        Ability::Read(_) => Err(Failure::not_found("this model generates no text")),
    };
    let asked = on_a_thread(&server, encode).await?;
    let answer = Answer {
        id: format!("{}-{:016x}", if chat { "chatcmpl" } else { "cmpl" }, RandomState::new().hash_one(0)),
        created: now(),
        model: server.name.clone(),
        chat,
        prompt_tokens: asked.start.prompt.len(),
        include_usage: asked.include_usage,
    };
    let (reply, mut events) = mpsc::unbounded_channel();
    place.put(Job { work: Work::Generate(Generate { start: asked.start, stops: asked.stops, reply }), deadline });
    loop {
        match within(deadline, events.recv()).await?.ok_or_else(gone)? {
            Event::Failed(failure) => return Err(failure),
            first if asked.stream => {
                let body = Body::new(Stream::new(answer, &first, events));
                let kind = (CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                return Ok(([kind, (CACHE_CONTROL, HeaderValue::from_static("no-cache"))], body).into_response());
            }
            Event::End(ended) => return Ok(json_text(&answer.whole(&ended)).into_response()),
            Event::Text(_) => {}
        }
    }
}

/// The failure of a request whose work was dropped: the thread that computes has ended.
fn gone() -> Failure {
    Failure::internal("the model has stopped")
}

/// Does work that may take long on a thread that serves no connections: encodes texts, or writes a long answer.
async fn on_a_thread<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let server = Arc::clone(server);
    let done = spawn_blocking(move || work(&server)).await;
    done.unwrap_or_else(|e| Err(Failure::internal(e.to_string())))
}

/// # Errors
/// 504 after the deadline.
async fn within<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Failure> {
    timeout_at(deadline.into(), work).await.map_err(|_| Failure::late())
}
