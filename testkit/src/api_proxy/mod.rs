//! A proxy before kube-apiserver that speaks HTTP, logs each request, and lets go wrong what it is told to.

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

/// A proxy on a port of its own, until dropped. Its clients need no certificate and are administrators.
///
/// # Guarantees
/// A request that came in whole is passed on even if its client hangs up, unless a fault says otherwise.
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
    /// How many watches are still to be told that what they ask for is gone.
    gone: Mutex<u32>,
    struck: signal::Sender<usize>,
    is_cut: signal::Sender<bool>,
}

impl ApiProxy {
    /// Begins to serve clients of `plane`, on the caller's runtime.
    ///
    /// # Errors
    /// The system has no port, or takes no more files.
    pub async fn before(plane: &ControlPlane) -> io::Result<Self> {
        let mut config = plane.config();
        config.default_retry = false;
        let server = Client::try_from(config).map_err(io::Error::other)?;
        let state = Arc::new(State {
            server,
            faults: Mutex::default(),
            log: Log::default(),
            gone: Mutex::default(),
            struck: signal::Sender::new(0),
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

    /// The path of a kubeconfig that leads through here.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Plants a fault. When several meet one request, the one planted first strikes.
    pub fn fault(&self, fault: Fault) {
        self.state.lock().plant(fault);
    }

    /// Takes all faults away that have not struck yet.
    pub fn clear_faults(&self) {
        self.state.lock().clear();
    }

    /// How many events, bookmarks apart, came from all watches.
    #[must_use]
    pub fn events(&self) -> u32 {
        self.state.lock().events()
    }

    /// How many faults have struck.
    #[must_use]
    pub fn struck(&self) -> usize {
        *self.state.struck.borrow()
    }

    /// Waits until `count` faults have struck; false where that takes longer than `deadline`.
    pub async fn wait_until_struck(&self, count: usize, deadline: Duration) -> bool {
        let mut struck = self.state.struck.subscribe();
        timeout(deadline, struck.wait_for(|struck| *struck >= count)).await.is_ok()
    }

    /// Cuts all watches, and answers nobody until [`Self::mend`].
    pub fn cut(&self) {
        self.state.is_cut.send_replace(true);
    }

    /// Serves again.
    pub fn mend(&self) {
        self.state.is_cut.send_replace(false);
    }

    /// Every request so far.
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
    fn strike(&self, request: &Request) -> Option<Effect> {
        let effect = self.lock().strike(request);
        // One that is to be passed on first has struck only then.
        if effect.as_ref().is_some_and(|effect| !matches!(effect, Effect::HoldAnswer)) {
            self.count();
        }
        effect
    }

    fn strike_event(&self) -> Option<Effect> {
        let effect = self.lock().strike_event();
        if effect.is_some() {
            self.count();
        }
        effect
    }

    fn count(&self) {
        self.struck.send_modify(|struck| *struck += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_gone(&self) {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Whether this watch asks for what is gone.
    fn is_gone(&self, request: &Request) -> bool {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let is_gone = request.verb == Verb::Watch && *gone > 0;
        *gone -= u32::from(is_gone);
        is_gone
    }

    async fn cut_off(&self) {
        self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await.ok();
    }

    async fn pass_on(&self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
        let mut request = axum::http::Request::new(kube::client::Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let kept = headers.into_iter().filter_map(|(name, value)| Some((name?, value)));
        request.headers_mut().extend(kept.filter(|(name, _)| name != "host"));
        match self.server.send(request).await {
            Ok(answer) => answer.map(Body::new),
            Err(error) => refusal(502, &error.to_string()),
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
    let is_watch = request.verb == Verb::Watch;
    let effect = if state.is_gone(&request) { Some(Effect::Refuse(410)) } else { state.strike(&request) };
    let json = serde_json::from_slice(&body).unwrap_or_default();
    let open = state.log.open(request, json, effect.clone());
    if *state.is_cut.borrow() || matches!(effect, Some(Effect::CutBefore)) {
        connection.cut();
        return pending().await;
    }
    match effect {
        Some(Effect::Refuse(status)) => {
            open.answered(status, Value::Null);
            return refusal(status, "refused by the test");
        }
        Some(Effect::Hang) => return pending().await,
        _ => {}
    }
    let passing = {
        let state = state.clone();
        tokio::spawn(async move { state.pass_on(method, uri, headers, body).await })
    };
    let Ok(answer) = passing.await else { return refusal(502, "the proxy is about to end") };
    if is_watch && answer.status() == StatusCode::OK {
        open.answered(200, Value::Null);
        let (parts, body) = answer.into_parts();
        let events = watch::events(state, body, open);
        return with_type(Response::builder().status(parts.status), &parts.headers)
            .body(Body::from_stream(events))
            .expect("a response of parts that are valid");
    }
    let answer = whole(answer).await;
    match effect {
        Some(Effect::CutAfter) => {
            connection.cut();
            return pending().await;
        }
        Some(Effect::HoldAnswer) => {
            state.count();
            return pending().await;
        }
        Some(Effect::Delay(delay)) => sleep(delay).await,
        _ => {}
    }
    deliver(answer, &open)
}

async fn whole(answer: Response<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = answer.into_parts();
    (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap_or_default())
}

fn deliver((status, headers, body): (StatusCode, HeaderMap, Bytes), open: &Open) -> Response<Body> {
    open.answered(status.as_u16(), serde_json::from_slice(&body).unwrap_or_default());
    with_type(Response::builder().status(status), &headers)
        .body(Body::from(body))
        .expect("a response of parts that are valid")
}

fn with_type(response: Builder, headers: &HeaderMap) -> Builder {
    match headers.get(CONTENT_TYPE) {
        Some(value) => response.header(CONTENT_TYPE, value),
        None => response,
    }
}

/// As the API server refuses.
fn refusal(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message });
    let response = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    response.body(Body::from(status.to_string())).expect("a response of parts that are valid")
}
