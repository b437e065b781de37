//! An HTTP proxy in front of kube-apiserver that logs each request and injects faults.

mod fault;
mod log;
mod request;
mod watch;

pub use self::{
    fault::{Effect, Fault},
    log::Exchange,
    request::{Request, Verb},
};

use std::{
    fs,
    future::pending,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, State as Shared},
    http::{HeaderMap, Method, Response, StatusCode, Uri, header::CONTENT_TYPE, response::Builder},
    routing::any,
};
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch as signal,
    time::{sleep, timeout},
};

use self::{
    fault::Faults,
    log::{Log, Open},
};
use crate::{connection::Connection, control_plane::ControlPlane, process::Folder};

/// An API proxy on its own port, stopped when dropped. Clients need no certificate and are
/// administrators.
///
/// # Guarantees
/// A request that was received completely is forwarded even if its client disconnects, unless a
/// fault prevents it.
pub struct ApiProxy {
    state: Arc<State>,
    address: SocketAddr,
    folder: Folder,
    serving: tokio::task::JoinHandle<()>,
}

struct State {
    server: Client,
    faults: Mutex<Faults>,
    log: Log,
    /// Number of upcoming watch requests to response with 410 Gone.
    expired_watches: Mutex<u32>,
    faults_applied: signal::Sender<usize>,
    is_cut: signal::Sender<bool>,
}

impl ApiProxy {
    /// Starts a proxy for `plane` on the caller's runtime.
    ///
    /// # Errors
    /// Returns an error if no port can be bound or the kubeconfig cannot be written.
    pub async fn in_front_of(plane: &ControlPlane) -> io::Result<Self> {
        let mut config = plane.config();
        config.default_retry = false;
        let server = Client::try_from(config).map_err(io::Error::other)?;
        let state = Arc::new(State {
            server,
            faults: Mutex::default(),
            log: Log::default(),
            expired_watches: Mutex::default(),
            faults_applied: signal::Sender::new(0),
            is_cut: signal::Sender::new(false),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let folder = Folder::create()?;
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{ "name": "proxy", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "proxy", "user": {} }],
            "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "proxy" } }],
        });
        fs::write(folder.join("kubeconfig"), kubeconfig.to_string())?;
        let service = Router::new()
            .fallback(any(handle))
            .with_state(state.clone())
            .into_make_service_with_connect_info::<Connection>();
        let serving = tokio::spawn(async move {
            axum::serve(listener, service).await.ok();
        });
        Ok(Self { state, address, folder, serving })
    }

    /// Returns the path of a kubeconfig that uses this proxy.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Returns the address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Injects a fault. If several faults match a request, the one injected first applies.
    pub fn fault(&self, fault: Fault) {
        self.state.lock().inject(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.state.lock().clear();
    }

    /// Returns the number of events from all watches of a namespace, without bookmarks.
    #[must_use]
    pub fn events(&self) -> u32 {
        self.state.lock().events()
    }

    /// Returns the number of faults applied so far.
    #[must_use]
    pub fn faults_applied(&self) -> usize {
        *self.state.faults_applied.borrow()
    }

    /// Waits until `count` faults have been applied. Returns false if that takes longer than
    /// `deadline`.
    pub async fn wait_until_faults_applied(&self, count: usize, deadline: Duration) -> bool {
        let mut applied = self.state.faults_applied.subscribe();
        timeout(deadline, applied.wait_for(|applied| *applied >= count)).await.is_ok()
    }

    /// Closes all watches and responds to no request until [`Self::restore`].
    pub fn cut(&self) {
        self.state.is_cut.send_replace(true);
    }

    /// Serves requests again.
    pub fn restore(&self) {
        self.state.is_cut.send_replace(false);
    }

    /// Returns all requests so far.
    #[must_use]
    pub fn log(&self) -> Vec<Exchange> {
        self.state.log.all()
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.cut();
        self.serving.abort();
    }
}

