//! The HTTP server: parses calls, delivers responses, and closes connections or leaves them open.

use super::{
    request::Request,
    simulation::{Delivery, Simulation},
};
use crate::connection::Connection;
use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use std::{
    future::pending,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{net::TcpListener, runtime::Builder, sync::oneshot, time::sleep};

/// An HTTP server in its own thread, with its own runtime. It stops when dropped.
///
/// A test that blocks, or whose runtime ends, therefore does not stop it.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) async fn start(simulation: Arc<Simulation>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (announce, announced) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("simulated-ecs")
                .enable_all()
                .build()
                .expect("the runtime is created");
            runtime.block_on(serve(simulation, announce, stopped));
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self {
            address: announced.await.expect("the server reports its address"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already printed, and panicking again could abort.
            drop(thread.join());
        }
    }
}

async fn serve(
    simulation: Arc<Simulation>,
    announce: oneshot::Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("a bound listener has an address");
    let service = Router::new()
        .route("/", post(handle))
        .with_state(simulation)
        .into_make_service_with_connect_info::<Connection>();
    // The receiver is gone if the start was cancelled; then `stopped` resolves at once.
    let _ = announce.send(address);
    tokio::select! {
        _ = stopped => {}
        _ = axum::serve(listener, service) => {}
    }
}

async fn handle(
    State(simulation): State<Arc<Simulation>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request::read(&headers, &body);
    // Runs in its own task: AWS also carries out calls whose caller has disconnected.
    let delivery = tokio::spawn(simulation.process(request)).await;
    match delivery {
        Ok(Delivery::Immediate(reply)) => reply.into_response(),
        Ok(Delivery::Delayed(delay, reply)) => {
            sleep(delay).await;
            reply.into_response()
        }
        Ok(Delivery::CutConnection) => {
            connection.cut();
            pending().await
        }
        Ok(Delivery::NoResponse) => pending().await,
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
