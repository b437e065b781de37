//! The HTTP side: reads calls, delivers answers, and cuts or holds connections.

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

/// A server in a thread of its own, on a runtime of its own; it stops when dropped.
///
/// So neither a test that blocks nor a test whose runtime ends can stop it.
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
                .expect("a runtime can be built");
            runtime.block_on(serve(simulation, announce, stopped));
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self {
            address: announced.await.expect("the server gets a port"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed already, and a second one here would abort.
            drop(thread.join());
        }
    }
}

async fn serve(
    simulation: Arc<Simulation>,
    announce: oneshot::Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback interface has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    let service = Router::new()
        .route("/", post(handle))
        .with_state(simulation)
        .into_make_service_with_connect_info::<Connection>();
    // Nobody listens any more when the start was given up; then `stopped` resolves at once.
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
    // In a task of its own, because AWS too carries out a call whose caller has hung up.
    let taken = tokio::spawn(simulation.take_call(request)).await;
    match taken {
        Ok(Delivery::Now(reply)) => reply.into_response(),
        Ok(Delivery::Late(delay, reply)) => {
            sleep(delay).await;
            reply.into_response()
        }
        Ok(Delivery::CutConnection) => {
            connection.cut();
            pending().await
        }
        Ok(Delivery::Never) => pending().await,
        Err(defect) => (StatusCode::INTERNAL_SERVER_ERROR, defect.to_string()).into_response(),
    }
}
