//! A second handle on the socket of an HTTP connection: the HTTP server cannot close a connection
//! without a reply.

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
        // Fails if the client has disconnected, which is fine.
        drop(self.0.shutdown(Shutdown::Both));
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let descriptor = stream.io().as_fd().try_clone_to_owned().expect("a file descriptor is available");
        Self(Arc::new(TcpStream::from(descriptor)))
    }
}
