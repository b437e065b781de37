//! A TCP proxy in front of a server that can cut all connections.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A TCP proxy on its own port, stopped when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    is_cut: Arc<watch::Sender<bool>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Starts forwarding connections to `server`, such as `127.0.0.1:6443`.
    ///
    /// # Errors
    /// Returns an error if no port can be bound.
    pub async fn in_front_of(server: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let is_cut = Arc::new(watch::Sender::new(false));
        let (server, cut) = (server.to_owned(), is_cut.clone());
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server.clone(), cut.subscribe()));
            }
        });
        Ok(Self { address, is_cut, serving })
    }

    /// Returns the address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and accepts none until [`Self::restore`].
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Forwards new connections again.
    pub fn restore(&self) {
        self.is_cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.serving.abort();
    }
}

async fn forward(mut client: TcpStream, server: String, mut cut: watch::Receiver<bool>) {
    if *cut.borrow() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.wait_for(|is_cut| *is_cut) => {}
    }
}
