//! The HTTP server for metrics and probes, and the bind addresses of its flags.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use axum::Router;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A value of `--metrics-bind-address` or `--health-probe-bind-address`, in the syntax of
/// controller-runtime.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindAddress {
    /// `0`: disabled.
    Off,
    /// `:8080`: all addresses of the host.
    Port(u16),
    /// `127.0.0.1:8080`: one address.
    Socket(SocketAddr),
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("invalid address {text:?}: expected :PORT, IP:PORT, or 0 to turn it off");
        match text.strip_prefix(':') {
            _ if text == "0" => Ok(Self::Off),
            Some(port) => port.parse().map(Self::Port).map_err(|_| malformed()),
            None => text.parse().map(Self::Socket).map_err(|_| malformed()),
        }
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("0"),
            Self::Port(port) => write!(f, ":{port}"),
            Self::Socket(address) => address.fmt(f),
        }
    }
}

/// Spawns a task that serves `router` for as long as the process lives.
///
/// # Errors
/// Returns an I/O error if the address cannot be bound.
pub async fn serve(address: BindAddress, router: Router) -> std::io::Result<()> {
    let listener = match address {
        BindAddress::Off => return Ok(()),
        BindAddress::Socket(address) if address.ip() == Ipv6Addr::UNSPECIFIED => dual_stack(address.port())?,
        BindAddress::Socket(address) => TcpListener::bind(address).await?,
        BindAddress::Port(port) => match dual_stack(port) {
            Ok(listener) => listener,
            // The host does not support IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?,
        },
    };
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok(())
}

/// Listens on all IPv6 and IPv4 addresses, even if the default of the host (`net.ipv6.bindv6only`)
/// is IPv6 only.
fn dual_stack(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_address_has_the_syntax_of_controller_runtime() {
        for text in ["0", ":8080", "127.0.0.1:8081", "[::1]:9"] {
            assert_eq!(text.parse::<BindAddress>().expect(text).to_string(), text);
        }
        for text in ["", "8080", ":", ":70000", "localhost:8080", "1"] {
            let error = text.parse::<BindAddress>().expect_err(text);
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
