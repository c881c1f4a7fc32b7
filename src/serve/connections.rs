//! Accepts connections, and ends them gracefully.

use super::reading_client::ReadingClient;
use super::routes::router;
use super::server::Server;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Maximum number of connections at a time; further ones wait.
const CONNECTIONS: usize = 1024;
/// Time for the last bytes of responses when the server ends.
const FLUSH: Duration = Duration::from_secs(5);
/// Pause after an error of accepting, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`. Then the requests that were accepted before are completed, and others get status 503; at the
/// end the queue is closed.
pub async fn serve(listener: TcpListener, server: Arc<Server>, stop: impl Future<Output = ()>) {
    let router = router(Arc::clone(&server));
    let (graceful, slots) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let mut http = http1::Builder::new();
    // A client that sends its header slowly, or none, does not keep its connection.
    http.timer(TokioTimer::new()).header_read_timeout(server.options.read_timeout);
    let mut stop = pin!(stop);
    let (mut stopping, mut last) = (false, Instant::now());
    loop {
        tokio::select! {
            accepted = accept(&listener, &slots) => {
                let Some((stream, slot)) = accepted else { continue };
                let service = TowerToHyperService::new(router.clone());
                // Nor does a client keep it that does not read its answer.
                let stream = ReadingClient::new(stream, server.options.timeout);
                let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
                tokio::spawn(async move {
                    // An error is the client's: it has left, or sent something else than HTTP.
                    _ = connection.await;
                    drop(slot);
                });
            }
            () = &mut stop, if !stopping => {
                server.stop();
                stopping = true;
                // Every request ends by its deadline, unless its client does not read.
                last = Instant::now() + server.options.timeout + FLUSH;
            }
            () = server.idle(), if stopping => break,
            () = sleep_until(last), if stopping => break,
        }
    }
    drop(listener);
    server.entrance.close();
    // Who does not read the rest in time does not get it.
    _ = timeout(FLUSH, graceful.shutdown()).await;
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Without it the tokens of a stream wait for each other. A connection that was reset is noticed later.
            _ = stream.set_nodelay(true);
            Some((stream, slot))
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => None,
        Err(_) => {
            sleep(PAUSE).await;
            None
        }
    }
}