impl State {
    fn request_effect(&self, request: &Request) -> Option<Effect> {
        let effect = self.lock().request_effect(request);
        // A fault of a forwarded request counts as applied once the request has been forwarded.
        if effect.as_ref().is_some_and(|effect| !matches!(effect, Effect::HangReply)) {
            self.count_applied();
        }
        effect
    }

    fn next_event_effect(&self) -> Option<Effect> {
        let effect = self.lock().next_event_effect();
        if effect.is_some() {
            self.count_applied();
        }
        effect
    }

    fn count_applied(&self) {
        self.faults_applied.send_modify(|applied| *applied += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expire_next_watch(&self) {
        *self.expired_watches.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Returns true if this watch must be rejected with 410 Gone, and counts it.
    fn take_expired_watch(&self, request: &Request) -> bool {
        let mut remaining = self.expired_watches.lock().unwrap_or_else(PoisonError::into_inner);
        let is_expired = request.is_watch_of_a_namespace() && *remaining > 0;
        *remaining -= u32::from(is_expired);
        is_expired
    }

    async fn wait_until_cut(&self) {
        self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await.ok();
    }

    async fn forward(&self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
        let mut request = axum::http::Request::new(kube::client::Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let kept = headers.into_iter().filter_map(|(name, value)| Some((name?, value)));
        request.headers_mut().extend(kept.filter(|(name, _)| name != "host"));
        match self.server.send(request).await {
            Ok(response) => response.map(Body::new),
            Err(error) => error_response(502, &error.to_string()),
        }
    }
}

async fn handle(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let request = Request::read(&method, &uri);
    let (is_watch, is_counted) = (request.verb == Verb::Watch, request.is_watch_of_a_namespace());
    let effect = if state.take_expired_watch(&request) {
        Some(Effect::Refuse(410))
    } else {
        state.request_effect(&request)
    };
    let json = serde_json::from_slice(&body).unwrap_or_default();
    let open = state.log.open(request, json, effect.clone());
    if *state.is_cut.borrow() || matches!(effect, Some(Effect::DropRequest)) {
        connection.cut();
        return pending().await;
    }
    match effect {
        Some(Effect::Refuse(status)) => {
            open.record_response(status, Value::Null);
            return error_response(status, "rejected by the test");
        }
        Some(Effect::Hang) => return pending().await,
        _ => {}
    }
    let forwarding = {
        let state = state.clone();
        tokio::spawn(async move { state.forward(method, uri, headers, body).await })
    };
    let Ok(response) = forwarding.await else { return error_response(502, "the proxy is shutting down") };
    if is_watch && response.status() == StatusCode::OK {
        open.record_response(200, Value::Null);
        let (parts, body) = response.into_parts();
        let events = watch::events(state, is_counted, body, open);
        return with_type(Response::builder().status(parts.status), &parts.headers)
            .body(Body::from_stream(events))
            .expect("the response is valid");
    }
    let response = read_body(response).await;
    match effect {
        Some(Effect::DropReply) => {
            connection.cut();
            return pending().await;
        }
        Some(Effect::HangReply) => {
            state.count_applied();
            return pending().await;
        }
        Some(Effect::Delay(delay)) => sleep(delay).await,
        _ => {}
    }
    respond(response, &open)
}

async fn read_body(response: Response<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap_or_default())
}

fn respond((status, headers, body): (StatusCode, HeaderMap, Bytes), open: &Open) -> Response<Body> {
    open.record_response(status.as_u16(), serde_json::from_slice(&body).unwrap_or_default());
    with_type(Response::builder().status(status), &headers)
        .body(Body::from(body))
        .expect("the response is valid")
}

fn with_type(response: Builder, headers: &HeaderMap) -> Builder {
    match headers.get(CONTENT_TYPE) {
        Some(value) => response.header(CONTENT_TYPE, value),
        None => response,
    }
}

/// Returns an error in the format of the API server.
fn error_response(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    let response = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    response.body(Body::from(status.to_string())).expect("the response is valid")
}
