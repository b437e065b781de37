//! A second hold on the socket of an HTTP connection, since the HTTP server offers no way to end one without a reply.

use std::{
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::Arc,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::TcpListener;

#[derive(Clone)]
pub(crate) struct Connection(Arc<TcpStream>);

impl Connection {
    pub(crate) fn cut(&self) {
        // It fails when the caller has hung up, which is just as well.
        drop(self.0.shutdown(Shutdown::Both));
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let descriptor =
            stream.io().as_fd().try_clone_to_owned().expect("the process may open another file descriptor");
        Self(Arc::new(TcpStream::from(descriptor)))
    }
}
