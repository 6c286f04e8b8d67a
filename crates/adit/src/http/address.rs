//! Where the HTTP service listens: `gateway.http`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the HTTP service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// `127.0.0.1:9511`.
    Tcp(SocketAddr),
    /// `unix:///path`.
    Unix(PathBuf),
}

/// A text is no [`HttpAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`off`, `127.0.0.1:9511`, `[::1]:9511` or `unix:///absolute/path`")]
pub struct BadHttpAddress;

impl HttpAddress {
    /// Can only this machine reach it?
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for HttpAddress {
    type Err = BadHttpAddress;

    fn from_str(text: &str) -> Result<Self, BadHttpAddress> {
        if let Some(path) = text.strip_prefix("unix://") {
            // The path names a file, and sockaddr_un has room for 107 octets of it; four are for the name it has first.
            let fits =
                path.starts_with('/') && !path.ends_with('/') && path.len() <= 103 && !path.contains('\0');
            return if fits { Ok(Self::Unix(path.into())) } else { Err(BadHttpAddress) };
        }
        let address: SocketAddr = text.parse().map_err(|_| BadHttpAddress)?;
        if address.port() == 0 { Err(BadHttpAddress) } else { Ok(Self::Tcp(address)) }
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}
